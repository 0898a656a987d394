"""ScaledAdam against its formulas in plain Python; its state, clipping and handling of NaN."""

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from maya.errors import MayaError
from maya.train.optimizers import scaled_adam
from maya.train.optimizers.scaled_adam import ScaledAdam

Grads = list[list[float]]
SHAPES = [(), (1,), (5,), (2, 3), (5,), (3, 2), (1, 1, 1), (7, 11), (3, 2, 2)]
CHECKED = (0, 1, 3, 4, 9, 10, 11, 19, 20, 21, 39, 40, 41, 99, 100, 101, 199, 200, 204)


class Plain:
    """The update in Python floats, one number at a time, from the formulas of Yao et al. and icefall's
    constants; parameters and gradients are flat lists."""

    def __init__(self, params: Grads, clip: float | None = 2.0) -> None:
        self.p, self.clip, self.k = [list(x) for x in params], clip, 0
        self.v = [[0.0] * len(x) for x in params]
        self.m = [[0.0] * len(x) for x in params]
        self.rms = [self.root_mean_square(x) for x in params]
        self.pg: list[list[float]] = [[] for _ in params]
        self.w = [0.0] * len(params)
        self.norms: list[float] = []
        self.threshold = math.inf

    @staticmethod
    def root_mean_square(x: list[float]) -> float:
        return math.sqrt(math.fsum(a * a for a in x) / len(x))

    def factor(self, grads: Grads) -> float:
        squares = []
        for p, rms, g in zip(self.p, self.rms, grads, strict=True):
            squares += [(a * (0.1 if len(p) == 1 else rms)) ** 2 for a in g]
        norm = math.sqrt(math.fsum(squares))
        if self.clip is None or self.k == 0:
            return 1.0
        self.norms.append(norm)
        if self.k in (10, 20, 40):
            self.threshold = 2 * self.clip * sorted(self.norms)[self.k // 4 * 2]
        elif self.k % 100 == 0:
            self.threshold = self.clip * sorted(self.norms[-100:])[50]
        return min(1.0, self.threshold / (norm + 1e-20))

    def step(self, grads: Grads, lr: float) -> None:
        c = self.factor(grads)
        for i, p in enumerate(self.p):
            g = [a * c for a in grads[i]]
            growth, rate = self.sizes(i, g, lr)
            for j in range(len(p)):
                self.v[i][j] = 0.98 * self.v[i][j] + 0.02 * g[j] ** 2
                correction = 1 - 0.98 ** (self.k + 1)
                v = self.v[i][j] / correction if correction < 0.99 else self.v[i][j]
                u = -lr * rate * g[j] / (math.sqrt(v) + 1e-8) + growth * p[j]
                self.m[i][j] = 0.9 * self.m[i][j] + 0.1 * u
            for j in range(len(p)):
                p[j] += self.m[i][j]
                if len(p) == 1:
                    p[j] = min(10.0, max(-10.0, p[j]))
        self.k += 1

    def sizes(self, i: int, g: list[float], lr: float) -> tuple[float, float]:
        if len(g) == 1:
            return 0.0, 0.1
        self.pg[i] = [*self.pg[i], math.fsum(a * b for a, b in zip(self.p[i], g, strict=True))][-4:]
        if self.k % 4 != 3:
            return 0.0, max(self.rms[i], 1e-5)
        self.rms[i] = rms = self.root_mean_square(self.p[i])
        self.w[i] = 0.98**4 * self.w[i] + (1 - 0.98**4) * sum(x * x for x in self.pg[i]) / 4
        growth = (
            -lr * 0.1 * math.sqrt(1 - 0.98 ** (self.k + 1)) * sum(self.pg[i]) / (math.sqrt(self.w[i]) + 1e-8)
        )
        growth = 0.0 if rms < 1e-5 else max(-0.1, min(0.1, growth))
        return min(growth, (3.0 - rms) / rms), max(rms, 1e-5)


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Parameters just above and below the smallest rms, at the largest rms, and a scalar at its limit."""
    g = torch.Generator().manual_seed(7)
    made = [torch.randn(s, generator=g, dtype=torch.float64) for s in SHAPES]
    made[3] *= 1.2e-5
    made[4] *= 2e-6
    made[5] *= 2.99 / float(made[5].square().mean().sqrt())
    made[1].fill_(9.99)
    return [nn.Parameter(x.to(dtype)) for x in made]


def gradients(params: list[nn.Parameter], step: int) -> list[Tensor]:
    """Noise with a drift that shrinks and grows tensors, and a few much larger steps."""
    g = torch.Generator().manual_seed(1000 + step)
    loud = 60.0 if step in (12, 30, 60, 101, 150, 199) else 1.0 + step / 100
    noise = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in params]
    signs = [1 if i % 2 else -1 for i in range(len(params))]
    return [(loud * (n + 0.5 * s * torch.sign(p.detach().double()))).to(p.dtype)
            for n, s, p in zip(noise, signs, params, strict=True)]  # fmt: skip


def named(params: list[nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
    return [(f"p{i}", p) for i, p in enumerate(params)]


def run(optimizer: ScaledAdam, params: list[nn.Parameter], steps: range) -> None:
    for k in steps:
        for p, g in zip(params, gradients(params, k), strict=True):
            p.grad = g
        optimizer.step()


@pytest.mark.parametrize("lr", [0.045, 0.001, 0.5])
@pytest.mark.parametrize("clip", [2.0, None])
def test_every_step_equals_the_formulas(lr: float, clip: float | None) -> None:
    params = parameters()
    plain = Plain([p.flatten().tolist() for p in params], clip)
    optimizer = ScaledAdam(named(params), lr=lr, clipping_scale=clip)
    hard = 0
    for k in range(205):
        grads = gradients(params, k)
        rate = lr * (1 + k / 50) ** -0.5
        optimizer.param_groups[0]["lr"] = rate
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        plain.step([g.flatten().tolist() for g in grads], rate)
        hard += optimizer.clippings()[0].factor < 0.5
        if k in CHECKED:
            for p, expected in zip(params, plain.p, strict=True):
                torch.testing.assert_close(
                    p.detach().flatten(), torch.tensor(expected).double(), rtol=1e-6, atol=0
                )
            assert optimizer.param_groups[0]["clip_threshold"] == pytest.approx(plain.threshold, rel=1e-9)
    assert (hard > 3) == (clip is not None)  # the boundary was crossed


def test_fp32_follows_fp64() -> None:
    exact, params = parameters(), parameters(torch.float32)
    a, b = ScaledAdam(named(exact)), ScaledAdam(named(params))
    for k in range(205):
        for p, q, g in zip(exact, params, gradients(exact, k), strict=True):
            p.grad, q.grad = g, g.float()
        a.step()
        b.step()
    for p, q in zip(exact, params, strict=True):
        torch.testing.assert_close(q.double(), p, rtol=1e-4, atol=1e-4 * float(p.detach().abs().max()))


@pytest.mark.parametrize("limit", [0, 6])
def test_stacking_of_parameters_changes_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked, single = parameters(), parameters()
    run(ScaledAdam(named(stacked)), stacked, range(60))
    monkeypatch.setattr(scaled_adam, "CPU_STACK", limit)
    monkeypatch.setattr(scaled_adam, "CPU_BLOCK", 4)
    run(ScaledAdam(named(single)), single, range(60))
    for p, q in zip(stacked, single, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-9, atol=0)


def test_non_contiguous_parameter() -> None:
    plain, params = parameters(), parameters()
    params[7] = nn.Parameter(params[7].detach().t().contiguous().t())
    assert not params[7].is_contiguous()
    run(ScaledAdam(named(plain)), plain, range(30))
    run(ScaledAdam(named(params)), params, range(30))
    torch.testing.assert_close(params[7], plain[7], rtol=1e-9, atol=0)


def saved(optimizer: ScaledAdam) -> dict:
    """The state after saving and loading, as in a checkpoint."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("at", [1, 6, 45, 103])
def test_saved_state_continues_bit_for_bit(at: int) -> None:
    params = parameters(torch.float32)
    optimizer = ScaledAdam(named(params))
    run(optimizer, params, range(at))
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = ScaledAdam(named(copies), lr=1.0)
    resumed.load_state_dict(saved(optimizer))
    assert resumed.param_groups[0]["lr"] == 0.045
    run(optimizer, params, range(at, at + 20))
    run(resumed, copies, range(at, at + 20))
    assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))
    assert all(
        not isinstance(v, Tensor) or v.isfinite().all() for s in resumed.state.values() for v in s.values()
    )


def test_new_parameter_starts_fresh_and_others_continue() -> None:
    params = parameters()
    optimizer = ScaledAdam(named(params))
    run(optimizer, params, range(50))
    state = saved(optimizer)
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    new = nn.Parameter(torch.ones(5, dtype=torch.float64))  # of the size of others
    pairs = named(copies)
    grown = ScaledAdam([*pairs[4:], ("new", new), *pairs[:4]])  # another order, too
    grown.load_state_dict(state)
    assert not grown.state[new] and int(grown.state[copies[2]]["step"]) == 50
    for p, q in zip(params, copies, strict=True):
        for key, value in optimizer.state[p].items():
            torch.testing.assert_close(grown.state[q][key], value, rtol=0, atol=0)
    for p, q in zip(params, copies, strict=True):
        p.grad = q.grad = torch.ones_like(p) / 100
    new.grad = torch.zeros_like(new)
    optimizer.step()
    grown.step()
    for p, q in zip(params, copies, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-12, atol=0)
    assert int(grown.state[new]["step"]) == 1 and int(grown.state[copies[2]]["step"]) == 51
    fewer = ScaledAdam(pairs[1:3])
    fewer.load_state_dict(state)
    assert len(fewer.state) == 2


def test_state_of_another_shape_is_refused() -> None:
    params = parameters()
    optimizer = ScaledAdam(named(params))
    run(optimizer, params, range(2))
    other = [(n, nn.Parameter(torch.ones(2, 4)) if n == "p3" else p) for n, p in named(params)]
    with pytest.raises(MayaError, match=r"state of p3 is for \(2, 3\), the parameter is \(2, 4\)"):
        ScaledAdam(other).load_state_dict(saved(optimizer))
    with pytest.raises(ValueError, match="doesn't match the size"):
        ScaledAdam(params[:3]).load_state_dict(saved(optimizer))
    unnamed, copies = ScaledAdam(params), parameters()
    run(unnamed, params, range(3))
    again = ScaledAdam(copies)
    again.load_state_dict(saved(unnamed))
    assert int(again.state[copies[0]]["step"]) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("when", [0, 3, 55])
def test_non_finite_gradient_counts_as_zero(bad: float, when: int) -> None:
    params, zeroed = parameters(), parameters()
    a, b = ScaledAdam(named(params)), ScaledAdam(named(zeroed))
    for k in range(when + 8):
        for i, (p, q, g) in enumerate(zip(params, zeroed, gradients(params, k), strict=True)):
            p.grad = g.clone()
            q.grad = g if k != when else torch.zeros_like(g)
            if k == when and i in (2, 5):
                p.grad.view(-1)[1] = bad
        a.step()
        b.step()
        if k == when:
            last = a.clippings()[0]
            assert last.factor == 0 and not math.isfinite(last.norm) and last.parameter == "p2"
            assert "not finite, first in p2" in str(last)
    assert all(p.isfinite().all() for p in params)
    if when < 10:  # afterwards the norm of that step enters the median
        for p, q in zip(params, zeroed, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=0)


def test_mostly_non_finite_gradients_are_an_error() -> None:
    params = parameters()
    optimizer = ScaledAdam(named(params))
    with pytest.raises(MayaError, match="half of the last 10 steps"):
        for _ in range(11):
            for p in params:
                p.grad = torch.full_like(p, math.nan)
            optimizer.step()
    assert all(p.isfinite().all() for p in params)


def test_hard_clipping_names_the_parameter() -> None:
    params = parameters()
    optimizer = ScaledAdam(named(params))
    run(optimizer, params, range(11))
    for p in params:
        p.grad = torch.ones_like(p) / 10
    params[7].grad = torch.full_like(params[7], 1000.0)
    before = params[7].grad.clone()
    optimizer.step()
    (last,) = optimizer.clippings()
    assert last.parameter == "p7" and last.share > 0.9 and last.factor < 0.1
    assert last.factor == pytest.approx(last.threshold / last.norm)
    assert "p7 makes up" in str(last) and torch.equal(params[7].grad, before)  # gradients are only read
    nameless = ScaledAdam(params)
    nameless.step()
    assert nameless.clippings()[0].parameter == "parameter 7 of shape (7, 11)"
    new = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))  # its size counts from its first step on
    new.grad = torch.full_like(new, 1e6)
    optimizer.add_param_group({"params": [("new", new)]})
    optimizer.step()
    assert optimizer.clippings()[1].norm == pytest.approx(2e6)


def test_parameter_without_gradient_is_unchanged_and_joins_later() -> None:
    params = parameters()
    late, start = params[2], params[2].detach().clone()
    optimizer = ScaledAdam(named(params), clipping_scale=None)
    for k in range(9):
        for p, g in zip(params, gradients(params, k), strict=True):
            p.grad = None if p is late and k < 5 else g
        optimizer.step()
        if k == 4:
            assert torch.equal(late, start) and late not in optimizer.state
    assert int(optimizer.state[late]["step"]) == 4 and int(optimizer.state[params[4]]["step"]) == 9
    alone = nn.Parameter(start.clone())
    single = ScaledAdam([alone], clipping_scale=None)
    reference = parameters()
    full = ScaledAdam(named(reference), clipping_scale=None)
    for k in range(9):
        grads = gradients(reference, k)
        for p, g in zip(reference, grads, strict=True):
            p.grad = g
        full.step()
    torch.testing.assert_close(params[4], reference[4], rtol=1e-9, atol=0)  # stacked with it, not disturbed
    for k in range(5, 9):
        alone.grad = gradients([*params[:2], alone], k)[2]
        single.step()
    torch.testing.assert_close(alone, late, rtol=1e-9, atol=0)


def test_limits_of_scalars_and_rms() -> None:
    scalar, large = nn.Parameter(torch.tensor(9.9)), nn.Parameter(torch.full((4, 4), 2.9))
    optimizer = ScaledAdam([scalar, large], lr=0.5)
    for _ in range(400):
        scalar.grad, large.grad = -torch.ones(()), -torch.ones(4, 4)
        optimizer.step()
    assert scalar.item() == 10.0
    # The scale stops growing at an rms of 3. Adam's own step is not limited (as in icefall).
    assert float(optimizer.state[large]["param_rms"]) >= 3.0


def test_groups_have_their_own_rate_and_their_own_clipping() -> None:
    quiet, loud = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    optimizer = ScaledAdam([{"params": [quiet], "lr": 0.0}, {"params": [loud], "lr": 0.1}])
    for k in range(12):
        quiet.grad = torch.ones(3, 3)
        loud.grad = torch.ones(3, 3) * (100.0 if k == 11 else 1.0)
        optimizer.step()
    assert torch.equal(quiet, torch.ones(3, 3)) and loud.max().item() < 1
    first, second = optimizer.clippings()
    assert first.factor == 1 and second.factor < 0.1


def test_copies_and_schedulers_work_like_torch_optimizers() -> None:
    params = parameters()
    optimizer = ScaledAdam(named(params), lr=0.04)
    run(optimizer, params, range(6))
    copies, twin = copy.deepcopy((params, optimizer))
    run(optimizer, params, range(6, 12))
    run(twin, copies, range(6, 12))
    assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))
    assert twin.param_groups[0]["params"][3] is copies[3]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    optimizer.zero_grad()
    optimizer.step()  # no gradients: nothing to do


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(MayaError, match="half is torch.bfloat16"):
        ScaledAdam([("half", nn.Parameter(torch.ones(2, dtype=torch.bfloat16)))])
    with pytest.raises(TypeError, match="no closure"):
        ScaledAdam(parameters()).step(lambda: 0.0)  # type: ignore[arg-type, return-value]
    empty = nn.Parameter(torch.ones(0, 4))
    empty.grad = torch.ones(0, 4)
    ScaledAdam([empty, nn.Parameter(torch.ones(1))]).step()
