"""The named cases: operators, settings, and the bars that their figures must reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from maya.kernels.bench.check import ROUNDING, Check
from maya.kernels.bench.measure import Setting
from maya.kernels.bench.table import FormResult, Result
from maya.kernels.lact.bench import cost

TORCHAUDIO = "materialised, torchaudio"
PLAIN = "plain autograd"
GIGABYTE = 1e9


@dataclass(slots=True)
class Measured:
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
    measure: Callable[[Measured], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
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


def ratio(what: str, form: str, over: str, **where: object) -> Callable[[Measured], float | None]:
    """`what`, a field of `FormResult`, of one form over that of another."""

    def measure(measured: Measured) -> float | None:
        values = [getattr(measured.form(name, where), what, None) for name in (form, over)]
        return values[0] / values[1] if values[0] is not None and values[1] else None

    return measure


def value(what: str, form: str, unit: float = 1.0, **where: object) -> Callable[[Measured], float | None]:
    """`what`, a field of `FormResult`, in `unit`s."""

    def measure(measured: Measured) -> float | None:
        number = getattr(measured.form(form, where), what, None)
        return None if number is None else number / unit

    return measure


def worst_error(dtype: str) -> Callable[[Measured], float | None]:
    """Largest error of a gradient over torch's own, of forms that store no logits and skip no rows."""

    def measure(measured: Measured) -> float | None:
        ours = [c for c in measured.checks if c.dtype == dtype and not c.filtered and not c.peer]
        gradients = [c for c in ours if not c.output.endswith("loss") and "materialised" not in c.form]
        return max((c.error / max(c.of_torch, ROUNDING) for c in gradients), default=None)

    return measure


def both_lattices(setting: Setting) -> tuple[Setting, ...]:
    return tuple(replace(setting, lattice=kind) for kind in ("uniform", "trained"))


def over(base: Setting, *, vocab: Sequence[int], labels: Sequence[int]) -> tuple[Setting, ...]:
    """`base` with other vocabularies, then with other numbers of labels."""
    settings = [replace(base, vocab=v) for v in vocab] + [replace(base, labels=u) for u in labels]
    return tuple(dict.fromkeys(settings))


CPU_5K = Setting(batch=8, frames=200, labels=40, hidden=512, vocab=5000)
CPU_32K = Setting(batch=4, frames=250, labels=60, hidden=640, vocab=32768)
GPU = Setting(batch=16, frames=250, labels=60, hidden=640, vocab=32768, dtype="bfloat16", device="cuda")
GPU_4K = replace(GPU, vocab=4096, lattice="trained")  # GPU has more logits than torchaudio's indices reach
PRECISION = Setting(batch=2, frames=40, labels=12, hidden=128, vocab=512)
QUICK = Setting(batch=2, frames=50, labels=10, hidden=128, vocab=1000, lattice="trained")
CURVES = Setting(batch=4, frames=100, labels=20, hidden=256, vocab=4096, lattice="trained")
UTTERANCES_OF_20_S = Setting(batch=32, frames=500, labels=0, hidden=768, heads=4)  # 25 frames a second
LACT_CPU = replace(UTTERANCES_OF_20_S, batch=8, hidden=256)
LACT_GPU = replace(UTTERANCES_OF_20_S, dtype="bfloat16", device="cuda")
BF16_PEAK = 989e12  # operations a second of an H100 or H200, dense
GPU_CURVES = replace(GPU, vocab=8192, lattice="trained")


def _of_fused(what: str, unit: float, kind: str) -> Callable[[Measured], float | None]:
    return value(what, "fused, Triton", unit, lattice=kind, vocab=32768)


def _precision(name: str, device: str) -> Case:
    fused = ("rnnt", "tdt", "pruned_rnnt", "joint")
    dtypes = ("float32", "bfloat16")
    settings = tuple(s for d in dtypes for s in both_lattices(replace(PRECISION, dtype=d, device=device)))
    bars = tuple(
        Bar(f"worst gradient's error over plain torch's, {dtype}, eps 0", 2.0, "x", worst_error(dtype))
        for dtype in dtypes
    )
    return Case(
        name=name,
        why=f"errors of loss and gradients against fp64, beside plain torch's, {device}",
        kind="errors",
        settings={**dict.fromkeys(fused, settings), "lattice": (replace(settings[0], hidden=0, vocab=0),)},
        bars={**dict.fromkeys(fused, bars), "lattice": bars[:1]},
        device=device,
    )


CASES = (
    Case(
        name="quick",
        why="every operator on a small setting, with small curves",
        settings={
            "rnnt": over(QUICK, vocab=(500, 1000, 4000), labels=(5, 10, 20)),
            "tdt": (QUICK,),
            "pruned_rnnt": (QUICK,),
            "lattice": (Setting(batch=2, frames=100, labels=20),),
            "lact": (Setting(batch=2, frames=100, labels=0, hidden=64, heads=2),),
        },
    ),
    Case(
        name="cpu-5k",
        why="a vocabulary of 5000 on a CPU",
        settings=dict.fromkeys(("rnnt", "tdt", "pruned_rnnt"), both_lattices(CPU_5K)),
        bars={
            "rnnt": tuple(
                Bar(f"{what} of fused over torchaudio's, {kind} lattice", most, "x", measure)
                for kind, limit in (("uniform", 0.40), ("trained", 0.22))
                for what, most, measure in (
                    ("extra memory", 0.2, ratio("both_bytes", "fused", TORCHAUDIO, lattice=kind)),
                    ("time", limit, ratio("both_ms", "fused", TORCHAUDIO, lattice=kind)),
                )
            )
        },
    ),
    Case(
        name="cpu-32k",
        why="memory at a vocabulary of 32768 on a CPU",
        kind="memory",
        forms=("fused", TORCHAUDIO, "materialised, rnnt_loss", "materialised, tdt_loss"),
        settings=dict.fromkeys(("rnnt", "tdt"), (CPU_32K,)),
        bars=dict.fromkeys(
            ("rnnt", "tdt"),
            (Bar("extra memory of fused", 3.0, "GB", value("both_bytes", "fused", GIGABYTE)),),
        ),
    ),
    Case(
        name="lattice",
        why="the lattices alone on a CPU, from given log probabilities",
        settings={"lattice": (Setting(batch=8, frames=500, labels=100),)},
        bars={
            "lattice": (
                Bar(
                    "RNN-T over torchaudio's", 1.0, "x", ratio("both_ms", "RNN-T, torch", "RNN-T, torchaudio")
                ),
                Bar("TDT over RNN-T", 3.0, "x", ratio("both_ms", "TDT, torch", "RNN-T, torch")),
            )
        },
    ),
    Case(
        name="lact",
        why="fast weights updated on 20 s of speech, on a CPU",
        settings={"lact": (LACT_CPU,)},
        bars={
            "lact": (
                Bar("time of torch over plain autograd", 0.8, "x", ratio("both_ms", "torch", PLAIN)),
                Bar("memory of torch over plain autograd", 0.5, "x", ratio("both_bytes", "torch", PLAIN)),
            )
        },
    ),
    _precision("precision", "cpu"),
    Case(
        name="curves",
        why="memory and time against vocabulary and labels on a CPU",
        forms=("fused", TORCHAUDIO, "materialised, rnnt_loss"),
        settings={"rnnt": over(CURVES, vocab=(512, 2048, 8192, 32768), labels=(5, 10, 20, 40, 80))},
    ),
    Case(
        name="gpu",
        why="a vocabulary of 32768 in bf16 on a GPU",
        device="cuda",
        settings={
            "rnnt": (*both_lattices(GPU), GPU_4K),
            "tdt": both_lattices(GPU),
            "pruned_rnnt": both_lattices(GPU),
            "joint": (GPU,),
            "lattice": (replace(GPU, hidden=0, vocab=0, dtype="float32"),),
            "lact": (LACT_GPU,),
        },
        bars={
            **dict.fromkeys(
                ("rnnt", "tdt"),
                tuple(
                    Bar(f"{what}, {kind} lattice", most, unit, measure)
                    for kind, limit in (("trained", 30.0), ("uniform", 75.0))
                    for what, most, unit, measure in (
                        ("forward + backward", limit, "ms", _of_fused("both_ms", 1.0, kind)),
                        ("extra memory", 2.0, "GB", _of_fused("both_bytes", GIGABYTE, kind)),
                    )
                ),
            ),
            "lattice": (
                Bar("RNN-T with posteriors", 0.2, "ms", value("both_ms", "RNN-T, triton")),
                Bar("TDT with posteriors", 0.4, "ms", value("both_ms", "TDT, triton")),
            ),
            # At least 40 % of the peak.
            "lact": (
                Bar(
                    "bf16 peak over the rate of forward + backward",
                    2.5,
                    "x",
                    value("both_ms", "Triton", 1e3 * cost(LACT_GPU)[1].flops / BF16_PEAK),
                ),
            ),
        },
    ),
    _precision("gpu-precision", "cuda"),
    Case(
        name="gpu-curves",
        why="memory and time against vocabulary and labels on a GPU",
        device="cuda",
        forms=("fused, Triton", "row-chunked cuBLAS, all rows", TORCHAUDIO, "materialised, rnnt_loss"),
        settings={
            "rnnt": over(GPU_CURVES, vocab=(1024, 2048, 4096, 8192, 16384, 32768), labels=(15, 30, 60, 120))
        },
    ),
)
