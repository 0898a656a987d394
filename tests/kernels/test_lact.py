"""LaCT against autograd of its inner loss, brute loops, its reference, and itself on padded and cut input."""

import pytest
import torch
from torch import Tensor

from maya.kernels.lact import (
    FastWeights,
    Span,
    chunk_causal,
    initial,
    lact,
    newton_schulz,
    passes,
    row_norms,
    strictly_causal,
    whole,
)
from maya.kernels.lact.newton_schulz import backward, forward_with_history
from maya.kernels.lact.plan import with_gradient
from tests.kernels.lact_cases import ORDERS, Problem, problem

BACKENDS = ("reference", "torch")


def network(w0: Tensor, w1: Tensor, w2: Tensor, x: Tensor) -> Tensor:
    """One utterance, one head, (T, D)."""
    return (torch.nn.functional.silu(x @ w0.T) * (x @ w2.T)) @ w1.T


def by_autograd(p: Problem, plan: list[Span]) -> tuple[Tensor, list[Tensor]]:
    """Row by row and head by head, the inner gradients by autograd of the inner loss; no padding."""
    start = p.weights()
    out = torch.zeros_like(p.leaves["q"])
    after = [w.clone() for w in start[:3]]
    for b in range(p.batch):
        for h in range(out.shape[2]):
            q, k, v, rates = (p.leaves[name][b, :, h] for name in ("q", "k", "v", "rates"))
            weights = [w[b, h] for w in start[:3]]
            norms = [w.norm(dim=1) for w in weights]
            momenta = [torch.zeros_like(w) for w in weights]
            if "m1" in p.leaves:
                momenta = [p.leaves[f"m{i}"][b, h] for i in range(3)]
            for start_frame, end, learns, applies in plan:
                at = slice(start_frame, end)
                if learns:
                    leaves = [w.clone().requires_grad_() for w in weights]
                    scores = (network(*leaves, k[at]) * v[at]).sum(1)
                    for i in range(3):
                        loss = -(rates[at, i] * scores).sum() / (end - start_frame)
                        (gradient,) = torch.autograd.grad(loss, leaves[i], retain_graph=True)
                        step = -gradient
                        if "momentum_gate" in p.leaves:
                            beta = p.leaves["momentum_gate"][b, at, h].mean()
                            step = momenta[i] = beta * momenta[i] + step
                        if p.options.get("orthogonalize") == "muon5":
                            step = newton_schulz(step)
                        moved = weights[i] + step
                        weights[i] = moved / (moved.norm(dim=1, keepdim=True) + 1e-5) * norms[i][:, None]
                if applies:
                    out[b, at, h] = network(*weights, q[at])
            for w_after, w in zip(after, weights, strict=True):
                w_after[b, h] = w
    return out, after


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("momentum", [False, True])
def test_inner_gradients_equal_autograd(order: str, backend: str, momentum: bool) -> None:
    p = problem(momentum=momentum)
    plan = ORDERS[order](p.length)
    out, state = p.run(plan, backend)
    expected, weights = by_autograd(p, plan)
    assert torch.allclose(out, expected, rtol=0, atol=1e-12)
    for actual, exact, before in zip(state[:3], weights, p.weights()[:3], strict=True):
        assert torch.allclose(actual, exact, rtol=0, atol=1e-12)
        assert float((actual - before).abs().max()) > 1e-3  # it has learned


def test_orthogonalised_steps_equal_autograd() -> None:
    p = problem(orthogonalize="muon5")
    for backend in BACKENDS:
        out, _ = p.run(chunk_causal(7, 3), backend)
        assert torch.allclose(out, by_autograd(p, chunk_causal(7, 3))[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_updating_w1_alone_is_linear_attention(backend: str) -> None:
    p = problem(update_weights="w1", normalize="none")
    out, state = p.run(strictly_causal(7, 1), backend)
    x, start = p.leaves, p.weights()
    for b in range(2):
        for h in range(2):
            w0, w1, w2 = (w[b, h] for w in start[:3])
            norms = w1.norm(dim=1)
            for t in range(7):
                q, k, v = (x[name][b, t, h] for name in ("q", "k", "v"))
                feature_q, feature_k = (torch.nn.functional.silu(w0 @ y) * (w2 @ y) for y in (q, k))
                assert torch.allclose(out[b, t, h], w1 @ feature_q, rtol=0, atol=1e-12)
                w1 = w1 + x["rates"][b, t, h, 1] * torch.outer(v, feature_k)
                w1 = w1 / (w1.norm(dim=1) + 1e-5)[:, None] * norms[:, None]
            assert torch.allclose(state.w1[b, h], w1, rtol=0, atol=1e-12)
    assert torch.equal(state.w0, start.w0) and torch.equal(state.w2, start.w2)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("orthogonalize", ["none", "muon5"])
def test_outer_gradients_pass_gradcheck(order: str, orthogonalize: str) -> None:
    p = problem(1, 4, 1, 2, 2, lens=[3], momentum=True, scaled=True, orthogonalize=orthogonalize)
    plan = {
        "whole": whole(4),
        "passes": passes(4, 2),
        "chunk causal": chunk_causal(4, 2),
        "strictly causal": strictly_causal(4, 2),
    }[order]
    names = list(p.leaves)

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        out, state = Problem(dict(zip(names, leaves, strict=True)), p.lens, p.options).run(plan, "torch")
        return out, *(x for x in state if x is not None)

    leaves = [x.requires_grad_() for x in p.leaves.values()]
    assert torch.autograd.gradcheck(run, leaves, atol=1e-6, rtol=1e-5, fast_mode=orthogonalize == "muon5")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": True, "scaled": True, "lens": [7, 2]},
        {"momentum": True, "orthogonalize": "muon5", "lens": [4, 7]},
        {"orthogonalize": "muon5-constant", "scaled": True, "channels": 6, "hidden": 4},
        {"update_weights": "w1", "normalize": "none", "momentum": True, "scaled": True, "lens": [7, 0]},
        {"update_weights": "w1", "orthogonalize": "muon5"},
    ],
    ids=["plain", "momentum", "muon", "muon constant, Dh < D", "w1", "w1 muon"],
)
def test_outer_gradients_equal_autograd_of_the_reference(order: str, options: dict[str, object]) -> None:
    p = problem(**options)  # type: ignore[arg-type]
    plan = ORDERS[order](p.length)
    actual, grads = p.gradients(plan, "torch")
    expected, exact = p.gradients(plan, "reference")
    for x, y in zip(actual, expected, strict=True):
        assert torch.allclose(x, y, rtol=1e-9, atol=1e-10)
    # Newton-Schulz grows the smallest singular values, and with them rounding, by 1e3 each time.
    tolerance = 1e-11 if p.options.get("orthogonalize", "none") == "none" else 1e-9
    for name, x in grads.items():
        assert float((x - exact[name]).norm()) <= tolerance * max(1.0, float(exact[name].norm())), name
        if not (p.options.get("update_weights") == "w1" and name in ("m0", "m2")):
            assert bool(x.any()), name


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("used", [slice(0, 1), slice(1, None), slice(2, 3)], ids=["output", "state", "w1"])
@pytest.mark.parametrize("momentum", [False, True])
def test_unused_results_have_no_gradient(order: str, used: slice, momentum: bool) -> None:
    p = problem(lens=[7, 5], momentum=momentum, scaled=True)
    plan = ORDERS[order](p.length)
    _, grads = p.gradients(plan, "torch", used)
    _, exact = p.gradients(plan, "reference", used)
    for name, x in grads.items():
        assert float((x - exact[name]).norm()) <= 1e-11 * max(1.0, float(exact[name].norm())), name


def test_spans_with_a_gradient() -> None:
    causal = strictly_causal(6, 3)
    assert with_gradient(causal, True, True) == causal
    assert with_gradient(causal, True, False) == causal[:-1]  # nothing reads the last state
    assert with_gradient(causal, False, True) == [Span(0, 3, True, False), Span(3, 6, True, False)]
    assert with_gradient(causal, False, False) == []


def test_results_do_not_depend_on_the_group_size(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(3, lens=[7, 2, 5], momentum=True, scaled=True)
    plan = strictly_causal(7, 3)
    together = p.gradients(plan, "torch")
    monkeypatch.setattr("maya.kernels.lact.autograd.GROUP_ELEMENTS", {"cpu": 1})
    apart = p.gradients(plan, "torch")
    for x, y in zip([*together[0], *together[1].values()], [*apart[0], *apart[1].values()], strict=True):
        assert torch.allclose(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("orthogonalize", ["none", "muon5"])
def test_padding_changes_nothing(order: str, backend: str, orthogonalize: str) -> None:
    p = problem(2, 8, momentum=True, scaled=True, lens=[8, 5], orthogonalize=orthogonalize)
    for name in ("q", "k", "v", "rates", "momentum_gate"):
        p.leaves[name][1, 5:] = float("nan")
    plan = ORDERS[order](8)
    (out, *state), grads = p.gradients(plan, backend)
    frames = {name for name in p.leaves if p.leaves[name].dim() >= 3 and p.leaves[name].shape[:2] == (2, 8)}
    alone = Problem(
        {
            name: (x[1:, :5] if name in frames else x[1:] if name.startswith("m") else x).detach().clone()
            for name, x in p.leaves.items()
        },
        options=p.options,
    )
    cut = [Span(s, min(e, 5), u, a) for s, e, u, a in plan if s < 5]
    single_out, single_state = alone.run(cut, backend)
    assert torch.allclose(out[1:, :5], single_out, rtol=1e-12, atol=1e-12)
    assert not bool(out[1, 5:].any())
    for x, y in zip(state, single_state, strict=True):
        assert y is not None and torch.allclose(x[1:], y, rtol=1e-10, atol=1e-10)
    for name in frames:
        assert not bool(grads[name][1, 5:].any()), name
    assert all(bool(x.isfinite().all()) for x in grads.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orthogonalize", ["none", "muon5"])
def test_a_span_without_frames_changes_nothing(backend: str, orthogonalize: str) -> None:
    p = problem(2, 6, lens=[6, 0], momentum=True, orthogonalize=orthogonalize)
    before = p.weights()
    out, after = p.run(chunk_causal(6, 2), backend)
    for x, y in zip(before, after, strict=True):
        assert x is not None and y is not None
        assert torch.equal(x[1], y[1]) and not torch.equal(x[0], y[0])
    assert not bool(out[1].any())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orthogonalize", ["none", "muon5"])
def test_a_stream_equals_one_call(backend: str, orthogonalize: str) -> None:
    p = problem(2, 9, lens=[9, 5], momentum=True, scaled=True, orthogonalize=orthogonalize)
    x, lens = p.leaves, p.lens
    assert lens is not None
    plan = strictly_causal(9, 2)
    expected, last = p.run(plan, backend)
    state, pieces = p.weights(), []
    norms = row_norms(state)
    for start, end in ((0, 4), (4, 6), (6, 9)):
        at = slice(start, end)
        out, state = lact(
            *(x[name][:, at] for name in ("q", "k", "v", "rates")), state, strictly_causal(end - start, 2),
            lens=(lens - start).clamp(0, end - start), momentum_gate=x["momentum_gate"][:, at],
            step_scale=x["step_scale"], row_norms=norms, orthogonalize=orthogonalize, backend=backend,
        )  # fmt: skip
        pieces.append(out)
        state = state.detach()
    assert torch.allclose(torch.cat(pieces, 1), expected, rtol=0, atol=1e-12)
    for actual, exact in zip(state, last, strict=True):
        assert actual is not None and exact is not None
        assert torch.allclose(actual, exact, rtol=0, atol=1e-12)
    assert state.bytes == 6 * 2 * 2 * 4 * 5 * 8


def test_rows_keep_their_norms() -> None:
    p = problem(length=12)
    _, state = p.run(chunk_causal(12, 2), "torch")
    for actual, start in zip(row_norms(state), row_norms(p.weights()), strict=True):
        assert torch.allclose(actual, start, rtol=1e-4, atol=0)


def test_sum_equals_mean_times_frames() -> None:
    mean, total = problem(lens=[7, 3]), problem(lens=[7, 3], normalize="none")
    total.leaves = dict(mean.leaves)
    total.leaves["rates"] = mean.leaves["rates"] / torch.tensor([7, 3])[:, None, None, None]
    (out, state), (expected, exact) = mean.run(whole(7), "torch"), total.run(whole(7), "torch")
    for x, y in zip([out, *state[:3]], [expected, *exact[:3]], strict=True):
        assert torch.allclose(x, y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("orthogonalize", ["none", "muon5"])
def test_error_in_lower_precision_is_bounded(dtype: torch.dtype, orthogonalize: str) -> None:
    exact = problem(2, 24, 2, 16, 24, lens=[24, 17], momentum=True, orthogonalize=orthogonalize)
    given = exact.to(dtype, torch.float32)
    exact = given.to(torch.float64, torch.float64)  # so that rounding of the inputs is no error
    plain = given.to(dtype, torch.float32)
    wide, truth = exact.gradients(chunk_causal(24, 8), "reference")
    actual, grads = given.gradients(chunk_causal(24, 8), "torch")
    base, of_base = plain.gradients(chunk_causal(24, 8), "reference")  # all products in fp32
    unit = 64 * torch.finfo(dtype).eps
    errors = [((x.double() - y).norm() / y.norm(), (z.double() - y).norm() / y.norm())
              for x, y, z in zip([*actual, *grads.values()], [*wide, *truth.values()],
                                 [*base, *of_base.values()], strict=True)]  # fmt: skip
    for error, of_reference in errors:
        assert float(error) <= (2 * float(of_reference) + 1e-6 if dtype == torch.float32 else unit)


def test_only_inputs_and_states_are_saved_for_backward() -> None:
    p = problem(2, 64, 2, 8, 8)
    for x in p.leaves.values():
        x.requires_grad_()

    def saved(backend: str) -> int:
        held: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            held[x.data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            p.run(chunk_causal(64, 16), backend)
        return sum(held.values())

    frames = sum(p.leaves[name].nbytes for name in ("q", "k", "v", "rates"))
    state = 3 * 2 * 2 * 8 * 8 * 8
    assert frames < saved("torch") <= frames + 6.5 * state  # 4 of the 5 states, row norms, parts of an update
    assert saved("reference") > 3 * saved("torch")


@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (96, 192), (192, 96), (128, 256)])
def test_singular_values_after_orthogonalisation(rows: int, columns: int) -> None:
    values = torch.linalg.svdvals(newton_schulz(torch.randn(8, rows, columns)).double())
    assert float(values.min()) >= 0.6 and float(values.max()) <= 1.2


@pytest.mark.parametrize("size", [64, 192])
def test_smallest_singular_values_of_squares_stay_small(size: int) -> None:
    values = torch.linalg.svdvals(newton_schulz(torch.randn(8, size, size)).double())
    assert float(values.max()) <= 1.2 and float((values >= 0.6).double().mean()) > 0.98
    assert float(values.min()) < 0.6  # README.md has the table


def low_rank(rows: int, columns: int, rank: int) -> Tensor:
    """(4, rows, columns) fp64, as gradients of spans shorter than the matrix are."""
    shapes = (4, rows, rank), (4, rank, columns)
    a, b = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return a @ b


@pytest.mark.parametrize(("rows", "columns", "rank"), [(48, 96, 48), (96, 96, 96), (96, 192, 96)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_newton_schulz_in_fp16_errs_little_at_any_scale(
    rows: int, columns: int, rank: int, scale: float
) -> None:
    x, grad = low_rank(rows, columns, rank), torch.randn(4, rows, columns, dtype=torch.float64)
    exact, history = forward_with_history(x, "muon5", torch.float64)
    of_exact = backward(grad, history, "muon5", torch.float64)
    actual, history = forward_with_history(x.float(), "muon5", torch.float16)
    of_actual = backward(grad.float() * scale, history, "muon5", torch.float32) / scale
    # Rounding to 11 bits, about 20 times in a row, on matrices whose steps have slopes of up to 4 each.
    for y, truth in ((actual, exact), (of_actual, of_exact)):
        assert float((y.double() - truth).norm()) <= 0.02 * float(truth.norm())


@pytest.mark.parametrize(("chunk", "factor"), [(64, 1.5), (32, 4.0)])
def test_newton_schulz_in_fp16_adds_little_to_the_rounding_of_bf16(
    chunk: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 32 frames have gradients of rank 32 of 48: noise in the empty directions grows most there."""
    exact = problem(1, 128, 2, 48, 96, orthogonalize="muon5")
    given = exact.to(torch.bfloat16, torch.float32)
    exact = given.to(torch.float64, torch.float64)
    plan = chunk_causal(128, chunk)
    truth, of_truth = exact.gradients(plan, "torch")

    def errors() -> list[float]:
        out, grads = given.gradients(plan, "torch")
        pairs = zip([*out, *grads.values()], [*truth, *of_truth.values()], strict=True)
        return [float((x.double() - y).norm() / y.norm()) for x, y in pairs]

    wide = errors()
    monkeypatch.setattr("maya.kernels.lact.update.HALF_NEWTON_SCHULZ", ("cpu",))
    half = errors()
    assert half != wide
    assert all(x <= factor * y for x, y in zip(half, wide, strict=True)), (half, wide)


def test_zero_matrix_stays_zero_and_has_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, 4, requires_grad=True)
    made = newton_schulz(x)
    made.sum().backward()
    assert not bool(made.any()) and x.grad is not None and bool(x.grad.isfinite().all())
    for dtype in (torch.float32, torch.float16):
        made, history = forward_with_history(x.detach(), "muon5", dtype)
        grad = backward(torch.ones(2, 3, 4), history, "muon5", torch.float32)
        assert not bool(made.any()) and bool(grad.isfinite().all())
        assert not bool(backward(torch.zeros(2, 3, 4), history, "muon5", torch.float32).any())


def test_spans_of_the_usual_plans() -> None:
    assert whole(5) == [Span(0, 5, True, True)] and whole(0) == []
    assert passes(5, 3) == [Span(0, 3, True, False), Span(3, 5, True, False), Span(0, 5, False, True)]
    assert chunk_causal(5, 3) == [Span(0, 3, True, True), Span(3, 5, True, True)]
    assert strictly_causal(4, 3) == [
        Span(0, 3, False, True), Span(0, 3, True, False), Span(3, 4, False, True), Span(3, 4, True, False)
    ]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_pass_with_a_long_chunk_equals_whole(backend: str) -> None:
    p = problem(orthogonalize="muon5")
    out, state = p.run(passes(p.length, p.length + 3), backend)
    expected, exact = p.run(whole(p.length), backend)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12 if out.dtype == torch.float64 else 1e-5)
    assert all(torch.allclose(a, b) for a, b in zip(state[:3], exact[:3], strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_without_an_apply_are_zero(backend: str) -> None:
    out, _ = problem().run([Span(0, 7, True, False), Span(2, 4, False, True)], backend)
    assert bool(out[:, 2:4].all()) and not bool(out[:, :2].any()) and not bool(out[:, 4:].any())
    p = problem()
    out, state = p.run([], backend)
    assert not bool(out.any())
    assert all(torch.equal(a, b) for a, b in zip(state[:3], p.weights()[:3], strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": [Span(0, 9, True, True)]}, "does not lie in the 7 frames"),
        ({"plan": [Span(0, 3, False, False)]}, "neither updates nor applies"),
        ({"plan": [Span(0, 4, False, True), Span(3, 7, True, True)]}, "apply to the same frames"),
        ({"k": torch.randn(2, 7, 2, 3, dtype=torch.float64)}, r"k must be \(2, 7, 2, 4\)"),
        ({"v": torch.randn(2, 7, 2, 4)}, "v is torch.float32, but q is torch.float64"),
        ({"rates": torch.rand(2, 7, 2)}, "rates must be"),
        ({"momentum_gate": torch.rand(2, 7)}, "momentum_gate must be"),
        ({"step_scale": torch.rand(3)}, "step_scale must be"),
        ({"orthogonalize": "muon"}, "orthogonalize must be one of none, muon5"),
        ({"lens": torch.tensor([7])}, "lens must be"),
        (
            {"lens": torch.tensor([7, 7]), "mask": torch.ones(2, 7) > 0},
            "lens or mask, not both",
        ),
        ({"mask": torch.ones(2, 7)}, "mask must be"),
        ({"backend": "cuda"}, "unknown backend"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change: dict[str, object], message: str) -> None:
    p = problem()
    given = {**{name: p.leaves[name] for name in ("q", "k", "v", "rates")}, "plan": whole(7), **change}
    with pytest.raises(ValueError, match=message):
        lact(weights=p.weights(), **given)  # type: ignore[arg-type]


def test_momentum_without_gate_and_wrong_states_are_refused() -> None:
    p = problem(momentum=True)
    weights = p.weights()
    del p.leaves["momentum_gate"]
    with pytest.raises(ValueError, match="weights hold momentum, but there is no momentum_gate"):
        p.run(whole(7), "torch")
    half = FastWeights(*(x.half() for x in weights[:3]))
    q, k, v, rates = (p.leaves[name] for name in ("q", "k", "v", "rates"))
    with pytest.raises(ValueError, match="must be all float32 or all float64, but w0 is torch.float16"):
        lact(q, k, v, rates, half, whole(7))
    narrow = initial(*(p.leaves[w] for w in ("w0", "w1", "w2")), 1)
    with pytest.raises(ValueError, match="w0 must be"):
        lact(q, k, v, rates, narrow, whole(7))
