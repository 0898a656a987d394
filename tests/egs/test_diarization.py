"""The recipe of diarization: meetings as files, batches of meetings, and the scores of systems on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import maya
from egs.diarization import data, evaluate
from maya.align.speakers.config import SpeakersConfig
from maya.align.speakers.encoder import load_encoder, load_speakers
from maya.align.speakers.end_to_end import EndToEndSpeakers
from maya.align.speakers.tracking import diarize
from maya.audio.load import load_audio
from maya.config import to_dict
from maya.data.loading.loader import EvalLoader, TrainLoader
from maya.data.loading.meetings import TURNS, MeetingConfig
from maya.data.plan import BatchPlan, PlanConfig
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus
from maya.data.table.spans import events_in
from maya.data.table.table import Table, part_path
from maya.decode.hypothesis import Hypothesis, SpeakerTurn, Word
from maya.encoders import RecurrentConfig
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.heads import DiarizationConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import build_model
from maya.score.files.transcripts import read_transcripts
from tests.recipes.test_verify import save

RATE = 16000
MEETINGS = MeetingConfig(speakers=(2, 3), seconds=6.0, overlap=0.2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of 8 speakers, 4 of them in training; their voices are tones of 1.2 s, with 0.1 s of silence
    around them that the label leaves out."""
    top = tmp_path_factory.mktemp("diarization")
    (top / "corpus").mkdir()
    rows = []
    for number in range(8):
        for take in range(4):
            time = np.arange(round(1.4 * RATE)) / RATE
            tone = 0.1 * np.sin(2 * np.pi * (150 + 60 * number) * time) * ((time > 0.1) & (time < 1.3))
            name = f"p{number}-{take}"
            soundfile.write(top / "corpus" / f"{name}.wav", tone + 1e-4 * np.sin(9000 * time), RATE)
            rows.append({
                "id": name, "audio": f"{name}.wav", "text": f"word {take}", "language": "en",
                "speaker": f"p{number}", "split": "train" if number < 4 else "test",
                "labels": {TURNS: "0.1-1.3 speech"},
            })  # fmt: skip
    (top / "corpus" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = PrepareConfig()
    cfg.split.dev = cfg.split.test = 0.0
    prepare_corpus(top / "corpus", top / "data", languages=["en"], cfg=cfg)
    return top


def write(prepared: Path, overlap: float) -> Path:
    out, options = prepared / f"set{overlap}", ["--speakers", "2", "--count", "3", "--set", "seconds=6"]
    options += ["--set", f"overlap={overlap}"]
    data.main(["meetings", "--data", str(prepared / "data"), *options, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def written(prepared: Path) -> Path:
    """Meetings of the test speakers as files."""
    return write(prepared, 0.2)


@pytest.fixture(scope="module")
def run(prepared: Path) -> Path:
    """A run with an untrained head."""
    torch.manual_seed(1)
    model = build_model(SpeechModelConfig(
        features=LogMelConfig(num_mels=40, dither=0.0), encoder=RecurrentConfig(d_model=16, n_layers=1),
        heads={"speakers": DiarizationConfig(speakers=3, hidden=16, n_layers=1, on=0.4, off=0.4)},
    ))  # fmt: skip
    return save(model, prepared / "run", {"trained": ["speakers"]})


def test_meetings_are_written_with_their_references(written: Path) -> None:
    meetings = evaluate.read_set(written)
    words = read_transcripts(written / "ref.stm", "ref")
    assert [meeting.id for meeting in meetings] == ["m000", "m001", "m002"]
    for meeting in meetings:
        assert meeting.speakers == 2 and meeting.language == "en"
        loud = meeting.audio.unfold(0, 320, 320).square().mean(1).sqrt() > 0.01
        speech = torch.zeros(len(loud), dtype=torch.bool)
        for turn in meeting.turns:
            speech[round(turn.start * 50) : round(turn.end * 50)] = True
        assert float((loud != speech).float().mean()) < 0.06
        own = [row for row in words if row.recording == meeting.id]
        assert {row.speaker for row in own} == {turn.speaker for turn in meeting.turns}
        assert all(row.text.startswith("word ") and row.end > row.start for row in own)  # type: ignore[operator]


def test_batches_of_meetings_have_their_turns(prepared: Path) -> None:
    table = Table.open(part_path(prepared / "data", "train"))
    utterances, _ = data.mixer_of(MEETINGS, table, np.arange(len(table)))
    letters: Any = None
    plan = BatchPlan(
        utterances.durations, utterances.token_counts, utterances.langs, PlanConfig(max_seconds=6.0)
    )
    options: dict[str, Any] = {"sample_rate": RATE, "mixing": MEETINGS}
    _, batch = next(iter(TrainLoader(utterances, letters, ("en",), plan, **options)))
    again = [made for made in EvalLoader(utterances, letters, ("en",), **options)]
    assert batch.sources is None and len(set(map(len, (batch.ids, batch.labels[TURNS])))) == 1
    seconds = dict(zip(batch.ids, (batch.audio_lens / RATE).tolist(), strict=True))
    for name, label in zip(batch.ids, batch.labels[TURNS], strict=True):
        events = events_in(label)
        assert 2 <= len({speaker for speaker, _, _ in events}) <= 3
        assert max(end for _, _, end in events) <= seconds[name] + 1e-3
    labels = {name: label for made in again for name, label in zip(made.ids, made.labels[TURNS], strict=True)}
    assert all(labels[name] == label for name, label in zip(batch.ids, batch.labels[TURNS], strict=True))
    with pytest.raises(MayaError, match="changes no speeds"):
        TrainLoader(utterances, letters, ("en",), plan, speed_perturb=(0.9, 1.1), **options)


def test_a_run_diarizes_recordings_in_the_place_of_an_encoder(run: Path, written: Path) -> None:
    path = str(run / "best.pt")
    audio = load_audio(written / "audio" / "m000.wav", RATE)
    speakers = load_speakers(path)
    assert isinstance(speakers, EndToEndSpeakers)
    turns = diarize(audio.split(8000), RATE, SpeakersConfig(weights=path))
    assert turns == speakers.turns(audio) and turns
    assert all(0 <= turn.start < turn.end <= len(audio) / RATE + 0.1 for turn in turns)
    with pytest.raises(MayaError, match="has no embeddings"):
        load_encoder(path)
    assert isinstance(maya.load(run, "cpu").model.head("speakers").cfg, DiarizationConfig)


def test_systems_are_scored_with_both_collars(run: Path, written: Path, tmp_path: Path) -> None:
    evaluate.main([str(written), "--run", str(run), "--out", str(tmp_path / "out.json")])
    figures = json.loads((tmp_path / "out.json").read_text())["set0.2"]["end to end, 3 speakers at most"]
    assert set(figures) == {"collar 0", "collar 0.25", "number_right"} and figures["collar 0"]["der"] > 0
    meetings = evaluate.read_set(written)
    _, right = evaluate.score(meetings, {"reference": [meeting.turns for meeting in meetings]})
    assert right["reference"]["collar 0"]["der"] == 0 and right["reference"]["number_right"] == 1


def test_words_get_the_speakers_of_each_system(prepared: Path) -> None:
    pytest.importorskip("meeteval", exc_type=ImportError)
    written = write(prepared, 0.0)
    meetings = evaluate.read_set(written)
    refs = read_transcripts(written / "ref.stm", "ref")
    hyps = [
        Hypothesis(words=[
            Word(text=text, start=row.start, end=(row.start or 0.0) + 0.05)
            for row in sorted(refs, key=lambda row: row.start or 0.0) if row.recording == meeting.id
            for text in row.text.split()
        ])
        for meeting in meetings
    ]  # fmt: skip
    nobody = [[SpeakerTurn(speaker="A", start=0.0, end=99.0)] for _ in meetings]
    systems = {"reference": [meeting.turns for meeting in meetings], "one speaker": nobody}
    rates = evaluate.word_errors(written, meetings, hyps, systems)
    assert rates["reference"]["cpWER"] == 0 < rates["one speaker"]["cpWER"]


def test_meetings_need_speakers_of_a_language(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["meetings", "--data", str(prepared / "data"), "--out", str(prepared / "none"), "--speakers"]
    with pytest.raises(SystemExit, match="need utterances of as many"):
        data.main([*options, "5"])
    assert to_dict(MEETINGS)["speakers"]
