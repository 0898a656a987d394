import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import maya.kernels.ctc.bench as ctc_bench
import maya.kernels.joint.bench as joint_bench
import maya.kernels.lact.bench as lact_bench
import maya.kernels.lattice.bench as lattice_bench
import maya.kernels.pruned_rnnt.bench as pruned_bench
import maya.kernels.rnnt.bench as rnnt_bench
import maya.kernels.tdt.bench as tdt_bench
from maya.kernels.bench import cases
from maya.kernels.bench.__main__ import main
from maya.kernels.bench.cases import Bar, BenchCase, CaseFigures
from maya.kernels.bench.check import SMALL, Check, check
from maya.kernels.bench.measure import Cost, Form, Setting, peak_memory, time_in_turns, too_large
from maya.kernels.bench.report import BarResult, BenchRun, add, columns, form_rows, markdown, read, text
from maya.kernels.bench.table import FormResult, Result
from maya.kernels.joint.bench import ways

MODULES = {
    "ctc": ctc_bench,
    "joint": joint_bench,
    "lact": lact_bench,
    "lattice": lattice_bench,
    "pruned_rnnt": pruned_bench,
    "rnnt": rnnt_bench,
    "tdt": tdt_bench,
}
TINY = replace(SMALL, batch=2, frames=6, labels=3, hidden=16, vocab=24)


@pytest.fixture
def tiny_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case, of which a benchmark takes a second, and a bar that any machine reaches."""
    rival = "materialised, rnnt_loss"  # torchaudio does not load beside every torch
    bar = Bar(
        "time of fused over that of the loss of logits", 1e6, "x", cases.ratio("both_ms", "fused", rival)
    )
    case = BenchCase(name="tiny", why="a test", settings={"rnnt": (TINY,)}, bars={"rnnt": (bar,)})
    monkeypatch.setattr(cases, "CASES", (case,))


@pytest.mark.parametrize("op", MODULES)
def test_every_form_passes_its_check(op: str) -> None:
    setting = replace(TINY, hidden=0, vocab=0) if op == "lattice" else replace(TINY, lattice="sharp")
    checks = check(op, MODULES[op], setting)
    assert len({c.form for c in checks}) >= (1 if op == "ctc" else 2)  # CTC has one form on a CPU
    assert [c.text for c in checks if not c.ok] == []


def test_benchmark_prints_tables_and_writes_files(
    tiny_case: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), "--name", "a", "--seconds", "0.01", "--no-plot"]) == 0
    out = capsys.readouterr().out
    assert "fwd+bwd ms" in out and "materialised, torchaudio" in out and "yes" in out
    (run,) = read(tmp_path / "a.json")
    assert (run.case, run.op, run.failed) == ("tiny", "rnnt", [])
    fused = run.results[0].form("fused")
    assert fused and fused.both_ms and len(fused.samples_ms["both"]) >= 3 and fused.both_bytes is not None
    assert "| fused |" in (tmp_path / "a.md").read_text()


def test_a_wrong_operator_is_not_timed(
    tiny_case: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = rnnt_bench.fused_rnnt_loss

    def wrong(f: Tensor, *rest: Tensor, eps: float = 1e-4, **options: object) -> Tensor:
        """The value is right, the gradient of f is one per cent too large."""
        return right(f + 0.01 * (f - f.detach()), *rest, eps=eps, **options)

    monkeypatch.setattr(rnnt_bench, "fused_rnnt_loss", wrong)
    assert main(["rnnt", "--case", "tiny", "--out", str(tmp_path), "--no-plot"]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out and "fused, uniform lattice, float32: gradient of f is wrong by 1.0" in out
    assert "fwd+bwd ms" not in out
    written = json.loads((tmp_path / "cpu.json").read_text())
    assert written["runs"][0]["results"] == []
    assert "ms" not in (tmp_path / "cpu.md").read_text()


def test_an_error_of_nan_fails_the_check() -> None:
    wrong = Check(
        op="a", form="b", lattice="c", dtype="d", output="loss", error=float("nan"), of_torch=0.0, allowed=1.0
    )
    assert not wrong.ok


def test_an_exception_in_an_operator_gives_exit_status_1(
    tiny_case: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, eps: float = 1e-4, **__: object) -> Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(rnnt_bench, "fused_rnnt_loss", broken)
    assert main(["--out", str(tmp_path), "--no-plot"]) == 1
    assert "no such kernel" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_gpu_cases_need_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--case", "gpu"]) == 1
    assert "no CUDA device, so nothing was run" in capsys.readouterr().err


def test_forms_are_timed_in_turns_and_failing_ones_are_skipped() -> None:
    seen: list[str] = []

    def form(name: str) -> Form:
        return Form(name=name, forward=lambda: seen.append(name), both=lambda: seen.append(name.upper()))

    def fails() -> None:
        raise RuntimeError("no kernel\nand a long story")

    left_out = [
        Form(name="absent", absent="not installed"),
        Form(name="large", needs_bytes=1e18),
        Form(name="peer", forward=fails, both=fails, peer=True),
    ]
    timed = time_in_turns([form("a"), form("b"), *left_out], "cpu", seconds=0.0)
    assert "".join(seen) == "aAbB" + "aAbB" + "bBaA" + "aAbB"  # the first round warms up
    assert len(timed["a"].both) == 3
    assert timed["absent"].why_not == "not installed"
    assert timed["peer"].why_not == "failed: RuntimeError: no kernel"
    with pytest.raises(RuntimeError):
        time_in_turns([replace(left_out[2], peer=False)], "cpu", seconds=0.0)
    assert timed["large"].why_not.startswith("needs 931322574.6 GiB of memory")


def test_a_form_that_does_not_fit_states_its_memory() -> None:
    setting = replace(cases.CPU_32K, frames=1)  # the inputs of the whole setting would take seconds to make
    form = joint_bench.materialised_form(
        "a", Tensor, joint_bench.problem(setting), setting, cases.CPU_32K.rows
    )
    needed = form.needs_bytes
    assert needed > 16e9  # logits and their gradient
    why = too_large(Form(name="a", needs_bytes=1000 * needed), "cpu")
    assert why.startswith(f"needs {1000 * needed / 2**30:.1f} GiB of memory")


def test_peak_memory_includes_the_logits() -> None:
    setting = Setting(batch=2, frames=100, labels=19, hidden=16, vocab=8192)
    logits = setting.rows * setting.vocab * 4
    forms = [*joint_bench.forms(setting), Form(name="no such form")]
    fused, materialised, absent = peak_memory("joint", forms, setting, threads=1).values()
    assert materialised.forward and materialised.both and fused.forward and fused.both
    assert 2 * logits < materialised.forward < 4 * logits and materialised.both < 5 * logits
    assert 0 < fused.forward < materialised.forward / 1.5 and fused.both < materialised.both / 1.5
    assert absent.why_not.startswith("failed: StopIteration")


def forms_of(module: ModuleType, setting: Setting) -> list[str]:
    return [form.name for form in module.forms(setting.tiny())]


@pytest.mark.parametrize("case", [c for c in cases.CASES if c.device == "cpu"], ids=lambda c: c.name)
def test_cases_name_existing_forms(case: BenchCase) -> None:
    for op, settings in case.settings.items():
        names = forms_of(MODULES[op], settings[0])
        assert not case.forms or set(case.forms) & set(names)
        forms = [FormResult(name=n, both_ms=1.0, both_bytes=1) for n in names]
        results = [Result(op=op, setting=s, forms=forms) for s in settings]
        checks = [
            Check(
                op=op, form="a", lattice="b", dtype=s.dtype, output="gradient", error=0, of_torch=0, allowed=0
            )
            for s in settings
        ]
        measured = CaseFigures(checks, results)
        assert None not in [bar.measure(measured) for bar in case.bars.get(op, ())], (case.name, op)


def test_gpu_bars_name_existing_forms() -> None:
    names = {name for name, *_ in ways(cases.GPU, 1e-4)}
    curves = next(c for c in cases.CASES if c.name == "gpu-curves")
    assert names >= set(cases.TRITON_FORMS) and len(names & set(curves.forms)) == 4
    gpu = next(c for c in cases.CASES if c.name == "gpu")
    slow, fast = cases.TRITON_FORMS[0], cases.TRITON_FORMS[-1]  # the bars take the fastest
    timed = ((slow, 31.0), (fast, 29.0))
    forms = [FormResult(name=name, both_ms=ms, both_bytes=int(1e9)) for name, ms in timed]
    measured = CaseFigures([], [Result(op="rnnt", setting=s, forms=forms) for s in gpu.settings["rnnt"]])
    assert [bar.measure(measured) for bar in gpu.bars["rnnt"]] == [29.0, 1.0] * 4


def test_bars_and_roofline() -> None:
    assert [BarResult("a", 2.0, "x", m).verdict for m in (2.0, 2.1, None)] == ["yes", "NO", "not run"]
    assert Cost(flops=10.0, bytes=3.0).floor_seconds(5.0, 1.0) == 3.0


def test_a_later_run_replaces_an_earlier_one() -> None:
    form = FormResult(name="fused", both_ms=2.0)
    out = FormResult(name="other", why_not="needs 30.0 GiB of memory")
    result = Result(op="rnnt", setting=TINY, forms=[form, out])
    facts = {
        "cpu": "a CPU",
        "cores": 2,
        "load": 0.1,
        "gpu": None,
        "torch": "2",
        "torchaudio": None,
        "triton": None,
    }
    machine = {**facts, "commit": "abc", "uncommitted_changes": False}
    runs = [
        BenchRun(
            case=case, op="rnnt", kind="times", date="today", command=command, threads=1, machine=machine,
            checks=[], results=[result], bars=[BarResult("a bar", 1.0, "ms", 2.0)],
        )
        for case, command in (("one", "first"), ("two", "second"), ("one", "third"))
    ]  # fmt: skip
    runs_after = add(add(add([], runs[0]), runs[1]), runs[2])
    assert [run.command for run in runs_after] == ["third", "second"]
    shown = markdown(runs_after, Path("cpu"), "Kernels")
    assert "| fused | - | 2.00 |" in shown and "not run: needs 30.0 GiB" in shown
    assert "| one | rnnt | a bar | at most 1 ms | 2.00 ms | NO |" in shown
    assert "not run: needs 30.0 GiB" in text(runs[0]) and "fused" in columns(form_rows(result))
