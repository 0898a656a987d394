"""What the gate launches: the operators' Triton forms in production shapes, on a pretended device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.ctc import CTCLoss
from maya.kernels.gate.pretence import backward
from maya.kernels.lact import Span, chunk_causal, initial, lact, whole
from maya.kernels.lattice import rnnt_lattice, tdt_lattice
from maya.kernels.lattice.kernel import MAX_DURATION
from maya.kernels.pruned_rnnt import simple_rnnt_loss
from maya.kernels.rnnt.fused import fused_rnnt_loss
from maya.kernels.tdt.fused import fused_tdt_loss

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
DURATIONS, LONG = (0, 1, 2, 3, 4), tuple(range(MAX_DURATION + 1))
BATCH, FRAMES, LABELS, HIDDEN = 16, 250, 60, 640


@dataclass(frozen=True, slots=True)
class GateCase:
    """run: the launches; called on a pretended device. quick: whether `--quick` has it.

    exact: its products must not use tensor cores (fp32 without TF32).
    """

    name: str
    run: Callable[[], None]
    quick: bool = False
    exact: bool = False


def cases() -> list[GateCase]:
    """Every later case shows only kernels that no earlier one has compiled."""
    return [*_lattice_cases(), *_ctc_cases(), *_joint_cases(), *_pruned_cases(), *_lact_cases()]


def _joint_cases() -> Iterator[GateCase]:
    full = partial(run_joint, dtype=BF16)
    yield GateCase("bf16 V=32769", full, quick=True)
    yield GateCase("bf16 V=32768", partial(full, vocab=32768))
    yield GateCase("bf16 V=32769 without bias", partial(full, bias=None))
    yield GateCase("bf16 V=32769 bf16 bias", partial(full, bias=BF16))
    yield GateCase("bf16 V=32769 frozen layer", partial(full, frozen=True))
    yield GateCase("bf16 V=32769 counted", partial(full, form="counted"), quick=True)
    yield GateCase("bf16 V=32769 cuBLAS", partial(full, form="cublas"), quick=True)
    narrow = (BATCH, FRAMES, LABELS, 512)
    yield GateCase("bf16 V=5001 H=512 tanh", partial(full, vocab=5001, shape=narrow, activation="tanh"))
    yield GateCase("bf16 sigmoid without dropout", partial(full, activation="sigmoid", dropout=0.0))
    yield GateCase("fp16 V=32769", partial(run_joint, dtype=FP16))
    yield GateCase("fp16 V=32769 cuBLAS", partial(run_joint, dtype=FP16, form="cublas"))
    yield GateCase("fp16 V=32769 tanh", partial(run_joint, dtype=FP16, activation="tanh"))
    yield GateCase("fp32 V=32769", partial(run_joint, dtype=FP32), quick=True, exact=True)
    yield GateCase("fp32 V=32769 cuBLAS", partial(run_joint, dtype=FP32, form="cublas"), exact=True)
    yield GateCase("TF32 V=32769", partial(with_tf32, partial(run_joint, dtype=FP32)))
    # Triton turns sizes of 1 into constants, so a batch of this size compiles other kernels.
    tiny = partial(run_joint, shape=(1, 1, 0, 40), vocab=33, durations=())
    yield GateCase("bf16 one frame V=33 H=40", partial(tiny, dtype=BF16))


def _lattice_cases() -> Iterator[GateCase]:
    for width in (61, 201, 1024):
        yield GateCase(f"RNN-T U+1={width}", partial(run_rnnt, width), quick=width == 61)
    for width in (61, 1024):
        name = f"RNN-T U+1={width}, labels take a frame"
        yield GateCase(name, partial(run_rnnt, width, label_ends=True))
    usual = ((61, DURATIONS), (128, DURATIONS), (201, DURATIONS), (1024, DURATIONS))
    for width, durations in (*usual, (61, (1, 2)), (61, LONG), (256, LONG)):
        name = f"TDT U+1={width}, durations {durations[0]}-{durations[-1]}"
        run = partial(run_tdt, width, durations)
        yield GateCase(name, run, quick=width == 61 and durations == DURATIONS)
    yield GateCase("RNN-T one frame", partial(run_rnnt, 1, batch=1, frames=1))
    yield GateCase("TDT one frame", partial(run_tdt, 1, DURATIONS, batch=1, frames=1))


def _ctc_cases() -> Iterator[GateCase]:
    for width in (61, 201, 1024):
        yield GateCase(f"CTC U+1={width}", partial(run_ctc, width), quick=width == 61)
    yield GateCase("CTC one frame", partial(run_ctc, 2, batch=1, frames=1))


def _pruned_cases() -> Iterator[GateCase]:
    yield GateCase("bf16 simple V=501", partial(run_simple, BF16), quick=True)
    yield GateCase("fp16 simple V=501", partial(run_simple, FP16))
    yield GateCase("fp32 simple V=501", partial(run_simple, FP32))


def _lact_cases() -> Iterator[GateCase]:
    yield GateCase("bf16 whole", partial(run_lact, BF16, whole(500)), quick=True)
    chunks = chunk_causal(500, 64)
    ragged = partial(run_lact, plan=chunks, lens=True, step_scale=True)
    yield GateCase(
        "bf16 chunks, lens, momentum, step scale", partial(ragged, BF16, momentum=True), quick=True
    )
    yield GateCase("bf16 chunks, only w1", partial(ragged, BF16, update_weights="w1"))
    yield GateCase("bf16 chunks, Muon", partial(ragged, BF16, orthogonalize="muon5"))
    yield GateCase("bf16 whole D=64", partial(run_lact, BF16, whole(500), channels=64))
    yield GateCase("fp16 whole", partial(run_lact, FP16, whole(500)))
    yield GateCase("fp32 whole", partial(run_lact, FP32, whole(500)), quick=True, exact=True)
    yield GateCase("TF32 whole", partial(with_tf32, partial(run_lact, FP32, whole(500))))


def run_joint(
    *,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int] = (BATCH, FRAMES, LABELS, HIDDEN),
    vocab: int = 32769,
    bias: torch.dtype | None = FP32,
    durations: tuple[int, ...] = DURATIONS,
    activation: str = "relu",
    frozen: bool = False,
    **options: Any,
) -> None:
    """The fused TDT loss, or RNN-T without durations, and its gradients. shape: B, S, U, H.

    V is odd: a model's V is its vocabulary and the blank. Parameters are fp32, as under autocast. frozen: the
    layer learns nothing. One utterance is shorter, so that the number of rows is odd. The forms that read the
    number of rows back visit all rows (eps = 0).
    """
    batch, size, labels, hidden = shape
    zeros = partial(torch.zeros, device="cuda")
    f, g = (zeros(batch, n, hidden, dtype=dtype, requires_grad=True) for n in (size, labels + 1))
    layer: list[Any] = [zeros(vocab, hidden), None if bias is None else zeros(vocab, dtype=bias)]
    if durations:
        layer += [zeros(len(durations), hidden), zeros(len(durations))]
    for x in layer:
        if x is not None:
            x.requires_grad_(not frozen)
    f_lens, target_lens = torch.full((batch,), size), torch.full((batch,), labels)
    if batch > 1:
        f_lens[-1] -= 1
        target_lens[-1] -= 1
    named: dict[str, Any] = {"activation": activation, "dropout": 0.2, "form": "fused", "backend": "triton"}
    named |= options
    if named["form"] != "fused":
        named["eps"] = 0.0
    lens: Any = (torch.ones(batch, labels, dtype=torch.int64), f_lens, target_lens)
    if durations:
        backward(fused_tdt_loss(f, g, *layer, *lens, durations=durations, blank=0, **named))
    else:
        backward(fused_rnnt_loss(f, g, *layer, *lens, blank=0, **named))


def run_rnnt(width: int, *, batch: int = BATCH, frames: int = FRAMES, label_ends: bool = False) -> None:
    cells = torch.zeros(batch, frames, width, device="cuda")
    lens = ([frames] * batch, [width - 1] * batch)
    rnnt_lattice(cells, cells, *lens, with_posteriors=True, label_ends=label_ends, backend="triton")


def run_tdt(width: int, durations: Sequence[int], *, batch: int = BATCH, frames: int = FRAMES) -> None:
    cells = torch.zeros(batch, frames, width, device="cuda")
    scores, lens = (
        cells[..., None].expand(-1, -1, -1, len(durations)),
        ([frames] * batch, [width - 1] * batch),
    )
    tdt_lattice(
        cells, cells, scores, *lens, durations=durations, with_posteriors=True, backend="triton"
    )  # fmt: skip


def run_ctc(width: int, *, batch: int = BATCH, frames: int = FRAMES) -> None:
    log_probs = torch.zeros(batch, frames, 1025, device="cuda", requires_grad=True)
    targets = torch.ones(batch, width - 1, dtype=torch.int64, device="cuda")
    backward(CTCLoss.apply(log_probs, Transcripts(targets, [frames] * batch, [width - 1] * batch, 0)))


def run_simple(dtype: torch.dtype) -> None:
    """The simple loss of pruned RNN-T, whose weak cells have kernels of their own."""
    am, lm = (
        torch.zeros(BATCH, n, 501, dtype=dtype, device="cuda", requires_grad=True)
        for n in (FRAMES, LABELS + 1)
    )
    targets, lens = (
        torch.ones(BATCH, LABELS, dtype=torch.int64),
        (torch.full((BATCH,), FRAMES), torch.full((BATCH,), LABELS)),
    )
    backward(simple_rnnt_loss(am, lm, targets, *lens, blank=0, backend="triton")[0])


def run_lact(
    dtype: torch.dtype, plan: Sequence[Span], *, channels: int = 192, lens: bool = False,
    step_scale: bool = False, momentum: bool = False, **options: Any,
) -> None:  # fmt: skip
    """B=32, 20 s, D=768 in 4 heads; hidden layers of twice a head's channels, as a new layer has them."""
    batch, frames, heads, hidden = 32, 500, 4, 2 * channels

    def zeros(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device="cuda", requires_grad=True)

    q, k, v = (zeros(batch, frames, heads, channels, dtype=dtype) for _ in range(3))
    up, down = (heads, hidden, channels), (heads, channels, hidden)
    out, _ = lact(
        q, k, v, zeros(batch, frames, heads, 3), initial(zeros(*up), zeros(*down), zeros(*up), batch), plan,
        lens=torch.tensor([frames] * (batch - 1) + [frames - 1]) if lens else None,
        momentum_gate=zeros(batch, frames, heads) if momentum else None,
        step_scale=zeros(heads) if step_scale else None, backend="triton", **options,
    )  # fmt: skip
    backward(out)


@contextmanager
def tf32_allowed() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def with_tf32(run: Callable[[], None]) -> None:
    with tf32_allowed():
        run()
