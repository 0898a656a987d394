"""Pruned RNN-T and what real batches bring: padding, empty or impossible texts, half precision, mistakes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maya.kernels.pruned_rnnt import (
    TYPES,
    fused_pruned_rnnt_loss,
    prune_ranges,
    pruned_rnnt_loss,
    simple_rnnt_loss,
)
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


def test_fused_skips_rows_without_mass_with_the_same_dropout_mask() -> None:
    f, g, weight, bias, targets, *lens = joint_problem()
    ranges = some_ranges(*lens, f.shape[1], g.shape[1], 4, "regular")
    rest = (weight, bias, targets, ranges, *lens)
    whole, compact = (fused(f, g, *rest, eps=eps) for eps in (0.0, 1e-4))
    assert torch.equal(whole[0], compact[0])
    scale = max(float(x.abs().max()) for x in whole[1:])
    torch.testing.assert_close(compact[1:], whole[1:], rtol=0, atol=1e-3 * scale)
    nothing = fused(f, g, *rest, eps=10.0)
    assert not any(x.any() for x in nothing[1:])

    options = {"dropout": 0.4, "eps": 0.0}
    dropped = [fused(f, g, *rest, seed=3, backend=backend, **options) for backend in BACKENDS]
    torch.testing.assert_close(*dropped, rtol=1e-10, atol=1e-11)
    assert not torch.equal(dropped[0][0], fused(f, g, *rest, seed=4, **options)[0])


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_a_row_alone_equals_the_row_in_a_batch(rnnt_type: str) -> None:
    f, g, weight, bias, targets, frames, labels = joint_problem()
    options = {"rnnt_type": rnnt_type, "lm_only_scale": 0.25}
    batch = simple(f, g, targets, frames, labels, **options)
    ranges = some_ranges(frames, labels, f.shape[1], g.shape[1], 3, rnnt_type)
    whole = fused(f, g, weight, bias, targets, ranges, frames, labels, rnnt_type=rnnt_type, eps=0.0)
    for b, (t, u) in enumerate(zip(frames.tolist(), labels.tolist(), strict=True)):
        row = slice(b, b + 1)
        short = f[row, :t], g[row, : u + 1]
        lens = frames[row], labels[row]
        alone = simple(*short, targets[row, :u], *lens, **options)
        cut = (
            batch[0][row],
            *(x[row, :t, : u + 1] for x in batch[1:3]),
            batch[3][row, :t],
            batch[4][row, : u + 1],
        )
        torch.testing.assert_close(alone, cut, rtol=1e-11, atol=1e-12)
        # Its windows may be as wide as the batch's only if its text is long enough.
        if ranges[row, :t].max() <= u:
            loss, df, dg, *_ = fused(
                *short, weight, bias, targets[row, :u], ranges[row, :t], *lens, rnnt_type=rnnt_type, eps=0.0
            )
            cut = whole[0][row], whole[1][row, :t], whole[2][row, : u + 1]
            torch.testing.assert_close((loss, df, dg), cut, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_is_never_read_and_gets_zero_gradient(backend: str) -> None:
    f, g, weight, bias, targets, frames, labels = joint_problem()
    ranges = some_ranges(frames, labels, f.shape[1], g.shape[1], 3, "regular")
    logits = torch.randn(*ranges.shape, 12, dtype=torch.float64)
    options = {"backend": backend}
    smoothing = {"lm_only_scale": 0.2, "am_only_scale": 0.1, **options}

    def all_losses() -> list[Tensor]:
        lens = frames, labels
        return [
            *simple(f, g, targets.clamp(max=7), *lens, **smoothing),
            *pruned(logits, targets, ranges, *lens, **options),
            *fused(f, g, weight, bias, targets, ranges, *lens, eps=0.0, **options),
        ]

    clean = all_losses()
    for b, (t, u) in enumerate(zip(frames.tolist(), labels.tolist(), strict=True)):
        f[b, t:] = g[b, u + 1 :] = logits[b, t:] = float("nan")
        logits[b][ranges[b] > u] = float("nan")
        targets[b, u:] = -100
        ranges[b, t:] = 1000
    spoilt = all_losses()
    assert all(torch.equal(a, b) for a, b in zip(clean, spoilt, strict=True))
    for b, t in enumerate(frames.tolist()):
        assert not any(x[b, t:].any() for x in (spoilt[3], spoilt[6], spoilt[8]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [0, 3])
def test_batches_with_only_empty_texts(backend: str, width: int) -> None:
    am, lm = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, width + 1, 6, dtype=torch.float64)
    targets, lens = torch.full((2, width), -1), (torch.tensor([5, 3]), torch.tensor([0, 0]))
    expected = -torch.stack(
        [(am[b, :t] + lm[b, 0]).log_softmax(-1)[:, BLANK].sum() for b, t in enumerate((5, 3))]
    )
    for rnnt_type in TYPES:
        options = {"rnnt_type": rnnt_type, "backend": backend}
        loss, px, py, *grads = simple(am, lm, targets, *lens, am_only_scale=0.0, **options)
        torch.testing.assert_close(loss, expected)
        assert all(x.isfinite().all() for x in grads)
        ranges = prune_ranges(px, py, *lens, s_range=3, rnnt_type=rnnt_type)
        assert ranges.shape == (2, 5, min(3, width + 1)) and not ranges[..., 0].any()
        logits = (am[:, :, None] + lm[:, None])[:, :, : ranges.shape[2]]
        loss, grad = pruned(logits, targets, ranges, *lens, **options)
        torch.testing.assert_close(loss, expected)
        assert grad.isfinite().all()
        identity = torch.eye(6, dtype=torch.float64)
        shifted = am + 50, lm  # so that relu lets all through
        outputs = fused(*shifted, identity, identity[0] * 0, targets, ranges, *lens, eps=0.0, **options)
        torch.testing.assert_close(outputs[0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rnnt_type", TYPES)
def test_impossible_rows_are_infinite_with_zero_gradient(backend: str, rnnt_type: str) -> None:
    """No frames; a label of probability 0; more labels than frames; windows that never meet; a good row."""
    frames, labels = torch.tensor([0, 4, 2, 4, 4]), torch.tensor([0, 2, 3, 2, 2])
    am, lm, targets, *_ = problem([4] * 5, [3] * 5)
    targets[:, 1] = 5
    am[1, :, 5] = -INF
    ranges = torch.arange(4).expand(5, 5, 4)
    # What a mean over the batch sends back into an infinite loss must not spoil it either.
    weights = torch.tensor([INF, float("nan"), INF, INF, 1.0])
    options = {"rnnt_type": rnnt_type, "backend": backend}
    impossible = [True, True, rnnt_type != "regular", False, False]
    weights[[not x for x in impossible]] = 1.0
    loss, px, py, *grads = simple(am, lm, targets, frames, labels, weights=weights, **options)
    logits = am[:, :, None] + lm[:, None, :4]
    dense, dense_grad = pruned(logits, targets, ranges, frames, labels, weights=weights, **options)
    for value, parts in ((loss, [px, py, *grads]), (dense, [dense_grad])):
        assert (value == INF).tolist() == impossible
        for part in parts:
            assert part.isfinite().all() and not part[torch.tensor(impossible)].any()
            assert part[4].abs().max() > 0
    windows = torch.tensor([[0], [0], [2], [2], [2]]).expand(5, 5, 1)
    lens, weights = (frames, torch.full((5,), 2)), torch.full((5,), INF)
    apart, grad = pruned(logits[:, :, :1], targets, windows, *lens, weights=weights, **options)
    assert (apart == INF).all() and not grad.any()


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_distant_peaks_and_masked_tokens_are_normalised_exactly(
    smoothing: tuple[float, float],
) -> None:
    """am and lm favour different tokens by 300 nats, so every product of exponentials underflows in fp32."""
    am, lm, targets, *lens = problem([6, 4], [3, 2], vocab=9, dtype=torch.float32)
    am[0, :, 0] += 300
    lm[0, :, 1] += 250
    am[1, :, 8] = -INF  # a token that the batch never uses
    targets = targets.clamp(max=7)
    options = dict(zip(("lm_only_scale", "am_only_scale"), smoothing, strict=True))
    outputs = simple(am, lm, targets, *lens, **options)
    truth = simple(am.double(), lm.double(), targets, *lens, backend="reference", **options)
    torch.testing.assert_close(outputs[0].double(), truth[0], rtol=1e-6, atol=0)
    for actual, true in zip(outputs[1:], truth[1:], strict=True):
        torch.testing.assert_close(
            actual.double(), true, rtol=0, atol=1e-5 * max(1.0, float(true.abs().max()))
        )


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_error_for_large_logits_is_at_most_twice_that_of_the_definition(offset: float) -> None:
    """Log probabilities near 0 of logits far from 0, of which a long path adds up the rounding."""
    am, lm, targets, *lens = problem([60, 45], [5, 3], vocab=12, dtype=torch.float32)
    am[..., BLANK] += 12
    am += offset
    ranges = some_ranges(*lens, am.shape[1], lm.shape[1], 3, "regular")
    logits = at_windows(am[:, :, None] + lm[:, None], ranges)
    identity, zero = torch.eye(12), torch.zeros(12)
    cases = (
        (simple, (am, lm, targets, *lens), {}),
        (pruned, (logits, targets, ranges, *lens), {}),
        (fused, (am + 20, lm, identity, zero, targets, ranges, *lens), {"eps": 0.0}),  # relu does nothing
    )
    for loss, arguments, options in cases:
        wide = [x.double() if x.is_floating_point() else x for x in arguments]
        truth, plain, actual = (
            [x.double() for x in loss(*given, backend=backend, **options)]
            for given, backend in ((wide, "reference"), (arguments, "reference"), (arguments, "torch"))
        )
        for true, by_definition, ours in zip(truth, plain, actual, strict=True):
            assert (ours - true).norm() <= 2 * (by_definition - true).norm() + 1e-6 * true.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly_and_autocast_has_no_effect(dtype: torch.dtype) -> None:
    am, lm, targets, *lens = problem([30, 11], [8, 3], vocab=40, dtype=dtype)
    options = {"lm_only_scale": 0.2, "am_only_scale": 0.1}
    truth = simple(am.double(), lm.double(), targets, *lens, **options)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = simple(am, lm, targets, *lens, **options)
    assert [x.dtype for x in outputs] == [torch.float32] * 3 + [dtype] * 2
    torch.testing.assert_close(outputs[0].double(), truth[0], rtol=1e-6, atol=1e-6)
    assert all(
        torch.equal(a, b) for a, b in zip(outputs, simple(am, lm, targets, *lens, **options), strict=True)
    )
    for actual, true in zip(outputs[1:], truth[1:], strict=True):
        rounding = 0 if actual.dtype == torch.float32 else torch.finfo(dtype).eps / 2
        torch.testing.assert_close(actual.double(), true, rtol=rounding, atol=5e-6)


def test_inputs_need_not_be_contiguous() -> None:
    f, g, weight, bias, targets, *lens = joint_problem()
    ranges = some_ranges(*lens, f.shape[1], g.shape[1], 3, "regular")
    logits = torch.randn(*ranges.shape, 12, dtype=torch.float64)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (f, g, weight, targets, ranges, logits)]
    assert not any(x.is_contiguous() for x in turned)
    f2, g2, weight2, targets2, ranges2, logits2 = turned
    few = targets.clamp(max=7)
    pairs = (
        (simple(f, g, few, *lens), simple(f2, g2, few, *lens)),
        (pruned(logits, targets, ranges, *lens), pruned(logits2, targets2, ranges2, *lens)),
        (
            fused(f, g, weight, bias, targets, ranges, *lens),
            fused(f2, g2, weight2, bias, targets2, ranges2, *lens),
        ),
    )
    for packed, strided in pairs:
        torch.testing.assert_close(list(packed), list(strided), rtol=1e-12, atol=1e-13)


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made; views count as what they show."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Tensor):
                self.largest = max(self.largest, x.numel())
        return out


def test_simple_loss_allocates_no_joint_tensor() -> None:
    batch, size, labels, vocab = 2, 30, 12, 70
    am, lm = (leaf(torch.randn(batch, n, vocab)) for n in (size, labels + 1))
    targets = torch.randint(2, (batch, labels))
    lens = torch.full((batch,), size), torch.full((batch,), labels)
    with _Largest() as made:
        loss, _, _ = simple_rnnt_loss(
            am, lm, targets, *lens, blank=BLANK, lm_only_scale=0.2, am_only_scale=0.1
        )
        loss.sum().backward()
    # The lattice: two sweeps, two kinds of arc, skewed.
    assert made.largest <= max(am.numel(), 4 * batch * (size + labels + 1) * (labels + 1))
    assert made.largest < batch * size * (labels + 1) * vocab / 8


def simple_arguments() -> dict[str, Any]:
    return {
        "am": torch.zeros(1, 5, 6), "lm": torch.zeros(1, 4, 6), "targets": torch.tensor([[0, 1, 3]]),
        "am_lens": torch.tensor([5]), "target_lens": torch.tensor([3]), "blank": BLANK,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "cuda"}, "unknown backend"),
        ({"blank": 6}, "blank 6"),
        ({"rnnt_type": "tdt"}, "rnnt_type"),
        ({"lm_only_scale": -0.1}, "lm_only_scale"),
        ({"am_only_scale": 1.1}, "am_only_scale"),
        ({"lm_only_scale": 0.7, "am_only_scale": 0.7}, "lm_only_scale and am_only_scale"),
        ({"delay_penalty": INF}, "delay_penalty"),
        ({"am": torch.zeros(5, 6)}, "am must be"),
        ({"am": torch.zeros(1, 5, 6).long()}, "am must be floating"),
        ({"lm": torch.zeros(1, 4, 7)}, "lm must be"),
        ({"lm": torch.zeros(1, 4, 6).double()}, "lm is torch.float64"),
        ({"lm": torch.zeros(1, 4, 6, device="meta")}, "lm is on meta"),
        ({"targets": torch.tensor([[0, BLANK, 1]])}, "row 0 holds target 2"),
        ({"targets": torch.tensor([[0, 6, 1]])}, "row 0 holds target 6"),
        ({"targets": torch.tensor([[0, 1]])}, "targets must be"),
        ({"am_lens": torch.tensor([6])}, r"am_lens must lie in 0..5"),
        ({"target_lens": torch.tensor([4])}, r"target_lens must lie in 0..3"),
        ({"target_lens": torch.tensor([2.0])}, "target_lens must be integers"),
    ],
)
def test_the_simple_loss_refuses_wrong_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simple_rnnt_loss(**(simple_arguments() | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"px_occupation": torch.zeros(1, 5, 3)}, "py_occupation must be"),
        ({"s_range": 0}, "s_range"),
        ({"rnnt_type": "tdt"}, "rnnt_type"),
        ({"am_lens": torch.tensor([6])}, "am_lens"),
        ({"target_lens": torch.tensor([4])}, "target_lens"),
    ],
)
def test_prune_ranges_refuses_wrong_arguments(change: dict[str, Any], message: str) -> None:
    px, py = torch.zeros(2, 1, 5, 4)
    lens = {"am_lens": torch.tensor([5]), "target_lens": torch.tensor([3])}
    with pytest.raises(ValueError, match=message):
        prune_ranges(**({"px_occupation": px, "py_occupation": py, "s_range": 2, **lens} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranges": torch.tensor([0, 2]).expand(1, 5, 2)}, "consecutive positions"),
        ({"ranges": torch.tensor([3, 4]).expand(1, 5, 2)}, "consecutive positions"),
        ({"ranges": torch.tensor([-1, 0]).expand(1, 5, 2)}, "consecutive positions"),
        ({"ranges": torch.tensor([0.0, 1.0]).expand(1, 5, 2)}, "ranges must be integers"),
        ({"ranges": torch.tensor([0, 1]).expand(1, 4, 2)}, "ranges must be"),
        ({"ranges": torch.tensor([0, 1], device="meta").expand(1, 5, 2)}, "ranges is on meta"),
        ({"rnnt_type": "tdt"}, "rnnt_type"),
        ({"targets": torch.tensor([[0, BLANK, 1]])}, "row 0 holds target 2"),
    ],
)
def test_the_pruned_losses_refuse_wrong_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {
        "targets": torch.tensor([[0, 1, 3]]), "ranges": torch.tensor([0, 1]).expand(1, 5, 2),
        "target_lens": torch.tensor([3]), "blank": BLANK,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        pruned_rnnt_loss(
            **({"logits": torch.zeros(1, 5, 2, 6), "am_lens": torch.tensor([5]), **arguments} | change)
        )
    joint = {"f": torch.zeros(1, 5, 3), "g": torch.zeros(1, 4, 3), "weight": torch.zeros(6, 3), "bias": None}
    with pytest.raises(ValueError, match=message):
        fused_pruned_rnnt_loss(**({**joint, "f_lens": torch.tensor([5]), **arguments} | change))
