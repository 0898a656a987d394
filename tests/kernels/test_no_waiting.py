"""The losses have the host wait for no device: all reads of a step on simulated device tensors are listed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from maya.kernels.joint import kernel
from maya.losses import fused_rnnt_loss, fused_tdt_loss, rnnt_loss, tdt_loss
from tests.no_waiting import no_waiting

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the device is simulated on a CPU")
BLANK = 96
DURATIONS = (0, 1, 2)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def fused_arguments(tdt: bool) -> list[Tensor]:
    durations = [(len(DURATIONS), 20), (len(DURATIONS),)] if tdt else []
    return leaves((2, 7, 20), (2, 4, 20), (97, 20), (97,), *durations)


def transcripts() -> list[Tensor]:
    return [torch.randint(90, (2, 3)), torch.tensor([7, 4]), torch.tensor([3, 1])]


def fused(tdt: bool, given: list[Tensor], lens: list[Tensor], **options) -> Tensor:
    options = {"blank": BLANK, "backend": "triton", "dropout": 0.1, **options}
    if tdt:
        return fused_tdt_loss(*given, *lens, durations=DURATIONS, **options)
    return fused_rnnt_loss(*given, *lens, **options)


def logits_loss(tdt: bool, given: list[Tensor], lens: list[Tensor]) -> Tensor:
    if tdt:
        return tdt_loss(*given, *lens, blank=5, durations=DURATIONS, backend="triton")
    return rnnt_loss(*given, *lens, blank=5, backend="triton")


def waits_of(loss: Callable[[], Tensor], *on_device: Tensor) -> list[str]:
    """Waiting calls of forward and backward."""
    with no_waiting(*on_device) as waits:
        loss().sum().backward()
    return waits


@pytest.mark.parametrize("tdt", [False, True])
@pytest.mark.parametrize("form, eps", [("auto", 1e-4), ("fused", 0.0), ("counted", 0.0), ("cublas", 0.0)])
def test_fused_losses_wait_for_nothing(tdt: bool, form: str, eps: float) -> None:
    given, lens = fused_arguments(tdt), transcripts()
    assert waits_of(lambda: fused(tdt, given, lens, form=form, eps=eps), *given) == []
    assert all(x.grad is not None and x.grad.isfinite().all() for x in given)


@pytest.mark.parametrize("form", ["counted", "cublas"])
def test_forms_with_products_of_cublas_read_the_number_of_rows(form: str) -> None:
    given, lens = fused_arguments(tdt=False), transcripts()
    waits = waits_of(lambda: fused(False, given, lens, form=form), *given)
    assert len(waits) == 1 and waits[0].startswith("nonzero at kernels/joint/__init__.py:")


@pytest.mark.parametrize("tdt", [False, True])
def test_transcripts_on_the_device_are_read_once(tdt: bool) -> None:
    given, lens = fused_arguments(tdt), transcripts()
    waits = waits_of(lambda: fused(tdt, given, lens, **({"omega": 1.0} if tdt else {})), *given, *lens)
    assert len(waits) == 1 and waits[0].startswith("cpu at kernels/host.py:")


@pytest.mark.parametrize("tdt", [False, True])
def test_losses_of_logits_wait_for_nothing(tdt: bool) -> None:
    given = leaves((2, 7, 4, 97), *([(2, 7, 4, len(DURATIONS))] if tdt else []))
    lens = [torch.randint(6, 90, (2, 3)), *transcripts()[1:]]
    assert waits_of(lambda: logits_loss(tdt, given, lens), *given) == []
    assert all(x.grad is not None and x.grad.isfinite().all() for x in given)


@pytest.mark.parametrize("tdt", [False, True])
def test_gradients_of_logits_are_those_of_the_cpu(tdt: bool) -> None:
    """Also of a row without a path, whose logits are nan and whose incoming gradient is inf."""
    given = leaves((2, 7, 4, 97), *([(2, 7, 4, len(DURATIONS))] if tdt else []))
    given[0].data[1] = float("nan")
    lens = [torch.randint(6, 90, (2, 3)), torch.tensor([7, 0]), torch.tensor([3, 1])]
    weights = torch.tensor([2.0, float("inf")])
    grads = [torch.autograd.grad(logits_loss(tdt, given, lens), given, weights)]
    with no_waiting(*given) as waits:
        grads.append(torch.autograd.grad(logits_loss(tdt, given, lens), given, weights))
    assert waits == []
    for x, y in zip(*grads, strict=True):
        assert torch.equal(x, y) and not x[1].any()


def test_chunks_past_the_count_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row a chunk, and an eps that most rows do not reach."""
    given, lens = fused_arguments(tdt=True), transcripts()
    exact = torch.autograd.grad(fused(True, given, lens, eps=0.2, backend="torch").sum(), given)
    monkeypatch.setattr(kernel, "ROW_STEP", 16)
    monkeypatch.setattr(kernel, "LOGIT_BYTES", 1)
    counted = torch.autograd.grad(fused(True, given, lens, eps=0.2).sum(), given)
    for x, y in zip(counted, exact, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def reading(x: Tensor) -> dict[str, Callable[[], object]]:
    return {
        "item": lambda: x[0].item(), "bool": lambda: bool(x[0] > 0), "tolist": lambda: x.tolist(),
        "nonzero": lambda: (x > 0).nonzero(), "masked_select": lambda: x.masked_select(x > 0),
        "mask": lambda: x[x > 0], "set by a mask": lambda: x.index_put_((x > 0,), torch.ones_like(x)),
        "cpu": lambda: x.cpu(), "to": lambda: x.to("cpu"), "numpy": lambda: x.numpy(),
        "a list": lambda: torch.tensor([1, 2], device=x.device),
        "a blocking copy": lambda: torch.ones(5).to(x.device), "copy_": lambda: x.copy_(torch.ones(5)),
        "repeats": lambda: torch.arange(5).repeat_interleave(x.long().abs()),
    }  # fmt: skip


@pytest.mark.parametrize("name", reading(torch.ones(5)))
def test_each_way_to_read_is_listed(name: str) -> None:
    x = torch.rand(5) + 1
    with no_waiting(x) as waits:
        reading(x)[name]()
    assert waits and all("tests/kernels/test_no_waiting.py:" in wait for wait in waits)


def test_the_host_may_read_its_own_tensors_and_results_of_a_read() -> None:
    x, lens = torch.ones(3), torch.tensor([1, 2])
    with no_waiting(x) as waits:
        assert lens.tolist() == [1, 2] and bool((lens > 0).all())
        moved = lens.to(x.device, non_blocking=True)
        y = x * 2 + torch.arange(3, device=x.device)
        y[y > 3] = 0.0  # filled by the mask
    assert waits == []
    with no_waiting(x, allowed=["test_no_waiting.py"]) as waits:
        x.cpu().tolist()
    assert waits == []
    with no_waiting(x, moved) as waits:
        x.cpu().tolist()
        moved.tolist()
    assert [wait.split(" at ")[0] for wait in waits] == ["cpu", "tolist"]


def test_a_module_is_on_the_device_with_its_gradients() -> None:
    layer = nn.Linear(3, 3)
    layer(torch.ones(3)).sum().backward()
    with no_waiting(layer) as waits:
        assert layer.weight.grad is not None and layer.weight.grad.sum().item() != 0
        layer.weight.norm().item()
    assert len(waits) == 2
