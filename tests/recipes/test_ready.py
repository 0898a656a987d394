"""`maya ready`: every reason to refuse a long run, and the report of a run that can start."""

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from maya.config import override
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.heads import ClassifyConfig, LanguageModelConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes import ready
from maya.recipes.cli import main
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.ready import GpuStatus, Planned, checks
from maya.recipes.tokenizer import tokenizer
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint, step_path
from tests import tiny, tiny_llm, tones

H200 = GpuStatus(name="H200", free=150 * 10**9, total=151 * 10**9, bf16=True)
BUSY = GpuStatus(name="H200", free=10**9, total=151 * 10**9, bf16=True)


class Usage(NamedTuple):
    free: int


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, prepared data, a run folder with a tokenizer, and a checkpoint to start from."""
    top = tmp_path_factory.mktemp("ready")
    tones.make_corpus(top / "corpus", utterances=12)
    exp = tiny.experiment()
    prepare(exp, top / "corpus", top / "data")
    tokenizer(exp, top / "data", top / "run")
    pieces = load_tokenizer(top / "run" / "tokenizer.model")
    model = build_model(with_vocabulary(exp.model, pieces.vocab_size, ("en", "hi")))
    start = Checkpoint(model_config=model.cfg, tokenizer=pieces, weights=model.state_dict(), step=0, notes={})
    save_checkpoint(top / "start.pt", start)
    return top


@pytest.fixture
def planned(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planned]:
    """A run that passes all checks, in its own folder, with two simulated GPUs."""
    shutil.copytree(made / "run", tmp_path / "run")
    exp = tiny.experiment()
    exp.train.init_from = str(made / "start.pt")
    exp.train.freeze, exp.train.freeze_steps = ("encoder",), 4
    monkeypatch.setattr(ready, "find_gpus", lambda: [H200, H200])
    yield Planned(experiment=exp, data=made / "data", run=tmp_path / "run", gpus=2)


def _refusals(planned: Planned) -> list[str]:
    return [f"{f.topic}: {f.text}" for f in checks(planned) if not f.ready]


def _only(planned: Planned, *parts: str) -> None:
    """There is exactly one refusal, and it contains these words."""
    refusals = _refusals(planned)
    assert len(refusals) == 1, refusals
    for part in parts:
        assert part in refusals[0], refusals[0]
    assert "\n" not in refusals[0]


def test_ready_run_passes_all_checks(planned: Planned) -> None:
    texts = {f.topic: f.text for f in checks(planned)}
    assert _refusals(planned) == []
    assert list(texts) == ["disk", "gpus", "tokenizer", "plan", "checkpoint", "storage"]
    assert "2 × H200, 151 GB" in texts["gpus"] and "2 languages" in texts["plan"]
    assert "start.pt fits" in texts["checkpoint"] and "all in files" in texts["storage"]


def test_disk(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready.shutil, "disk_usage", lambda _: Usage(free=10**9))
    _only(planned, "disk: 1 GB free", "2 GB needed", "--train.keep")
    monkeypatch.setattr(ready.os, "access", lambda *_: False)
    _only(planned, "disk:", "cannot be written to")


def test_checkpoints_of_the_flagship_are_counted() -> None:
    """1.1 B parameters: three training checkpoints of 22 GB, one being written, three of 4.4 GB."""
    from egs.indic12.fastconformer_tdt_ctc_1b import experiment

    folder = Path(__file__).parent
    (check,) = ready._disk(Planned(experiment=experiment(), data=folder, run=folder, gpus=8))
    text = check if isinstance(check, str) else check.text
    assert 100 <= float(text.split(", ")[1].split(" GB")[0]) <= 108


@pytest.mark.parametrize(
    ("gpus", "parts"),
    [
        ([], ("0 of 2 GPUs",)),
        (
            [H200, GpuStatus(name="H200", free=10**9, total=151 * 10**9, bf16=True)],
            ("GPU 1 (H200) is in use",),
        ),
        ([H200, GpuStatus(name="T4", free=10**10, total=10**10, bf16=True)], ("differ (H200, T4)",)),
    ],
)
def test_gpus(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, gpus: list[GpuStatus], parts: tuple[str]
) -> None:
    monkeypatch.setattr(ready, "find_gpus", lambda: gpus)
    _only(planned, "gpus: ", *parts)


def test_gpus_without_bf16(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    old = GpuStatus(name="V100", free=10**10, total=10**10, bf16=False)
    monkeypatch.setattr(ready, "find_gpus", lambda: [old, old])
    assert _refusals(planned) == []  # fp32 was set
    planned.experiment.train.precision = "bf16"
    assert len(_refusals(planned)) == 2 and "no bf16" in _refusals(planned)[0]


def test_tokenizer(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = planned.experiment.tokenizer
    cfg.seed += 1
    _only(planned, "tokenizer: ", "other data or options", "run stage 2")
    cfg.vocab_size += 1
    assert any("tokenizer.vocab_size is" in f for f in _refusals(planned))
    cfg.seed, cfg.vocab_size = cfg.seed - 1, cfg.vocab_size - 1
    monkeypatch.setattr(ready, "UNKNOWN", -1.0)
    assert len(_refusals(planned)) == 2 and "of the characters of en have no piece" in _refusals(planned)[0]
    (planned.run / "tokenizer.model").unlink()
    assert any(f.startswith("tokenizer: ") and "run stage 2" in f for f in _refusals(planned))


def test_plan(planned: Planned, tmp_path: Path) -> None:
    planned.experiment.train.accumulate = 10_000
    _only(planned, "plan: ", "a step takes 10000")
    planned.experiment.train.accumulate = 1
    planned.experiment.data.plan.max_seconds = 0.5
    _only(planned, "plan: ", "max_seconds")
    planned.experiment.data.plan.max_seconds = 20.0
    unprepared = Planned(experiment=planned.experiment, data=tmp_path / "none", run=planned.run, gpus=2)
    refused = _refusals(unprepared)
    assert [f.split(":")[0] for f in refused] == ["tokenizer", "plan", "storage"]
    assert "other data" in refused[0] and "run stage 1" in refused[1] and "run stage 1" in refused[2]


def test_a_language_without_utterances(planned: Planned) -> None:
    planned.experiment.languages = ("en", "hi", "ta")
    _only(planned, "plan: ", "no training utterance in ta")


def test_checkpoint_to_start_from(planned: Planned, tmp_path: Path) -> None:
    train = planned.experiment.train
    train.init_from = str(tmp_path / "nothing.pt")
    _only(planned, "checkpoint: ", "holds no checkpoint")
    train.init_from = ""
    _only(planned, "checkpoint: ", "give train.init_from")
    train.freeze, train.freeze_steps = (), None
    assert _refusals(planned) == []


def test_checkpoint_that_does_not_fit(planned: Planned) -> None:
    planned.experiment.model.encoder.xscaling = not planned.experiment.model.encoder.xscaling
    _only(planned, "checkpoint: ", "--model.encoder.xscaling")
    planned.experiment.model.encoder.xscaling = not planned.experiment.model.encoder.xscaling
    planned.experiment.model.encoder.n_layers = 3
    _only(planned, "checkpoint: ", "does not fit")


def test_started_run(planned: Planned, made: Path) -> None:
    exp, pieces = planned.experiment, load_tokenizer(made / "run" / "tokenizer.model")
    begun = copy.deepcopy(exp)
    begun.model = with_vocabulary(exp.model, pieces.vocab_size, exp.languages)
    from maya.config import to_dict

    training: dict[str, Any] = {"experiment": to_dict(begun)}
    save_checkpoint(step_path(planned.run, 6), Checkpoint(model_config=begun.model, tokenizer=pieces,
                    weights={}, step=6, notes={}, training=training))  # fmt: skip
    assert _refusals(planned) == []
    assert "continues at step 6" in {f.topic: f.text for f in checks(planned)}["checkpoint"]
    override(exp, "train.lr=0.5")
    _only(planned, "checkpoint: ", "belongs to another experiment: train.lr")


def test_recordings_that_cannot_be_read(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(path: str, *_: object) -> bytes:
        raise MayaError(f"cannot read {path}: AccessDenied")

    monkeypatch.setattr(ready, "read_range", unreachable)
    _only(planned, "storage: ", "tested recordings cannot be read; the first: ", "AccessDenied")


def test_object_storage_before_the_data_are_prepared(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        """S3 with one object."""

        def head_object(self, **options: Any) -> dict[str, Any]:
            if options["Key"] != "a.tar":
                raise RuntimeError("Not Found")
            from datetime import datetime

            return {"ContentLength": 7, "LastModified": datetime(2026, 1, 1)}

        def get_object(self, **options: Any) -> dict[str, Any]:
            import io

            return {"Body": io.BytesIO(b"x"), **self.head_object(**options)}

    from maya.audio import object_store

    monkeypatch.setattr(object_store, "_current", object_store.S3Store(Store()))
    for key, good in (("a.tar", True), ("b.tar", False)):
        with_storage = Planned(experiment=planned.experiment, data=tmp_path / "none", run=planned.run, gpus=2,
                       storage=f"s3://bucket/{key}")  # fmt: skip
        storage_checks = [f for f in checks(with_storage) if f.topic == "storage"]
        assert [f.ready for f in storage_checks] == [good]
        assert ("7 bytes, readable" if good else "Not Found") in storage_checks[0].text


def test_the_command_prints_a_line_for_each_check(
    planned: Planned, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base = ["--experiment", "tests.tiny", "--data", str(planned.data), "--run-dir", str(planned.run)]
    assert main(["ready", *base, "--gpus", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ready"] * 6 + ["ready:"]
    frozen = ["--freeze-encoder-steps", "5"]
    assert main(["ready", *base, "--gpus", "8", *frozen]) == 1
    lines = capsys.readouterr().out.splitlines()
    refused = [line.split()[2] for line in lines if line.startswith("NOT READY")]
    assert refused == ["gpus", "checkpoint"] and lines[-1] == "ready: 2 check(s) failed"
    assert main(["ready", *base, "--set", "train.lrr=1"]) == 1
    assert "train.lrr" in capsys.readouterr().out
    assert isinstance(tiny.experiment(), Experiment)


def test_contradicting_options_are_refused(planned: Planned) -> None:
    planned.experiment.train.freeze, planned.experiment.train.freeze_steps = (), 5
    _only(planned, "checkpoint: ", "train.freeze_steps needs train.freeze")


def test_utterances_outside_the_limits_are_not_planned(planned: Planned) -> None:
    durations = Table.open(part_path(planned.data, "train")).durations
    exp = planned.experiment
    exp.data.max_seconds = exp.data.plan.max_seconds = float(sorted(durations)[-2])
    assert _refusals(planned) == []
    assert f"{len(durations) - 1} utterances" in {f.topic: f.text for f in checks(planned)}["plan"]
    exp.data.max_seconds = 0.01
    _only(planned, "plan: every training utterance is left out")


def test_label_that_no_utterance_has(planned: Planned) -> None:
    planned.experiment.model.heads["mood"] = ClassifyConfig(label="mood", classes=("glad", "sad"))
    _only(planned, "plan: ", "needs the label 'mood'")


def test_tokenizer_of_a_language_model(planned: Planned, tmp_path: Path) -> None:
    llm = tiny_llm.make(tmp_path / "llm")
    exp = planned.experiment
    exp.model.heads["llm"] = LanguageModelConfig(llm=str(llm))
    tokenizer(exp, planned.data, tmp_path / "llm-run")
    assert _refusals(replace(planned, run=tmp_path / "llm-run")) == []


def test_lhotse_cuts_are_refused(planned: Planned, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--experiment", "tests.tiny", "--data", str(planned.data), "--run-dir", str(planned.run)]
    assert main(["ready", *base, "--set", "data.source=lhotse"]) == 1
    assert "NOT READY  experiment  `maya ready` checks prepared data" in capsys.readouterr().out
