"""Launches, bytes and host waits of LaCT, counted on tensors without data."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maya.kernels.lact import Span, _mask, chunk_causal, passes, strictly_causal, whole
from maya.kernels.lact.traffic import Traffic, counting, step_traffic
from tests.kernels.lact_cases import problem

SYNCHRONISING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


def total(parts: dict[str, Traffic]) -> tuple[int, float]:
    return sum(x.launches for x in parts.values()), sum(x.bytes for x in parts.values()) / 1e9


# Launches and GB of a layer's step at B=32, S=500, D=768 in 4 heads, as README.md states them, and a little
# room. Before these were counted, they were 156 and 6.06, 947 and 20.1, 2043 and 186.
BUDGETS: dict[str, tuple[list[Span], dict[str, str], int, float]] = {
    "whole": (whole(500), {}, 110, 3.35),
    "8 chunks": (chunk_causal(500, 63), {}, 305, 11.1),
    "8 chunks, muon5": (chunk_causal(500, 63), {"orthogonalize": "muon5"}, 1190, 72.0),
}


@pytest.mark.parametrize("case", BUDGETS)
def test_launches_and_bytes_stay_in_budget(case: str) -> None:
    plan, options, launches, gigabytes = BUDGETS[case]
    counter = step_traffic(plan, **options)
    actual = total(counter.parts)
    assert actual[0] <= launches and actual[1] <= gigabytes, actual


def test_bytes_grow_with_the_frames() -> None:
    small, large = (total(step_traffic(whole(n), frames=n).parts)[1] for n in (500, 1000))
    assert 1.4 * small < large < 2 * small


def test_counts_of_known_operators() -> None:
    x, y = torch.empty(4, 8, 16, device="meta"), torch.empty(16, 3, device="meta").expand(4, 16, 3)
    with counting() as counter:
        z = torch.bmm(x.transpose(1, 2).mT, y)  # views are free, and y counts once
        z.add_(1)
        z.copy_(z.clone())
        torch.empty_like(z)
    out = 4 * 8 * 3 * 4
    sizes = {name.strip(): (x.launches, x.bytes) for name, x in counter.by_name.items()}
    assert sizes == {
        "aten::bmm": (1, 4 * x.numel() + 4 * 16 * 3 + out), "aten::add_": (1, 2 * out),
        "aten::clone": (1, 2 * out), "aten::copy_": (1, 2 * out),
    }  # fmt: skip
    assert counter.parts[""].peak == 4 * x.numel() + 2 * out  # z and its clone


@pytest.mark.parametrize("options", [{}, {"orthogonalize": "muon5"}, {"update_weights": "w1"}], ids=str)
def test_no_value_of_a_device_is_read(options: dict[str, str]) -> None:
    """Reading one from a tensor without data raises."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.empty(1, device="meta"))
    for plan in (whole(20), passes(20, 6, 2), chunk_causal(20, 6), strictly_causal(20, 6)):
        step_traffic(plan, 2, 20, 32, 2, **options)


class NoWaits(TorchDispatchMode):
    """Raises for operators that make the host wait for the device, and for copies that would."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        assert name not in SYNCHRONISING, name
        device = kwargs.get("device")
        if name == "_to_copy" and device is not None and device != args[0].device:
            assert kwargs.get("non_blocking"), "a copy to another device waits"
        return func(*args, **kwargs)


def test_lengths_on_the_cpu_do_not_wait_for_the_device() -> None:
    q = torch.empty(2, 7, 2, 4, device="meta")
    with NoWaits():
        mask = _mask(q, torch.tensor([7, 3]), None)
    assert mask is not None and mask.device.type == "meta" and mask.shape == (2, 7)


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("orthogonalize", ["none", "muon5"])
def test_a_step_reads_nothing_back(momentum: bool, orthogonalize: str) -> None:
    p = problem(2, 9, lens=[9, 4], momentum=momentum, scaled=True, orthogonalize=orthogonalize)
    leaves = [x.requires_grad_() for x in p.leaves.values()]
    with NoWaits():
        out, _ = p.run(chunk_causal(9, 4), "torch")
        torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)
    with NoWaits(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        out.sum().item()
