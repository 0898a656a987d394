"""The named cases: operators, settings, and the bars that their figures must reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from maya.kernels.bench.check import ROUNDING, Check
from maya.kernels.bench.measure import Setting
from maya.kernels.bench.table import FormResult, Result
from maya.kernels.lact.bench import cost

TORCHAUDIO = "materialised, torchaudio"
PLAIN = "plain autograd"
TRITON_FORMS = ("fused, Triton", "counted, Triton", "cuBLAS, Triton")
GIGABYTE = 1e9


@dataclass(slots=True)
class CaseFigures:
    """The checks and results of one operator in one case."""

    checks: list[Check]
    results: list[Result]

    def form(self, name: str, where: dict[str, object]) -> FormResult | None:
        """The form on the first setting whose fields equal those of `where`."""
        for result in self.results:
            if all(getattr(result.setting, key) == value for key, value in where.items()):
                return result.form(name)
        return None


@dataclass(frozen=True, slots=True)
class Bar:
    """An upper limit of a figure. measure: returns None if a form that it needs was not run."""

    what: str
    limit: float
    unit: str
    measure: Callable[[CaseFigures], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCase:
    """A named set of settings, and its purpose in one line.

    kind: "times" (and memory), "memory" (one run of each form that fits) or "errors" (only the check, on
    these settings instead of small ones). forms: the forms to measure; all if empty.
    """

    name: str
    why: str
    settings: dict[str, tuple[Setting, ...]]  # by operator
    bars: dict[str, tuple[Bar, ...]] = field(default_factory=dict)
    kind: str = "times"
    forms: tuple[str, ...] = ()
    device: str = "cpu"


def ratio(what: str, form: str, over: str, **where: object) -> Callable[[CaseFigures], float | None]:
    """`what`, a field of `FormResult`, of one form over that of another."""

    def measure(measured: CaseFigures) -> float | None:
        values = [getattr(measured.form(name, where), what, None) for name in (form, over)]
        return values[0] / values[1] if values[0] is not None and values[1] else None

    return measure


def value(what: str, form: str, unit: float = 1.0, **where: object) -> Callable[[CaseFigures], float | None]:
    """`what`, a field of `FormResult`, in `unit`s."""

    def measure(measured: CaseFigures) -> float | None:
        number = getattr(measured.form(form, where), what, None)
        return None if number is None else number / unit

    return measure


def of_fastest(what: str, unit: float = 1.0, **where: object) -> Callable[[CaseFigures], float | None]:
    """`what` of the fastest form of the Triton backend, which form="auto" takes once forms.json has it."""

    def measure(measured: CaseFigures) -> float | None:
        forms = [form for name in TRITON_FORMS if (form := measured.form(name, where)) and form.both_ms]
        best = min(forms, key=lambda form: form.both_ms or 0.0, default=None)
        number = getattr(best, what, None)
        return None if number is None else number / unit

    return measure


def worst_error(dtype: str) -> Callable[[CaseFigures], float | None]:
    """Largest error of a gradient over torch's own, of forms that store no logits and skip no rows."""

    def measure(measured: CaseFigures) -> float | None:
        ours = [c for c in measured.checks if c.dtype == dtype and not c.filtered and not c.peer]
        gradients = [c for c in ours if not c.output.endswith("loss") and "materialised" not in c.form]
        return max((c.error / max(c.of_torch, ROUNDING) for c in gradients), default=None)

    return measure


def all_lattices(setting: Setting) -> tuple[Setting, ...]:
    return tuple(replace(setting, lattice=kind) for kind in ("uniform", "real", "sharp"))


def over(base: Setting, *, vocab: Sequence[int], labels: Sequence[int]) -> tuple[Setting, ...]:
    """`base` with other vocabularies, then with other numbers of labels."""
    settings = [replace(base, vocab=v) for v in vocab] + [replace(base, labels=u) for u in labels]
    return tuple(dict.fromkeys(settings))


CPU_5K = Setting(batch=8, frames=200, labels=40, hidden=512, vocab=5000)
CPU_32K = Setting(batch=4, frames=250, labels=60, hidden=640, vocab=32768)
GPU = Setting(batch=16, frames=250, labels=60, hidden=640, vocab=32768, dtype="bfloat16", device="cuda")
GPU_WITH_BLANK = replace(GPU, vocab=32769)  # of a model with 32768 tokens; an odd number of columns
GPU_4K = replace(GPU, vocab=4096, lattice="sharp")  # GPU has more logits than torchaudio's indices reach
PRECISION = Setting(batch=2, frames=40, labels=12, hidden=128, vocab=512)
QUICK = Setting(batch=2, frames=50, labels=10, hidden=128, vocab=1000, lattice="sharp")
CURVES = Setting(batch=4, frames=100, labels=20, hidden=256, vocab=4096, lattice="sharp")
UTTERANCES_OF_20_S = Setting(batch=32, frames=500, labels=0, hidden=768, heads=4)  # 25 frames a second
LACT_CPU = replace(UTTERANCES_OF_20_S, batch=8, hidden=256)
LACT_GPU = replace(UTTERANCES_OF_20_S, dtype="bfloat16", device="cuda")
BF16_PEAK = 989e12  # operations a second of an H100 or H200, dense
GPU_CURVES = replace(GPU, vocab=8192, lattice="sharp")


def _precision(name: str, device: str) -> BenchCase:
    fused = ("rnnt", "tdt", "pruned_rnnt", "joint")
    dtypes = ("float32", "bfloat16")
    settings = tuple(s for d in dtypes for s in all_lattices(replace(PRECISION, dtype=d, device=device)))
    bars = tuple(
        Bar(f"worst gradient's error over plain torch's, {d}, eps 0", 2.0, "x", worst_error(d))
        for d in dtypes
    )
    return BenchCase(
        name=name, why=f"errors of loss and gradients against fp64, beside plain torch's, {device}",
        kind="errors", device=device,
        settings={**dict.fromkeys(fused, settings), "lattice": (replace(settings[0], hidden=0, vocab=0),)},
        bars={**dict.fromkeys(fused, bars), "lattice": bars[:1]},
    )  # fmt: skip


def _over_torchaudio(kind: str, most_time: float) -> tuple[Bar, ...]:
    """Bars of the fused loss against torchaudio's on one kind of lattice."""
    memory, time = (ratio(f, "fused", TORCHAUDIO, lattice=kind) for f in ("both_bytes", "both_ms"))
    return (
        Bar(f"extra memory of fused over torchaudio's, {kind} lattice", 0.2, "x", memory),
        Bar(f"time of fused over torchaudio's, {kind} lattice", most_time, "x", time),
    )


def _on_gpu(kind: str, most_ms: float) -> tuple[Bar, ...]:
    """Bars of a fused loss on one kind of lattice, at each of the two large vocabularies."""
    bars = []
    for vocab in (GPU.vocab, GPU_WITH_BLANK.vocab):
        form: dict[str, Any] = {"lattice": kind, "vocab": vocab}
        where, time = f"{kind} lattice, V={vocab}", of_fastest("both_ms", **form)
        memory = of_fastest("both_bytes", GIGABYTE, **form)
        bars += [Bar(f"forward + backward, {where}", most_ms, "ms", time)]
        bars += [Bar(f"extra memory, {where}", 2.0, "GB", memory)]
    return tuple(bars)


_RNNT, _TDT, _FUSED_MEMORY = "RNN-T, torch", "TDT, torch", value("both_bytes", "fused", GIGABYTE)
_LACT_PEAK_MS = 1e3 * cost(LACT_GPU)[1].flops / BF16_PEAK

CASES = (
    BenchCase(
        name="quick", why="every operator on a small setting, with small curves",
        settings={
            "rnnt": over(QUICK, vocab=(500, 1000, 4000), labels=(5, 10, 20)),
            "tdt": (QUICK,),
            "pruned_rnnt": (QUICK,),
            "lattice": (Setting(batch=2, frames=100, labels=20),),
            "ctc": (Setting(batch=2, frames=100, labels=20, vocab=1000),),
            "lact": (Setting(batch=2, frames=100, labels=0, hidden=64, heads=2),),
        },
    ),
    BenchCase(
        name="cpu-5k", why="a vocabulary of 5000 on a CPU",
        settings=dict.fromkeys(("rnnt", "tdt", "pruned_rnnt"), all_lattices(CPU_5K)),
        bars={"rnnt": (*_over_torchaudio("uniform", 0.40), *_over_torchaudio("sharp", 0.22))},
    ),
    BenchCase(
        name="cpu-32k", why="memory at a vocabulary of 32768 on a CPU", kind="memory",
        forms=("fused", TORCHAUDIO, "materialised, rnnt_loss", "materialised, tdt_loss"),
        settings=dict.fromkeys(("rnnt", "tdt"), (CPU_32K,)),
        bars=dict.fromkeys(("rnnt", "tdt"), (Bar("extra memory of fused", 3.0, "GB", _FUSED_MEMORY),)),
    ),
    BenchCase(
        name="lattice", why="the lattices alone on a CPU, from given log probabilities",
        settings={"lattice": (Setting(batch=8, frames=500, labels=100),)},
        bars={
            "lattice": (
                Bar("RNN-T over torchaudio's", 1.0, "x", ratio("both_ms", _RNNT, "RNN-T, torchaudio")),
                Bar("TDT over RNN-T", 3.0, "x", ratio("both_ms", _TDT, _RNNT)),
            )
        },
    ),
    BenchCase(
        name="lact", why="fast weights updated on 20 s of speech, on a CPU", settings={"lact": (LACT_CPU,)},
        bars={
            "lact": (
                Bar("time of torch over plain autograd", 0.8, "x", ratio("both_ms", "torch", PLAIN)),
                Bar("memory of torch over plain autograd", 0.5, "x", ratio("both_bytes", "torch", PLAIN)),
            )
        },
    ),
    _precision("precision", "cpu"),
    BenchCase(
        name="curves", why="memory and time against vocabulary and labels on a CPU",
        forms=("fused", TORCHAUDIO, "materialised, rnnt_loss"),
        settings={"rnnt": over(CURVES, vocab=(512, 2048, 8192, 32768), labels=(5, 10, 20, 40, 80))},
    ),
    BenchCase(
        name="gpu", why="a vocabulary of 32768 and its blank in bf16 on a GPU", device="cuda",
        settings={
            "rnnt": (*all_lattices(GPU), *all_lattices(GPU_WITH_BLANK), GPU_4K),
            "tdt": (*all_lattices(GPU), *all_lattices(GPU_WITH_BLANK)),
            "pruned_rnnt": all_lattices(GPU_WITH_BLANK),
            "joint": (GPU,),
            "lattice": (replace(GPU, hidden=0, vocab=0, dtype="float32"),),
            "ctc": (replace(GPU, hidden=0, vocab=1025, dtype="float32"),),
            "lact": (LACT_GPU,),
        },
        bars={
            **dict.fromkeys(("rnnt", "tdt"), (*_on_gpu("sharp", 30.0), *_on_gpu("uniform", 75.0))),
            "lattice": (
                Bar("RNN-T with posteriors", 0.2, "ms", value("both_ms", "RNN-T, triton")),
                Bar("TDT with posteriors", 0.4, "ms", value("both_ms", "TDT, triton")),
            ),
            "ctc": (Bar("time over torch's", 1.0, "x", ratio("both_ms", "CTC, triton", "CTC, torch")),),
            # 2.5 is 40 % of the peak.
            "lact": (
                Bar("time over that at bf16 peak", 2.5, "x", value("both_ms", "Triton", _LACT_PEAK_MS)),
            ),
        },
    ),
    _precision("gpu-precision", "cuda"),
    BenchCase(
        name="gpu-curves", why="memory and time against vocabulary and labels on a GPU", device="cuda",
        forms=(*TRITON_FORMS, "cuBLAS, Triton, all rows", TORCHAUDIO, "materialised, rnnt_loss"),
        settings={
            "rnnt": over(GPU_CURVES, vocab=(1024, 2048, 4096, 8192, 16384, 32768), labels=(15, 30, 60, 120))
        },
    ),
)  # fmt: skip
