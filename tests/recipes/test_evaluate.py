"""`maya evaluate` gives the same error rates from every manifest format, and from files with references."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

import maya
from maya.models.speech_model import build_model
from maya.recipes.cli import main
from maya.score.wer import wer
from maya.text.tokenizer import Tokenizer, TokenizerConfig
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny, tones


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of tones in one language, and model.pt, an untrained model that writes random text."""
    top = tmp_path_factory.mktemp("evaluate")
    tones.make_corpus(top / "corpus", utterances=8, languages=("hi",))
    lines = (top / "corpus" / "manifest.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    pieces = Tokenizer.train({"hi": texts * 3}, TokenizerConfig(vocab_size=20))
    torch.manual_seed(1)
    cfg = tiny.experiment().model
    cfg.vocab_size, cfg.languages = pieces.vocab_size, ("en", "hi")
    model = build_model(cfg)
    with torch.no_grad():
        model.heads["ctc"].decoder_layers[0].weight *= 30  # type: ignore[operator,union-attr]
    checkpoint = Checkpoint(
        model_config=cfg, tokenizer=pieces, weights=model.state_dict(), step=0, notes={"experiment": "t"}
    )
    save_checkpoint(top / "model.pt", checkpoint)
    return top


def _rows(top: Path) -> list[dict]:
    return [json.loads(line) for line in (top / "corpus" / "manifest.jsonl").read_text().splitlines()]


def _evaluated(top: Path, *arguments: str) -> dict:
    options = ["--method", "ctc", "--json", str(top / "out.json")]
    assert main(["evaluate", str(top / "model.pt"), *arguments, *options]) == 0
    return json.loads((top / "out.json").read_text())


def test_every_manifest_format(top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, corpus = _rows(top), top / "corpus"
    first = _evaluated(top, "--manifest", str(corpus / "manifest.jsonl"), "--num-samples", "3")
    out = capsys.readouterr().out
    hyps = maya.load(top / "model.pt").transcribe([corpus / r["audio"] for r in rows], "hi", method="ctc")
    by_hand = wer([r["text"] for r in rows], [h.text for h in hyps])
    assert len({h.text for h in hyps}) > 3 and by_hand.rate > 0.5  # it does write something
    assert first["languages"]["hi"]["wer"] == pytest.approx(by_hand.rate)
    assert [u["text"] for u in first["utterances"]] == [h.text for h in hyps]
    assert first["method"] == "ctc" and first["checkpoint"].endswith("model.pt")
    assert "Hindi" in out and f"all utterances: WER {100 * by_hand.rate:.2f} % [" in out and ", CER " in out
    assert out.count("\nREF: ") >= 3 and "3 of 8 utterances, worst first" in out

    nemo = [{"audio_filepath": str(corpus / r["audio"]), "text": r["text"]} for r in rows]
    audiofolder = [{"file_name": str(corpus / r["audio"]), "transcription": r["text"]} for r in rows]
    for name, lines in (("nemo.json", nemo), ("metadata.jsonl", audiofolder)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = _evaluated(top, "--manifest", str(tmp_path / name), "--language", "hi")
        assert result["pooled"] == first["pooled"], name
    text = "".join(f"{corpus / r['audio']},{r['text']}\n" for r in rows)
    (tmp_path / "list.csv").write_text("file_name,text\n" + text)
    result = _evaluated(top, "--manifest", str(tmp_path / "list.csv"), "--language", "hi")
    assert result["pooled"] == first["pooled"]
    assert _evaluated(top, "--manifest", str(corpus))["pooled"] == first["pooled"]


def test_segment_of_a_recording(top: Path, tmp_path: Path) -> None:
    path = str(top / "corpus" / _rows(top)[0]["audio"])
    line = {"audio_filepath": path, "text": "ab", "lang": "hi", "offset": 0.25, "duration": 0.5}
    (tmp_path / "part.json").write_text(json.dumps(line) + "\n")
    samples, rate = soundfile.read(path)
    soundfile.write(tmp_path / "part.wav", samples[rate // 4 : rate // 4 + rate // 2], rate)
    (whole,) = maya.load(top / "model.pt").transcribe([tmp_path / "part.wav"], "hi", method="ctc")
    (part,) = _evaluated(top, "--manifest", str(tmp_path / "part.json"))["utterances"]
    assert part["text"] == whole.text and part["words"] == 1


def test_single_files(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(top)[:2]
    files = [str(top / "corpus" / r["audio"]) for r in rows]
    model = str(top / "model.pt")
    assert main(["evaluate", model, *files, "--method", "ctc", "--language", "hi"]) == 0
    said = capsys.readouterr().out
    assert main(["transcribe", model, *files, "--method", "ctc", "--language", "hi"]) == 0
    # Results come as they are done, in any order.
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(said.splitlines())
    assert sorted(line.split("\t")[0] for line in said.splitlines()) == files
    assert main(["transcribe", model, *files, "--method", "ctc_beam", "--language", "hi"]) == 0
    assert sorted(line.split("\t")[0] for line in capsys.readouterr().out.splitlines()) == files
    (whole,) = maya.load(model).transcribe([files[0]], "hi", method="ctc")
    result = _evaluated(top, *files, "--language", "hi", "--reference", whole.text, "a b c")
    assert [u["id"] for u in result["utterances"]] == files
    assert [u["errors"] == 0 for u in result["utterances"]] == [True, False]
    assert result["utterances"][1]["words"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name what to evaluate once"),
        (["a.wav", "--manifest", "m.json"], "name what to evaluate once"),
        (["--manifest", "nothing.json"], "there is no manifest nothing.json"),
        (["--manifest", "m.json", "--reference", "a"], "--reference belongs to audio files"),
        (["a.wav", "--json", "x.json"], "give --reference the text of each file"),
        (["a.wav", "--num-samples", "1"], "give --reference the text of each file"),
        (["a.wav", "--reference", "a", "--device", "gpu"], "this machine has no device 'gpu'"),
        (["a.wav", "--reference", "a", "--language", "hi", "--device", "cuda:99"], "no device 'cuda:99'"),
        (["a.wav", "--reference", "a", "b"], "1 audio files and 2 references"),
        (["a.wav", "--reference", "a"], "say with --language what is spoken"),
        (["a.wav", "--reference", "a", "--language", "hi"], "1 of 1 utterances cannot be evaluated"),
        (
            ["a.wav", "--method", "guess", "--reference", "a", "--language", "hi"],
            "unknown decoding method 'guess'; expected one of auto, transducer",
        ),
    ],
)
def test_bad_arguments_are_refused(
    top: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(top / "model.pt"), *arguments]) == 1
    assert words in capsys.readouterr().err


def test_score_shows_samples_too(top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "decode" / "test"
    out.mkdir(parents=True)
    row = {"id": "a", "ref": "ab cd", "text": "ab ce", "language": "hi", "duration": 1.0, "speaker": "s"}
    (out / "hyps.jsonl").write_text(json.dumps(row) + "\n")
    timing = {"checkpoint": "best.pt", "audio_seconds": 1.0, "seconds": 1.0, "real_time_factor": 1.0}
    (out / "decode.json").write_text(json.dumps(timing))
    assert main(["score", "--run-dir", str(tmp_path), "--num-samples", "5"]) == 0
    assert "REF: ab [cd]\nHYP: ab [ce]" in capsys.readouterr().out
    assert main(["score", "--run-dir", str(tmp_path), "--split", "all", "--num-samples", "5"]) == 1
    assert "name it with --split" in capsys.readouterr().err


def test_results_that_cannot_be_written(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (top / "file").write_text("")
    manifest = ["evaluate", str(top / "model.pt"), "--manifest", str(top / "corpus" / "manifest.jsonl")]
    for place in (top / "file" / "out.json", top / "corpus"):
        assert main([*manifest, "--method", "ctc", "--json", str(place)]) == 1
        assert f"cannot write {place}: " in capsys.readouterr().err
    assert main([*manifest, "--method", "ctc", "--json", str(top / "new" / "folder" / "out.json")]) == 0
    assert (top / "new" / "folder" / "out.json").is_file()


def test_a_recording_without_samples(top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "empty.wav", torch.zeros(0).numpy(), 16000)
    options = ["--reference", "a", "--language", "hi", "--method", "ctc"]
    assert main(["evaluate", str(top / "model.pt"), str(tmp_path / "empty.wav"), *options]) == 1
    assert "empty.wav holds no audio samples; correct or remove them" in capsys.readouterr().err


def test_measures_and_normal_forms(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Groups have an SNR, measured here if preparation did not; the published text is scored as it is."""
    manifest = str(top / "corpus" / "manifest.jsonl")
    result = _evaluated(top, "--manifest", manifest, "--groups", "--normalizer", "none")
    out = capsys.readouterr().out
    assert "lenient WER" in out and " dB " in out and "words/min" in out
    assert [u["ref"] for u in result["utterances"]] == [r["text"] for r in _rows(top)]
    assert all(u["snr"] is not None and u["duration"] > 0 for u in result["utterances"])
    groups = result["measures"]["groups"]
    assert sum(g["utterances"] for g in groups["snr"]) == len(_rows(top))
