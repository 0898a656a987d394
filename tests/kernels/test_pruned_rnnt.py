"""Pruned RNN-T: all alignments of small lattices, then references, then fast forms, then fast_rnnt."""

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.kernels.pruned_rnnt import (
    TYPES,
    fused_pruned_rnnt_loss,
    prune_ranges,
    pruned_rnnt_loss,
    reference,
    simple_rnnt_loss,
)
from maya.kernels.pruned_rnnt.arcs import ArcRules
from maya.kernels.rnnt import rnnt_loss
from tests.kernels.pruned_cases import (
    BACKENDS,
    BLANK,
    INF,
    SMOOTHING,
    at_windows,
    fused,
    joint_problem,
    leaf,
    problem,
    pruned,
    simple,
    some_ranges,
)

DELAY_PENALTY = 0.3  # of the tests that list alignments
PAYS_BLANK = ("label", "constrained")
Arc = tuple[int, int, str]  # frame left, labels emitted so far, "blank" or "label"


def small_lattices() -> tuple[list[int], list[int]]:
    """T of 1..4 by U of 0..4: for types that take a frame for a label some have no path."""
    frames, labels = zip(*product(range(1, 5), range(5)), strict=True)
    return list(frames), list(labels)


@cache
def alignments(frames: int, labels: int, rnnt_type: str, t: int = 0, u: int = 0) -> list[list[Arc]]:
    """Every list of arcs from (t, u) to (frames, labels)."""
    if t == frames:
        return [[]] if u == labels else []
    takes = 0 if rnnt_type == "regular" else 1
    outputs = [[(t, u, "blank"), *rest] for rest in alignments(frames, labels, rnnt_type, t + 1, u)]
    if u < labels:
        rests = alignments(frames, labels, rnnt_type, t + takes, u + 1)
        outputs += [[(t, u, "label"), *rest] for rest in rests]
    return outputs


def brute_force(
    blank: Tensor, label: Tensor, frames: int, labels: int, rnnt_type: str, windows: Tensor | None = None
) -> Tensor:
    """Loss of one utterance from log probabilities (S, U+1), over the paths that stay in `windows` (S, R).

    A path is a row of counts over all scores, so the loss is a matrix product and a logsumexp.
    """
    rows, gains = [], []
    for path in alignments(frames, labels, rnnt_type):
        scored = path + [(t, u + 1, "blank") for t, u, kind in path if (kind, rnnt_type) == PAYS_BLANK]
        if windows is not None and not all(u in windows[t] for t, u, _ in scored):
            continue
        counts = torch.zeros(2, blank.shape[0], labels + 1, dtype=blank.dtype)
        for t, u, kind in scored:
            counts[int(kind == "label"), t, u] += 1
        rows.append(counts.flatten())
        gains.append(sum(DELAY_PENALTY * ((frames - 1) / 2 - t) for t, _, kind in path if kind == "label"))
    if not rows:
        return blank.new_tensor(INF)
    scores = torch.stack([blank, label])[:, :, : labels + 1].flatten()
    return -torch.logsumexp(torch.stack(rows) @ scores + blank.new_tensor(gains), 0)


def log_probs_of(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of blank and next label, (B, S, U+1); column U of the latter is unused."""
    log_probs = logits.log_softmax(-1)
    index = torch.nn.functional.pad(targets, (0, 1))[:, None, :, None].expand(*logits.shape[:3], 1)
    return log_probs[..., BLANK], log_probs.gather(-1, index)[..., 0]


def smoothed(
    am: Tensor, lm: Tensor, targets: Tensor, labels: Tensor, lm_only: float, am_only: float
) -> tuple[Tensor, Tensor]:
    """The mixture as the paper writes it, of whole tensors."""
    states = [lm[b, : u + 1].softmax(-1) for b, u in enumerate(labels.tolist())]
    unigram = torch.cat(states).mean(0)
    shape = (*am.shape[:2], lm.shape[1], am.shape[2])
    parts = (am[:, :, None] + lm[:, None], lm[:, None], (am + unigram.log())[:, :, None])
    outputs = [log_probs_of(x.expand(shape), targets) for x in parts]
    scales = (1 - lm_only - am_only, lm_only, am_only)
    blank, label = (sum(s * x[i] for s, x in zip(scales, outputs, strict=True)) for i in (0, 1))
    return blank, label


def with_gradient(loss: Tensor, weights: Tensor, *leaves: Tensor) -> list[Tensor]:
    possible = loss.isfinite()
    return list(torch.autograd.grad((loss[possible] * weights[possible]).sum(), leaves))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize(("lm_only", "am_only"), SMOOTHING)
def test_the_simple_loss_is_the_sum_over_all_alignments(
    backend: str, rnnt_type: str, lm_only: float, am_only: float
) -> None:
    frames, labels = small_lattices()
    am, lm, targets, *lens = problem(frames, labels)
    weights = torch.linspace(0.5, 2.0, len(frames))  # a row must get its own incoming gradient
    am, lm = leaf(am), leaf(lm)
    rows = zip(*smoothed(am, lm, targets, lens[1], lm_only, am_only), frames, labels, strict=True)
    expected = torch.stack([brute_force(*row, rnnt_type) for row in rows])
    assert expected.isfinite().all() == (rnnt_type == "regular")

    options = {"lm_only_scale": lm_only, "am_only_scale": am_only, "delay_penalty": DELAY_PENALTY}
    loss, _, _, *grads = simple(
        am, lm, targets, *lens, rnnt_type=rnnt_type, backend=backend, weights=weights, **options
    )
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, with_gradient(expected, weights, am, lm), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("s_range", [1, 2, 3, 9])
def test_the_pruned_loss_is_the_sum_over_alignments_within_the_windows(
    backend: str, rnnt_type: str, s_range: int
) -> None:
    frames, labels = small_lattices()
    am, lm, targets, *lens = problem(frames, labels)
    ranges = some_ranges(*lens, am.shape[1], lm.shape[1], s_range, rnnt_type)
    logits = leaf(at_windows(torch.tanh(am[:, :, None] + lm[:, None]), ranges))
    outside = logits.new_zeros(*am.shape[:2], lm.shape[1], am.shape[2])
    index = ranges[..., None].expand_as(logits)
    dense = outside.scatter(2, index, logits)
    rows = zip(*log_probs_of(dense, targets), frames, labels, ranges, strict=True)
    expected = torch.stack([brute_force(*row[:4], rnnt_type, windows=row[4]) for row in rows])
    weights = torch.linspace(0.5, 2.0, len(frames))

    options = {"rnnt_type": rnnt_type, "delay_penalty": DELAY_PENALTY, "backend": backend, "weights": weights}
    loss, grad = pruned(logits, targets, ranges, *lens, **options)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close([grad], with_gradient(expected, weights, logits), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_every_possible_text_has_a_path_in_its_windows(rnnt_type: str) -> None:
    frames, labels = small_lattices()
    am, lm, targets, *lens = problem(frames, labels)
    for s_range in (1, 2, 3):
        ranges = some_ranges(*lens, am.shape[1], lm.shape[1], s_range, rnnt_type)
        loss, _ = pruned(torch.zeros(*ranges.shape, 6), targets, ranges, *lens, rnnt_type=rnnt_type)
        possible = [rnnt_type == "regular" or u <= t for t, u in zip(frames, labels, strict=True)]
        assert loss.isfinite().tolist() == possible


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_gradcheck(rnnt_type: str) -> None:
    am, lm, targets, *lens = problem([2, 3], [0, 2], vocab=3)
    options = {"blank": BLANK, "rnnt_type": rnnt_type, "delay_penalty": 0.1}
    am.requires_grad_(), lm.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: simple_rnnt_loss(a, b, targets, *lens, lm_only_scale=0.2, am_only_scale=0.1, **options)[
            0
        ],
        (am, lm),
    )
    ranges = some_ranges(*lens, am.shape[1], lm.shape[1], 2, rnnt_type)
    logits = torch.randn(*ranges.shape, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pruned_rnnt_loss(x, targets, ranges, *lens, **options), logits)
    weight, bias = torch.randn(3, 3).double().requires_grad_(), torch.randn(3).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *x: fused_pruned_rnnt_loss(*x, targets, ranges, *lens, activation="tanh", eps=0.0, **options),
        (am, lm, weight, bias),
    )


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "golden/fast_rnnt/pruned_rnnt.pt", weights_only=True)


def close(output: Tensor, expected: Tensor, case: dict[str, Any], atol: float) -> None:
    """fast_rnnt makes the delay penalty in fp32."""
    atol = max(atol, 2e-8) if case["delay_penalty"] else atol
    torch.testing.assert_close(output, expected, rtol=0, atol=atol, check_dtype=False)


@pytest.mark.parametrize("index", range(12))
def test_simple_loss_equals_recorded_fast_rnnt(
    recorded: dict[str, Any], index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, (_, _, labels, frames) = recorded["cases"][index], recorded["boundary"].T
    backends = BACKENDS
    if case["am_only_scale"]:  # fast_rnnt's unigram counts padding; with all positions, the reference agrees
        plain, backends = reference._smoothed, ["reference"]
        monkeypatch.setattr(
            reference,
            "_smoothed",
            lambda am, lm, y, scales: plain(am, lm, replace(y, frames=[14] * 3, labels=[6] * 3), scales),
        )
    keys = ("lm_only_scale", "am_only_scale", "rnnt_type", "delay_penalty")
    options = {key: case[key] for key in keys}
    for backend in backends:
        am, lm = leaf(recorded["am"]), leaf(recorded["lm"])
        loss, px, py = simple_rnnt_loss(
            am, lm, recorded["symbols"], frames, labels, blank=0, backend=backend, **options
        )
        loss.sum().backward()
        close(loss, case["simple_loss"], case, 1e-12)
        close(am.grad, case["grad_am"], case, 1e-12)
        close(lm.grad, case["grad_lm"], case, 1e-12)
        # fast_rnnt's backward multiplies by -1 in place the occupations that it gave away.
        close(px[..., :-1], -case["px_occupation"].transpose(1, 2)[:, :14], case, 1e-12)
        close(py, -case["py_occupation"].transpose(1, 2), case, 1e-12)


@pytest.mark.parametrize("index", range(12))
def test_ranges_and_pruned_loss_equal_recorded_fast_rnnt(recorded: dict[str, Any], index: int) -> None:
    case, (_, _, labels, frames) = recorded["cases"][index], recorded["boundary"].T
    px = torch.nn.functional.pad(case["px_occupation"].transpose(1, 2)[:, :14], (0, 1))
    py = case["py_occupation"].transpose(1, 2)
    ranges = prune_ranges(px, py, frames, labels, s_range=recorded["s_range"], rnnt_type=case["rnnt_type"])
    assert torch.equal(ranges, case["ranges"])
    logits = leaf(case["pruned_logits"].double())
    options = {"rnnt_type": case["rnnt_type"], "delay_penalty": case["delay_penalty"]}
    loss = pruned_rnnt_loss(logits, recorded["symbols"], ranges, frames, labels, blank=0, **options)
    loss.sum().backward()
    close(loss, case["pruned_loss"], case, 2e-7)  # recorded from fp32 logits
    torch.testing.assert_close(logits.grad.float(), case["pruned_grad"], rtol=0, atol=2e-7)


def test_full_loss_equals_recorded_torchaudio(recorded: dict[str, Any]) -> None:
    """torchaudio's in fp32, through windows that hold every position."""
    (_, _, labels, frames), logits = recorded["boundary"].T, leaf(recorded["full_logits"].double())
    ranges = torch.arange(7).expand(3, 14, 7)
    loss = pruned_rnnt_loss(logits, recorded["symbols"], ranges, frames, labels, blank=0)
    loss.sum().backward()
    torch.testing.assert_close(loss.float(), recorded["full_loss_torchaudio"], rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad.float(), recorded["full_grad_torchaudio"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_occupations_sum_to_labels_and_frames(rnnt_type: str, backend: str) -> None:
    am, lm, targets, frames, labels = problem([7, 5, 1, 4], [4, 2, 1, 0])
    _, px, py, _, _ = simple(am, lm, targets, frames, labels, rnnt_type=rnnt_type, backend=backend)
    assert not px.requires_grad and not py.requires_grad
    for b, (t, u) in enumerate(zip(frames.tolist(), labels.tolist(), strict=True)):
        ones = torch.ones(max(t, u), dtype=torch.float64)
        torch.testing.assert_close(px[b].sum(0)[:u], ones[:u])  # each label is emitted once
        of_frame = py[b].sum(1) if rnnt_type == "regular" else (px[b] + py[b]).sum(1)
        torch.testing.assert_close(of_frame[:t], ones[:t])  # each frame is passed once
        torch.testing.assert_close((px + py)[b, 0, 0], ones[0])  # all paths leave the origin
        total = t + u if rnnt_type == "regular" else t
        assert (px + py)[b].sum().item() == pytest.approx(total)
        assert px[b, t:].abs().sum() + py[b, t:].abs().sum() == 0
        assert px[b, :, u:].abs().sum() + py[b, :, u + 1 :].abs().sum() == 0


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_windows_equal_their_definition(rnnt_type: str) -> None:
    rules = ArcRules(rnnt_type)
    for size, width, s_range in product((1, 2, 7, 12), (1, 2, 5, 8), (1, 2, 3, 5, 20)):
        px, py = torch.rand(2, 6, size, width)
        frames, labels = torch.randint(size + 1, (6,)), torch.randint(width, (6,))
        frames[0], labels[1] = size, width - 1
        ranges = prune_ranges(px, py, frames, labels, s_range=s_range, rnnt_type=rnnt_type)
        window = ranges.shape[2]
        assert min(s_range, width) <= window <= width
        assert torch.equal(ranges, ranges[..., :1] + torch.arange(window))
        starts = ranges[..., 0]
        moves, step = starts.diff(dim=1), window - 1 if rnnt_type == "regular" else 1
        assert not starts[:, 0].any() and (moves >= 0).all() and (moves <= step).all()
        assert starts.max() <= width - window
        for b, (t, u) in enumerate(zip(frames.tolist(), labels.tolist(), strict=True)):
            if t and (rnnt_type == "regular" or u < t):
                assert starts[b, t - 1] <= u <= ranges[b, t - 1, -1]
        expected = reference.prune_ranges_reference(px, py, frames.tolist(), labels.tolist(), window, rules)
        assert torch.equal(starts, expected)


def test_windows_cover_the_posterior_mass() -> None:
    """Three labels within two frames, then a long wait, then three more; elsewhere blank is likelier."""
    due, targets = torch.tensor([2, 2, 3, 13, 14, 14]), torch.tensor([[0, 1, 3, 4, 5, 6]])
    am, lm = torch.zeros(1, 16, 7), torch.zeros(1, 7, 7)
    am[..., BLANK] = 15
    am[0, due, targets[0]] = 10
    lm[0, torch.arange(6), targets[0]] = 10
    lens = torch.tensor([16]), torch.tensor([6])
    _, px, py = simple_rnnt_loss(am, lm, targets, *lens, blank=BLANK)
    ranges = prune_ranges(px, py, *lens, s_range=4)
    assert (px + py).gather(2, ranges).sum() / (16 + 6) > 0.99
    # Of the windows that hold all the mass any will do; while none is due, 3 must be in them.
    assert all(3 in window for window in ranges[0, 4:13].tolist())


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_full_windows_give_the_full_loss(rnnt_type: str) -> None:
    am, lm, targets, *lens = problem([6, 4, 3], [4, 2, 0])
    logits = torch.tanh(am[:, :, None] + lm[:, None])
    ranges = some_ranges(*lens, *logits.shape[1:3], 100, rnnt_type)
    assert ranges.shape == logits.shape[:3]
    loss, grad = pruned(logits, targets, ranges, *lens, rnnt_type=rnnt_type)
    if rnnt_type == "regular":
        full = leaf(logits)
        expected = rnnt_loss(full, targets, *lens, blank=BLANK)
        expected.sum().backward()
        torch.testing.assert_close((loss, grad), (expected.detach(), full.grad), rtol=1e-12, atol=1e-12)
    # The simple loss is the loss of the logits am + lm.
    outputs, _, _, grad_am, grad_lm = simple(am, lm, targets, *lens, rnnt_type=rnnt_type)
    loss, grad = pruned(am[:, :, None] + lm[:, None], targets, ranges, *lens, rnnt_type=rnnt_type)
    torch.testing.assert_close(outputs, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((grad_am, grad_lm), (grad.sum(2), grad.sum(1)), rtol=1e-11, atol=1e-12)


def test_delay_penalty_makes_labels_earlier() -> None:
    am, lm, targets, *lens = problem([9, 8], [3, 2])
    times = torch.arange(10.0, dtype=torch.float64)[:, None]
    means = []
    for delay_penalty in (-0.5, 0.0, 0.5):
        _, px, *_ = simple(am, lm, targets, *lens, delay_penalty=delay_penalty)
        means.append((px * times).sum((1, 2)))
    assert (means[0] > means[1]).all() and (means[1] > means[2]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_fused_equals_dense(backend: str, rnnt_type: str, activation: str) -> None:
    f, g, weight, bias, targets, *lens = joint_problem()
    ranges = some_ranges(*lens, f.shape[1], g.shape[1], 3, rnnt_type)
    options = {"rnnt_type": rnnt_type, "delay_penalty": 0.1}
    outputs = fused(
        f, g, weight, bias, targets, ranges, *lens,
        activation=activation, eps=0.0, backend=backend, **options,
    )  # fmt: skip
    leaves = [leaf(x) for x in (f, g, weight, bias)]
    hidden = getattr(torch, activation)(leaves[0][:, :, None] + leaves[1][:, None])
    logits = at_windows(torch.nn.functional.linear(hidden, *leaves[2:]), ranges)
    loss = pruned_rnnt_loss(logits, targets, ranges, *lens, blank=BLANK, **options)
    loss.sum().backward()
    expected = [loss.detach(), *(x.grad for x in leaves)]
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_lattices_in_triton(rnnt_type: str) -> None:
    """Interpreted on a CPU; of the losses of logits only the lattice is a kernel."""
    am, lm, targets, *lens = problem([5, 4, 2, 0], [3, 1, 0, 1], dtype=torch.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    am, lm, targets = am.to(device), lm.to(device), targets.to(device)
    options = {"rnnt_type": rnnt_type, "delay_penalty": 0.1}
    outputs, expected = (simple(am, lm, targets, *lens, backend=x, **options) for x in ("triton", "torch"))
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=2e-6)
    ranges = prune_ranges(*expected[1:3], *lens, s_range=2, rnnt_type=rnnt_type)
    logits = at_windows(am[:, :, None] + lm[:, None], ranges)
    outputs, expected = (
        pruned(logits, targets, ranges, *lens, backend=x, **options) for x in ("triton", "torch")
    )
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=2e-6)


def test_fused_in_triton() -> None:
    """The rows of windows go through the joint's kernels like any others."""
    f, g, weight, bias, targets, *lens = joint_problem(dtype=torch.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    f, g, weight, bias, targets = (x.to(device) for x in (f, g, weight, bias, targets))
    ranges = some_ranges(*lens, f.shape[1], g.shape[1], 3, "regular").to(device)
    rest = (weight, bias, targets, ranges, *lens)
    options = {"eps": 0.0, "dropout": 0.3, "seed": 1}
    outputs, expected = (fused(f, g, *rest, backend=x, **options) for x in ("triton", "torch"))
    for actual, truth in zip(outputs, expected, strict=True):
        torch.testing.assert_close(actual, truth, rtol=1e-5, atol=5e-6 * float(truth.abs().max()))
