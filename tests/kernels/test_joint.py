"""The joint's output layer at rows: scores and gradients against autograd, rows, dropout, input checks."""

import pytest
import torch
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.joint import (
    JointSettings,
    OutputLayer,
    RowCells,
    RowGradients,
    RowList,
    RowMasses,
    RowScores,
    fused_loss,
    joint_gradients,
    joint_scores,
    packed_rows,
)
from maya.kernels.joint.dropout import dropout_scale
from maya.kernels.joint.synthetic import synthetic_problem
from maya.kernels.lattice import rnnt_lattice
from maya.losses import fused_rnnt_loss, fused_tdt_loss, rnnt_loss, tdt_loss

VOCAB, HIDDEN, BLANK = 9, 6, 4


def make(n_durations: int = 0, **options) -> tuple[Tensor, Tensor, OutputLayer, RowList]:
    """f (8, H), g (5, H), a layer, and 23 rows in no order, some of them twice."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, **options)

    durations = (normal(n_durations, HIDDEN), normal(n_durations)) if n_durations else ()
    layer = OutputLayer(normal(VOCAB, HIDDEN), normal(VOCAB), *durations)
    frame, state = torch.randint(8, (23,)), torch.randint(5, (23,))
    label = torch.randint(-1, VOCAB, (23,))
    label[label == BLANK] = -1
    return normal(8, HIDDEN), normal(5, HIDDEN), layer, RowList(torch.zeros(23).long(), frame, state, label)


def by_definition(
    f: Tensor, g: Tensor, layer: OutputLayer, rows: RowList, settings: JointSettings
) -> RowScores:
    h = getattr(torch, settings.activation)(f[rows.frame] + g[rows.state])
    if settings.dropout:
        h = h * dropout_scale(rows, HIDDEN, settings, h.dtype)
    logits = h @ layer.weight.t() + layer.bias
    log_probs = logits.log_softmax(-1)
    label = log_probs.gather(-1, rows.label.clamp(min=0)[:, None])[:, 0]
    durations = None
    if layer.duration_weight is not None:
        durations = (h @ layer.duration_weight.t() + layer.duration_bias).log_softmax(-1)
    label = label.masked_fill(rows.label < 0, float("-inf"))
    return RowScores(logits.logsumexp(-1), log_probs[:, BLANK], label, durations)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("n_durations", [0, 3])
def test_scores_and_gradients_equal_autograd(n_durations: int, activation: str, dropout: float) -> None:
    f, g, layer, rows = make(n_durations)
    parameters = (layer.weight, layer.bias, layer.duration_weight, layer.duration_bias)
    leaves = [x.requires_grad_() for x in (f, g, *parameters) if x is not None]
    settings = JointSettings(BLANK, activation, dropout, seed=11)
    truth = by_definition(f, g, layer, rows, settings)
    blank, label = torch.rand(2, 23, dtype=torch.float64)
    label = label * (rows.label >= 0)
    total = (blank * truth.blank).sum() + (label * truth.label.masked_fill(label == 0, 0.0)).sum()
    duration_grad = None
    if truth.durations is not None:
        weights = torch.rand_like(truth.durations)
        total = total + (weights * truth.durations).sum()
        duration_grad = (weights.sum(-1, keepdim=True) * truth.durations.exp() - weights).detach()
    expected = torch.autograd.grad(-total, leaves)

    with torch.no_grad():
        scores = joint_scores(f, g, layer, rows, settings)
        row_grads = RowGradients(scores.norm, blank, label, duration_grad)
        grads = joint_gradients(f, g, layer, rows, row_grads, settings)
    for x, y in ((scores.norm, truth.norm), (scores.blank, truth.blank), (scores.label, truth.label)):
        torch.testing.assert_close(x, y.detach(), rtol=1e-12, atol=1e-12)
    if truth.durations is not None:
        torch.testing.assert_close(scores.durations, truth.durations.detach(), rtol=1e-12, atol=1e-12)
    for x, y in zip([x for x in grads.tensors if x is not None], expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-12)


def test_an_empty_row_list_is_allowed() -> None:
    f, g, layer, rows = make(2)
    rows = rows.take(torch.empty(0, dtype=torch.int64))
    settings = JointSettings(BLANK)
    scores = joint_scores(f, g, layer, rows, settings)
    assert scores.norm.shape == (0,) and scores.durations is not None
    row_grads = RowGradients(scores.norm, scores.norm, scores.norm, scores.durations)
    grads = joint_gradients(f, g, layer, rows, row_grads, settings)
    assert grads.f is not None and not grads.f.any() and grads.f.shape == f.shape


def test_logits_far_from_zero_do_not_overflow() -> None:
    f, g, layer, rows = make()
    layer.bias = layer.bias + 5000.0
    scores = joint_scores(f.float(), g.float(), layer, rows, JointSettings(BLANK))
    truth = by_definition(f, g, layer, rows, JointSettings(BLANK))
    torch.testing.assert_close(scores.blank.double(), truth.blank, rtol=1e-3, atol=2e-3)
    assert scores.norm.isfinite().all() and scores.norm.min() > 4900


def test_packed_rows_lists_the_valid_cells_in_order() -> None:
    targets = torch.tensor([[5, 6, 7], [8, 0, 0], [3, 3, 3]])
    rows = packed_rows(Transcripts(targets, [2, 1, 0], [2, 0, 3], BLANK), size=4)
    cells = [(0, t, u) for t in range(2) for u in range(3)] + [(1, 0, 0)]
    assert rows.utterance.tolist() == [b for b, _, _ in cells]
    assert rows.frame.tolist() == [4 * b + t for b, t, _ in cells]
    assert rows.state.tolist() == [4 * b + u for b, _, u in cells]
    assert rows.label.tolist() == [5, 6, -1, 5, 6, -1, -1]


def test_gather_inverts_scatter() -> None:
    targets = torch.zeros(2, 3, dtype=torch.int64)
    rows = packed_rows(Transcripts(targets, [4, 2], [3, 1], BLANK), size=5)
    cells = RowCells(rows, (2, 5, 4), "torch")
    values = torch.arange(2.0 * len(rows)).view(-1, 2)
    lattice = cells.scatter(values)
    assert lattice.shape == (2, 5, 4, 2) and lattice.dtype == torch.float64
    assert torch.equal(cells.gather(lattice, torch.float32), values)
    assert lattice.isinf().sum() == lattice.numel() - values.numel()
    assert torch.equal(lattice[1, 1, 1], values[-1].double())


def test_dropout_mask_depends_on_cell_column_and_seed_only() -> None:
    cell = torch.arange(40 * 30)
    rows = RowList(cell * 0, cell // 30, cell % 30, cell)

    def mask(dropout: float, seed: int = 0, rows: RowList = rows) -> Tensor:
        return dropout_scale(rows, 64, JointSettings(BLANK, dropout=dropout, seed=seed), torch.float32)

    for dropout in (0.1, 0.5, 0.9):
        scale = mask(dropout)
        assert set(scale.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - dropout)))}
        assert float(scale.mean()) == pytest.approx(
            1.0, abs=4 * (dropout / (1 - dropout) / scale.numel()) ** 0.5
        )
        for axis in (0, 1):  # no row and no column is special
            spread = (dropout / (1 - dropout) / scale.shape[axis]) ** 0.5
            assert float((scale.mean(axis) - 1).abs().max()) < 5 * spread
    first = mask(0.5)
    assert torch.equal(first, mask(0.5))
    shuffled = torch.randperm(len(rows))
    assert torch.equal(first[shuffled], mask(0.5, rows=rows.take(shuffled)))
    signs = first.sign().double() - 0.5
    for seed in (1, 2, 1 << 31, (1 << 40) + 7):
        other = mask(0.5, seed).sign().double() - 0.5
        assert abs(float((signs * other).mean()) * 4) < 0.02  # uncorrelated with another seed's
    square = signs.view(40, 30, 64)
    for shift, axis in ((1, 0), (1, 1), (1, 2), (3, 1)):  # and with its own neighbours
        assert abs(float((square * square.roll(shift, axis)).mean()) * 4) < 0.02


def test_dropout_mask_equals_its_definition_in_unsigned_32_bit_arithmetic() -> None:
    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    frame, state = torch.tensor([0, 1, 7, 123456]), torch.tensor([5, 0, 1 << 20, 3])
    rows = RowList(frame * 0, frame, state, frame)
    for seed, dropout in ((0, 0.5), (17, 0.1), ((1 << 31) + 3, 0.9), (-4, 0.3)):
        settings = JointSettings(BLANK, dropout=dropout, seed=seed)
        mask = dropout_scale(rows, 50, settings, torch.float32) > 0
        for r, (t, u) in enumerate(zip(frame.tolist(), state.tolist(), strict=True)):
            key = mix((t * 0x9E3779B1 + mix((u + seed) % 2**32)) % 2**32)
            draws = [mix((key + c * 0x85EBCA77) % 2**32) for c in range(50)]
            assert mask[r].tolist() == [x >= int(dropout * 2**32) for x in draws]


def test_occupancies_sum_to_the_number_of_arcs() -> None:
    """Every path of RNN-T leaves S cells by a blank and U by a label."""
    p = synthetic_problem((2, 30, 8, 16, 20), kind="real", dtype=torch.float64)
    frames, labels = [30, 21], [8, 5]
    rows = packed_rows(Transcripts(p.targets, frames, labels, p.blank), 30)
    masses = {}

    def lattice(scores: RowScores) -> RowMasses:
        cells = RowCells(rows, (2, 30, 9), "torch")
        result = rnnt_lattice(
            cells.scatter(scores.blank), cells.scatter(scores.label), frames, labels, with_posteriors=True
        )
        blank, label = (cells.gather(x, torch.float64) for x in (result.blank, result.label))
        masses.update(blank=blank, label=label)
        return RowMasses(-result.log_prob, result.log_prob, blank, label)

    layer = OutputLayer(p.weight.requires_grad_(), p.bias)
    loss = fused_loss(p.f, p.g, layer, rows, lattice, JointSettings(p.blank, eps=0.0))
    loss.sum().backward()
    for b in range(2):
        in_utterance = rows.utterance == b
        assert float(masses["blank"][in_utterance].sum()) == pytest.approx(frames[b])
        assert float(masses["label"][in_utterance].sum()) == pytest.approx(labels[b])
    assert p.weight.grad is not None and torch.isfinite(p.weight.grad).all()


@pytest.mark.parametrize(("eps", "share"), [(0.0, 1.0), (1e-4, 0.6), (0.5, 0.3), (5.0, 0.0)])
def test_backward_visits_only_rows_above_eps(
    eps: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = synthetic_problem((2, 60, 15, 16, 50), kind="sharp", dtype=torch.float64)
    counts = []

    def counting(f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, *rest, **options):
        counts.append(len(rows))
        return joint_gradients(f2, g2, layer, rows, *rest, **options)

    monkeypatch.setattr("maya.kernels.joint.joint_gradients", counting)
    p.f.requires_grad_()
    rest = (p.targets, p.f_lens, p.target_lens)
    fused_rnnt_loss(p.f, p.g, p.weight, p.bias, *rest, blank=p.blank, eps=eps).sum().backward()
    rows = 2 * 60 * 16
    # Half of the cells are beyond any path that leaves a posterior in fp64.
    assert counts[0] <= share * rows and (eps < 5) == (counts[0] > 0)
    assert p.f.grad is not None and (eps < 5) == bool(p.f.grad.any())


@pytest.mark.parametrize("loss", ["fused_rnnt_loss", "fused_tdt_loss"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f": torch.zeros(2, 5)}, r"f must be \(any, any, any\), not \(2, 5\)"),
        ({"f": torch.zeros(2, 5, 3, dtype=torch.int64)}, "f must be floating"),
        ({"f": torch.zeros(2, 5, 3, dtype=torch.bfloat16)}, "g is torch.float32, but f is torch.bfloat16"),
        ({"g": torch.zeros(3, 4, 3)}, "g must be"),
        ({"g": torch.zeros(2, 0, 3)}, "g must have U"),
        ({"g": torch.zeros(2, 3, 3)}, r"targets must be \(2, 2\)"),
        ({"g": torch.zeros(2, 4, 3, device="meta")}, "g is on meta"),
        ({"weight": torch.zeros(6, 4)}, "weight must be"),
        ({"weight": torch.zeros(6, 3, device="meta")}, "weight is on meta"),
        ({"bias": torch.zeros(5)}, "bias must be"),
        ({"bias": torch.zeros(6, dtype=torch.int32)}, "bias must be floating"),
        ({"targets": torch.tensor([[0, 1, 6], [0, 0, 0]])}, "row 0 holds target 6"),
        ({"targets": torch.tensor([[0, 1, 0], [0, -1, 0]])}, "row 1 holds target -1"),
        ({"targets": torch.tensor([[0, BLANK, 0], [0, 0, 0]])}, "row 0 holds target 4"),
        ({"targets": torch.zeros(2, 3)}, "targets must be integers"),
        ({"targets": torch.zeros(2, 3, device="meta", dtype=torch.int64)}, "targets is on meta"),
        ({"f_lens": torch.tensor([5, 6])}, r"f_lens must lie in 0\.\.5 frames, not \[5, 6\]"),
        ({"f_lens": torch.tensor([5, -1])}, "f_lens must lie in"),
        ({"f_lens": torch.tensor([5.0, 5.0])}, "f_lens must be integers"),
        ({"f_lens": torch.tensor([5])}, "f_lens must be"),
        ({"f_lens": torch.tensor([5, 5], device="meta")}, "f_lens is on meta"),
        ({"target_lens": torch.tensor([4, 0])}, r"target_lens must lie in 0\.\.3 labels"),
        ({"blank": 6}, "blank 6"),
        ({"blank": -1}, "blank -1"),
        ({"eps": -1e-4}, "eps must not be negative"),
        ({"eps": float("nan")}, "eps must not be negative"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"dropout": -0.1}, "dropout must lie in"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"backend": "cuda"}, "unknown backend"),
    ],
)
def test_wrong_arguments_are_refused_by_name(loss: str, change: dict, message: str) -> None:
    arguments = {
        "f": torch.zeros(2, 5, 3),
        "g": torch.zeros(2, 4, 3),
        "weight": torch.zeros(6, 3),
        "bias": torch.zeros(6),
        "targets": torch.tensor([[0, 1, 3], [5, 5, 5]]),
        "f_lens": torch.tensor([5, 5]),
        "target_lens": torch.tensor([3, 2]),
        "blank": BLANK,
    }
    function = fused_rnnt_loss
    if loss == "fused_tdt_loss":
        function = fused_tdt_loss
        durations = {"duration_weight": torch.zeros(3, 3), "duration_bias": None, "durations": (0, 1, 2)}
        arguments |= durations
    with pytest.raises(ValueError, match=f"{loss}: .*{message}"):
        function(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"durations": (0, 2, 1)}, "durations must rise"),
        ({"durations": (-1, 0, 1)}, "durations must rise"),
        ({"durations": (0, 1)}, "2 durations"),
        ({"durations": (0, 1, 1.5)}, "durations must be whole"),
        ({"duration_weight": torch.zeros(3, 4)}, "duration_weight must be"),
        ({"duration_weight": torch.zeros(3, 3, device="meta")}, "duration_weight is on meta"),
        ({"duration_bias": torch.zeros(2)}, "duration_bias must be"),
    ],
)
def test_wrong_durations_are_refused(change: dict, message: str) -> None:
    arguments = {
        "f": torch.zeros(1, 5, 3), "g": torch.zeros(1, 2, 3), "weight": torch.zeros(6, 3), "bias": None,
        "duration_weight": torch.zeros(3, 3), "duration_bias": None, "targets": torch.tensor([[1]]),
        "f_lens": torch.tensor([5]), "target_lens": torch.tensor([1]), "blank": BLANK, "durations": (0, 1, 2),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        fused_tdt_loss(**(arguments | change))


def test_a_negative_fastemit_is_refused() -> None:
    given = (torch.zeros(1, 2, 3), torch.zeros(1, 1, 3), torch.zeros(6, 3), None)
    empty = torch.zeros(1, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="fused_rnnt_loss: fastemit"):
        fused_rnnt_loss(*given, empty, torch.tensor([2]), torch.tensor([0]), blank=0, fastemit=-0.1)


def test_losses_of_logits_refuse_mixed_devices_and_wrong_dtypes() -> None:
    logits, targets = torch.zeros(1, 5, 3, 6), torch.tensor([[1, 2]])
    lens = {"logit_lens": torch.tensor([5]), "target_lens": torch.tensor([2]), "blank": BLANK}
    with pytest.raises(ValueError, match="rnnt_loss: targets is on meta"):
        rnnt_loss(logits, targets.to("meta"), **lens)
    with pytest.raises(ValueError, match="rnnt_loss: target_lens must be integers"):
        rnnt_loss(logits, targets, **(lens | {"target_lens": torch.tensor([2.0])}))
    with pytest.raises(ValueError, match="rnnt_loss: logits must be floating"):
        rnnt_loss(logits.long(), targets, **lens)
    with pytest.raises(ValueError, match="tdt_loss: duration_logits is on meta"):
        durations = torch.zeros(1, 5, 3, 2, device="meta")
        tdt_loss(logits, durations, targets, **lens, durations=(0, 1))
