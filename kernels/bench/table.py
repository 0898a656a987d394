"""One operator on one setting: time, memory and share of the roofline of every form, as data and text."""

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

MIB = 1 << 20
COLUMNS = (
    "form",
    "fwd ms",
    "fwd+bwd ms",
    "x first",
    "of roofline",
    "extra MiB",
)  # the last two: forward / forward + backward


@dataclass(slots=True, kw_only=True)
class FormResult:
    """Of one form: medians in ms with every sample behind them, bytes, and shares of the counted roofline."""

    name: str
    forward_ms: float | None = None
    both_ms: float | None = None
    ratio: float | None = None  # of the medians of forward + backward, over those of the setting's first form
    forward_roofline: float | None = None
    both_roofline: float | None = None
    forward_bytes: int | None = None
    both_bytes: int | None = None
    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    why_not: str = ""


@dataclass(slots=True, kw_only=True)
class Result:
    """Of one operator on one setting; the rates are those of a plain product and a plain copy."""

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
    """Times the forms of `module` (those in `names`, or all) in turns with the ceilings, then memory."""
    forms = chosen_forms(module, setting, names)
    top = ceilings(setting)
    timed = time_in_turns([*top, *forms], setting.device, seconds=seconds)
    rates = []
    for form in top:
        median = timed[form.name].median("both")
        assert form.cost and median
        rates.append(max(form.cost()[1].flops, form.cost()[1].bytes) / median)
    del top
    found = [_form_result(form, timed[form.name], rates) for form in forms]
    ran = [form for form in forms if not timed[form.name].why_not]
    _add_peaks(found, peak_memory(op, ran, setting, threads))
    first = found[0].both_ms if found else None
    for result in found:
        result.ratio = result.both_ms / first if result.both_ms and first else None
    return Result(
        op=op, setting=setting, gflops_per_second=rates[0] / 1e9, gb_per_second=rates[1] / 1e9, forms=found
    )


def measure_memory(
    op: str, module: ModuleType, setting: Setting, *, threads: int, names: Sequence[str] = ()
) -> Result:
    """One run of forward + backward of each form that fits, for its memory; the time is of that run."""
    forms = chosen_forms(module, setting, names)
    found = [
        FormResult(name=form.name, why_not=form.absent or too_large(form, setting.device)) for form in forms
    ]
    ran = [form for form, result in zip(forms, found, strict=True) if not result.why_not]
    peaks = peak_memory(op, ran, setting, threads, parts=("both",))
    _add_peaks(found, peaks)
    for result in found:
        if result.name in peaks and not result.why_not:
            result.both_ms = 1e3 * peaks[result.name].seconds
    return Result(op=op, setting=setting, forms=found)


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


def table_rows(result: Result) -> list[tuple[str, ...]]:
    """COLUMNS, then a row for each form; one that did not run has its reason in the second column alone."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for form in result.forms:
        if form.why_not and form.both_ms is None:
            rows.append((form.name, f"not run: {form.why_not}", "", "", "", ""))
            continue
        peaks = [number(None if x is None else x / MIB, 0) for x in (form.forward_bytes, form.both_bytes)]
        rows.append(
            (
                form.name,
                number(form.forward_ms),
                number(form.both_ms),
                number(form.ratio, 2),
                f"{percent(form.forward_roofline)} / {percent(form.both_roofline)}",
                form.why_not or " / ".join(peaks),
            )
        )
    return rows


def headline(result: Result) -> str:
    rates = ""
    if result.gflops_per_second:
        rates = (
            f"; in the same turns {number(result.gflops_per_second, 0)} GFLOP/s in a plain product, "
            f"{number(result.gb_per_second)} GB/s in a plain copy"
        )
    return f"{result.op}: {result.setting.text}{rates}"


def text_table(result: Result) -> str:
    """For the terminal."""
    return f"{headline(result)}\n{columns(table_rows(result))}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of aligned columns, the first to the left. Remarks, rows that end after the second, may
    stick out.
    """
    n = len(rows[0])
    widths = [max(len(row[i]) for row in rows if i == 0 or row[-1]) for i in range(n)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0])] + [row[i].rjust(widths[i]) for i in range(1, n)]).rstrip()
        for row in rows
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    if digits is None:
        digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 1000 else 0
    return f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
