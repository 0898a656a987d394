"""The benchmark of transcription runs, and its model emits the requested number of tokens."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from maya.encoders import FastConformerConfig
from maya.models.hybrid import hybrid
from maya.models.speech_model import SpeechModel
from tools.bench import transcribe as bench_transcribe

SMALL = ["--layers", "1", "--width", "32", "--vocab", "20", "--threads", "1", "--min-seconds", "1"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, lines = tmp_path_factory.mktemp("speech"), []
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", 0.1 * torch.randn(16000 + 4000 * i).numpy(), 16000)
        text = "abcde fghij klmno"[i:]
        lines.append(json.dumps({"audio": f"{i}.wav", "text": text, "duration": 1 + i / 4}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder / "manifest.jsonl"


def test_comparison_of_maya_with_itself(
    manifest: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_transcribe, "hugging_face_taker", bench_transcribe.maya_taker)
    options = ["--manifest", str(manifest), "--files", "4", "--rounds", "1"]
    for head in ("tdt", "ctc"):
        bench_transcribe.main(["compare", "--against", "hf", "--head", head, *SMALL, *options])
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert result["hf equal texts"] == "4 of 4" and result["audio seconds"] == 6.0
        assert 1 < result["characters a second"] < 16 and set(result["hf over maya"]) == {"clock", "cpu"}


def test_long_audio_runs_in_a_subprocess(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--manifest", str(manifest), "--files", "4", "--minutes", "0.1"]
    bench_transcribe.main(["long", *SMALL, *options])
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["audio"] == 0.384 and row["features"] == 0.192 and row["tokens"] > 0
    assert row["above start"] > 0


def test_every_weight_maps_to_hugging_face() -> None:
    model = SpeechModel(hybrid(vocab_size=7, encoder=FastConformerConfig(n_layers=1, d_model=32)))
    decoder, lstm = model.heads["transducer"].decoder, "prediction.dec_rnn.lstm."
    state = bench_transcribe.renamed(decoder.state_dict(), {"prediction.embed.": "e.", lstm: "decoder.lstm."})
    assert len(state) == len(decoder.state_dict()) and "decoder.lstm.weight_hh_l1" in state
