"""One operator on one setting: time, memory and share of the roofline of every form."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType

from maya.kernels.bench.measure import (
    Form,
    Peak,
    Setting,
    Timed,
    ceilings,
    peak_memory,
    time_in_turns,
    too_large,
)


@dataclass(slots=True, kw_only=True)
class FormResult:
    """Figures of a form: medians in ms with all samples, bytes, and shares of the counted roofline."""

    name: str
    forward_ms: float | None = None
    both_ms: float | None = None
    ratio: float | None = None  # median of forward + backward over that of the setting's first form
    forward_roofline: float | None = None
    both_roofline: float | None = None
    forward_bytes: int | None = None
    both_bytes: int | None = None
    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    why_not: str = ""


@dataclass(slots=True, kw_only=True)
class Result:
    """Figures of an operator on one setting; the rates are those of a plain product and a plain copy."""

    op: str
    setting: Setting
    gflops_per_second: float | None = None
    gb_per_second: float | None = None
    forms: list[FormResult]

    def form(self, name: str) -> FormResult | None:
        return next((form for form in self.forms if form.name == name), None)


def measure_times(
    op: str, module: ModuleType, setting: Setting, *, threads: int, seconds: float, names: Sequence[str] = ()
) -> Result:
    """Times the forms of `module` (those in `names`, or all) in turns with the ceilings, then measures
    memory.
    """
    forms = chosen_forms(module, setting, names)
    top = ceilings(setting)
    timed = time_in_turns([*top, *forms], setting.device, seconds=seconds)
    rates = []
    for form in top:
        median = timed[form.name].median("both")
        assert form.cost and median
        rates.append(max(form.cost()[1].flops, form.cost()[1].bytes) / median)
    del top
    results = [_form_result(form, timed[form.name], rates) for form in forms]
    ran = [form for form in forms if not timed[form.name].why_not]
    _add_peaks(results, peak_memory(op, ran, setting, threads))
    first = results[0].both_ms if results else None
    for result in results:
        result.ratio = result.both_ms / first if result.both_ms and first else None
    gflops, gigabytes = rates[0] / 1e9, rates[1] / 1e9
    return Result(op=op, setting=setting, gflops_per_second=gflops, gb_per_second=gigabytes, forms=results)


def measure_memory(
    op: str, module: ModuleType, setting: Setting, *, threads: int, names: Sequence[str] = ()
) -> Result:
    """Runs forward + backward of each form that fits once, for its memory; the time is of one run."""
    forms = chosen_forms(module, setting, names)
    reasons = [form.absent or too_large(form, setting.device) for form in forms]
    results = [FormResult(name=form.name, why_not=why) for form, why in zip(forms, reasons, strict=True)]
    ran = [form for form, why in zip(forms, reasons, strict=True) if not why]
    peaks = peak_memory(op, ran, setting, threads, parts=("both",))
    _add_peaks(results, peaks)
    for result in results:
        if result.name in peaks and not result.why_not:
            result.both_ms = 1e3 * peaks[result.name].seconds
    return Result(op=op, setting=setting, forms=results)


def chosen_forms(module: ModuleType, setting: Setting, names: Sequence[str]) -> list[Form]:
    return [form for form in module.forms(setting) if not names or form.name in names]


def _add_peaks(results: list[FormResult], peaks: dict[str, Peak]) -> None:
    for result in results:
        peak = peaks.get(result.name)
        if peak and peak.why_not:
            result.why_not = f"memory: {peak.why_not}"
        elif peak:
            result.forward_bytes, result.both_bytes = peak.forward, peak.both


def _form_result(form: Form, timed: Timed, rates: list[float]) -> FormResult:
    result = FormResult(name=form.name, why_not=timed.why_not)
    if timed.why_not:
        return result
    costs = dict(zip(("forward", "both"), form.cost(), strict=True)) if form.cost else {}
    for part in ("forward", "both"):
        median = timed.median(part)
        assert median is not None
        setattr(result, f"{part}_ms", median * 1e3)
        result.samples_ms[part] = [1e3 * s for s in getattr(timed, part)]
        if part in costs:
            setattr(result, f"{part}_roofline", costs[part].floor_seconds(rates[0], rates[1]) / median)
    return result
