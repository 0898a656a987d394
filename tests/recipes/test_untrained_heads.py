"""The commands on runs whose transducer was not trained."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import maya
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.cli import main
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, step_checkpoints
from tests import tiny, tones
from tests.train.test_older import flat, old_names, write

NO_LM = "decode.methods.ctc_beam.lm_order=0"
CTC_ALONE = ("model.heads.transducer.first_step=20", NO_LM)  # and tests.tiny has 12 steps


def command(name: str, top: Path, run: Path, *options: str, sets: tuple[str, ...] = CTC_ALONE) -> int:
    overrides = [text for assignment in sets for text in ("--set", assignment)]
    where = ["--data", str(top / "data"), "--run-dir", str(run)]
    return main([name, "--experiment", "tests.tiny", *overrides, *where, *options])


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, a folder `pieces` with a tokenizer, and `run`, trained with CTC alone and averaged."""
    top = tmp_path_factory.mktemp("heads")
    tones.make_corpus(top / "corpus", utterances=12)
    corpus = ["--corpus", str(top / "corpus"), "--out", str(top / "data")]
    assert main(["prepare", "--experiment", "tests.tiny", *corpus]) == 0
    assert command("tokenizer", top, top / "pieces") == 0
    shutil.copytree(top / "pieces", top / "run")
    assert command("train", top, top / "run", "--cpu") == 0
    assert command("average", top, top / "run") == 0
    return top


def test_trained_head_decodes_and_is_logged(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = top / "run"
    assert command("decode", top, run) == 0
    assert main(["score", "--run-dir", str(run)]) == 0
    out = capsys.readouterr().out
    assert "decode: test by ctc (transducer was not trained)" in out
    assert "method      ctc (transducer was not trained)" in out
    decoded = json.loads((run / "decode" / "test" / "decode.json").read_text())
    assert decoded["method"] == "ctc"
    assert json.loads((run / "decode" / "test" / "result.json").read_text())["method"] == "ctc"
    assert "decoded by ctc" in (run / "decode" / "test" / "report.html").read_text()
    rows = [json.loads(line) for line in (run / "decode" / "test" / "hyps.jsonl").read_text().splitlines()]
    audio = [str(top / "corpus" / f"{row['id']}.wav") for row in rows]
    recognizer = maya.load(run, "cpu")
    texts = {row["language"]: recognizer.transcribe(audio, row["language"], method="ctc") for row in rows}
    assert [row["text"] for row in rows] == [texts[r["language"]][i].text for i, r in enumerate(rows)]


def test_untrained_heads_are_reported_at_the_start(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(top / "pieces", tmp_path / "run")
    assert command("train", top, tmp_path / "run", "--cpu") == 0
    out = capsys.readouterr().out
    warnings = [line for line in out.splitlines() if line.startswith("train: warning:")]
    assert len(warnings) == 1 and "the head transducer will not be trained" in warnings[0]
    assert "model.heads.transducer.first_step is 20" in warnings[0] and "train.steps above 20" in warnings[0]
    valid = next(line for line in out.splitlines() if line.startswith("valid step 12"))
    assert "dev: ctc WER " in valid and "transducer" not in valid


def test_epochs_that_end_before_the_transducer_begins(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(top / "pieces", tmp_path / "run")
    epochs = ("train.schedule=eden", "train.epochs=2", "train.steps=1000")
    assert command("train", top, tmp_path / "run", "--cpu", sets=(*CTC_ALONE, *epochs)) == 0
    steps = step_checkpoints(tmp_path / "run")[-1][0]
    assert 0 < steps < 20 and f"training ends after {steps} steps" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "epoch-0002.pt").notes["trained"] == ["ctc"]


@pytest.mark.parametrize("method", ["transducer", "modified_beam"])
def test_a_head_that_was_never_trained_is_refused(
    top: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("decode", top, top / "run", "--method", method) == 1
    needed = f"decode.method={method} needs the head transducer, which was never trained; use ctc"
    assert needed in capsys.readouterr().err
    assert command("decode", top, top / "run", "--split", "dev", sets=(f"decode.method={method}",)) == 1
    assert needed in capsys.readouterr().err


def test_all_methods_are_limited_to_trained_heads(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("decode", top, top / "run", "--method", "all", "--split", "dev") == 0
    out = capsys.readouterr().out
    assert "decode: without transducer, alsd, maes, modified_beam: transducer was never trained" in out
    methods = {path.parent.parent.name for path in (top / "run" / "decode").glob("*/dev/hyps.jsonl")}
    assert methods == {"ctc", "ctc_beam"}


def test_transcribe_and_evaluate(top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, audio = str(top / "run"), str(top / "corpus" / "en-000.wav")
    assert main(["transcribe", run, audio]) == 0
    shown = capsys.readouterr()
    # The first transcription of a process also says which voice detection it uses.
    said = [line for line in shown.err.splitlines() if not line.startswith("voice activity")]
    assert said == ["decoding with ctc: transducer was not trained"]
    assert main(["transcribe", run, audio, "--method", "ctc"]) == 0
    assert capsys.readouterr().out == shown.out
    assert main(["transcribe", run, audio, "--method", "transducer"]) == 1
    assert "needs the head transducer, which was never trained; use ctc" in capsys.readouterr().err
    manifest = ["--manifest", str(top / "corpus" / "manifest.jsonl"), "--json", str(tmp_path / "r.json")]
    assert main(["evaluate", run, *manifest]) == 0
    assert "decoded by ctc (transducer was not trained)" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["method"] == "ctc"
    assert main(["evaluate", run, *manifest, "--method", "transducer"]) == 1
    assert main(["evaluate", run, audio]) == 0
    assert "needs the head transducer" in capsys.readouterr().err


def test_notes_of_every_checkpoint(top: Path) -> None:
    run = top / "run"
    for path in (run / "best.pt", run / "averaged.pt", *(path for _, path in step_checkpoints(run))):
        loaded = load_checkpoint(path)
        assert loaded.notes["trained"] == ["ctc"], path
        assert loaded.notes["heads"]["transducer"] == {"steps": 0}
        assert loaded.notes["heads"]["ctc"]["steps"] == loaded.step
    for name in ("best.pt", "averaged.pt"):
        assert {"steps", "wer", "cer"} == load_checkpoint(run / name).notes["heads"]["ctc"].keys()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = [row for row in rows if row["kind"] == "valid"]
    assert all(row["ctc_cer"] == row["cer"] == row["error"] for row in valid)
    assert {"ctc_wer_en", "ctc_wer_hi"} <= valid[0].keys()
    assert not any(name.startswith("transducer") for name in valid[0])


def test_run_of_an_earlier_version(top: Path, tmp_path: Path) -> None:
    """Old checkpoints have no notes on heads. Their step and config.json show which heads were trained."""
    run, loaded = tmp_path / "run", load_checkpoint(top / "run" / "best.pt")
    cfg = tiny.options(encoder=loaded.model_config.encoder, vocab_size=loaded.tokenizer.vocab_size)
    payload = {
        "model_config": flat(cfg),
        "weights": old_names(loaded.weights),
        "notes": {"valid": {"wer": 1.0}},
    }

    def best() -> str:
        return maya.load(run, "cpu").trained_heads().best().head

    run.mkdir()
    (run / "config.json").write_text(json.dumps({"train": {"ctc_first": 20}}))
    write(run / "best.pt", payload | {"step": 6}, loaded.tokenizer)
    assert best() == "ctc"
    write(run / "best.pt", payload | {"step": 21}, loaded.tokenizer)
    assert best() == "transducer"
    (run / "config.json").unlink()
    write(run / "best.pt", payload | {"step": 6}, loaded.tokenizer)
    assert best() == "transducer"  # nothing tells otherwise


def test_without_notes_every_head_counts_as_trained(top: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(top / "run" / "best.pt")
    assert maya.load(top / "run", "cpu").choose_method().heads == ("ctc",)
    loaded.notes = {"valid": {"wer": 1.0}}
    save_checkpoint(tmp_path / "best.pt", loaded)
    assert maya.load(tmp_path, "cpu").choose_method().heads == ("transducer",)


def test_both_heads_are_scored_once_both_are_trained(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, sets = tmp_path / "run", ("model.heads.transducer.first_step=6", NO_LM)
    shutil.copytree(top / "pieces", run)
    assert command("train", top, run, "--cpu", sets=sets) == 0
    assert command("average", top, run, sets=sets) == 0
    out = capsys.readouterr().out
    first, last = (line for line in out.splitlines() if line.startswith("valid step"))
    assert "ctc WER" in first and "transducer" not in first
    assert "dev: transducer WER " in last and " · ctc WER " in last
    assert "train: warning" not in out
    notes = load_checkpoint(run / "averaged.pt").notes
    dev = {head: notes["heads"][head]["cer"] for head in notes["trained"]}
    best = min(dev, key=lambda head: (dev[head], notes["heads"][head]["wer"]))
    assert command("decode", top, run, sets=sets) == 0
    assert f"decode: test by {best} (" in capsys.readouterr().out
    step = load_checkpoint(step_checkpoints(run)[-1][1])
    assert step.notes["heads"] == {"transducer": {"steps": 6}, "ctc": {"steps": 12}}


def test_an_encoder_without_trained_heads(top: Path, tmp_path: Path) -> None:
    """A checkpoint of `maya convert --encoder-only` loads and encodes, but refuses to decode."""
    loaded = load_checkpoint(top / "run" / "best.pt")
    loaded.notes = {"untrained": ["transducer", "ctc"]}
    save_checkpoint(tmp_path / "best.pt", loaded)
    recognizer = maya.load(tmp_path, "cpu")
    audio = np.zeros(16000, np.float32)
    recognizer.encode(torch.from_numpy(audio)[None], torch.tensor([16000]))
    with pytest.raises(MayaError, match="cannot decode: transducer and ctc were never trained"):
        recognizer.transcribe([audio])
    with pytest.raises(MayaError, match="needs the head ctc, which was never trained$"):
        recognizer.transcribe([audio], method="ctc")


def test_initialised_heads_count_as_trained(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head counts as trained if it was trained and its encoder is initialised with it."""
    pieces = load_tokenizer(top / "pieces" / "tokenizer.model")
    cfg = load_checkpoint(top / "run" / "best.pt").model_config
    made = build_model(with_vocabulary(cfg, pieces.vocab_size, ("en", "hi")))
    source = tmp_path / "source.pt"
    both, modules = ["transducer", "ctc"], "encoder,transducer"
    for trained, taken, expected in (
        (both, modules, both),
        (["ctc"], modules, ["ctc"]),
        (both, "transducer", ["ctc"]),
        (both, "encoder,heads.transducer.decoder", ["ctc"]),
    ):
        save_checkpoint(source, Checkpoint(model_config=cfg, tokenizer=pieces, weights=made.state_dict(),
                                           step=9, notes={"trained": trained}))  # fmt: skip
        run = tmp_path / f"run-{'-'.join(trained)}-{taken}"
        shutil.copytree(top / "pieces", run)
        sets = (*CTC_ALONE, f"train.init_from={source}", f"train.init_modules={taken}")
        assert command("train", top, run, "--cpu", sets=sets) == 0
        for name in ("best.pt", "checkpoints/step-0000012.pt"):
            assert load_checkpoint(run / name).notes["trained"] == expected, (trained, taken)
        assert ("train: warning" in capsys.readouterr().out) == (expected == ["ctc"])
        (run / "stage-train.json").unlink()
        (run / "checkpoints" / "step-0000012.pt").unlink()
        source.unlink()  # a run that is resumed does not need it
        assert command("train", top, run, "--cpu", sets=sets) == 0
        assert load_checkpoint(run / "checkpoints" / "step-0000012.pt").notes["trained"] == expected
        assert "transducer" not in expected or "train: warning" not in capsys.readouterr().out
