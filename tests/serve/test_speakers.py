"""Speakers in live sessions and in what the server answers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.align.speakers.config import SpeakersConfig
from maya.align.speakers.encoder import VoiceEncoder
from maya.errors import MayaError
from maya.serve.events import Final
from tests.serve.test_session import QUIET, RATE, in_pieces, model, recording, whole

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
from websockets.sync.client import connect  # noqa: E402

from tests.serve.test_server import Running, config, int16, rest, wav  # noqa: E402


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> SpeakersConfig:
    """An encoder of random weights: the flow, not the voices, is tested here."""
    path: Path = tmp_path_factory.mktemp("weights") / "pretrained.pt"
    torch.manual_seed(0)
    torch.save({"model_state": VoiceEncoder().state_dict()}, path)
    return SpeakersConfig(weights=str(path), threshold=0.99, speaker_seconds=0.0)


def test_words_have_speakers_however_the_audio_comes(speakers: SpeakersConfig) -> None:
    live = model("fastconformer")
    cfg, audio = replace(QUIET, speakers=speakers), recording(0)
    expected = whole(live, audio, cfg)
    events = [event for event in expected if isinstance(event, Final)]
    words = [word for event in events for word in event.words]
    assert words and all(word.speaker for word in words) and all(event.speaker for event in events)
    plain = [event for event in whole(live, audio) if isinstance(event, Final)]
    assert [event.text for event in plain] == [event.text for event in events]
    assert all(event.speaker is None and not event.words[0].speaker for event in plain)
    for seed in range(2):
        session, got = live.open(cfg=cfg), []
        for piece in in_pieces(audio, seed):
            got += session.feed(piece, RATE)
        assert got + session.finish() == expected
    # Two sessions together, one of which began earlier, are each as if they were alone.
    first, second = live.open(cfg=cfg), live.open(cfg=cfg)
    first.push(audio, RATE)
    first.push_end()
    second.push(recording(1), RATE)
    second.push_end()
    together: dict[int, list[Any]] = {0: [], 1: []}
    while first.blocks or second.blocks:
        rows = [row for row in (first, second) if row.blocks]
        for row, own in zip(rows, live.step(rows), strict=True):
            together[0 if row is first else 1] += own
    assert named(together[0]) == named(expected)
    assert named(together[1]) == named(whole(live, recording(1), cfg))


def named(events: list[Any]) -> list[Any]:
    """Texts and speakers; batches change confidences in their last digit."""
    finals = [event for event in events if isinstance(event, Final)]
    return [(final.text, final.speaker, [word.speaker for word in final.words]) for final in finals]


def test_speakers_need_the_voice_detector(speakers: SpeakersConfig) -> None:
    with pytest.raises(MayaError, match="voice detector"):
        model("fastconformer").open(cfg=replace(QUIET, vad=None, speakers=speakers))


@pytest.fixture(scope="module")
def running(speakers: SpeakersConfig) -> Iterator[Running]:
    server = Running(replace(config(), session=replace(QUIET, speakers=speakers)))
    yield server
    server.close()


@pytest.mark.parametrize("query", ["", "?speakers=false"])
def test_the_native_protocol_names_speakers(running: Running, query: str) -> None:
    with connect(running.url(f"/v1/stream{query}")) as client:
        client.send(int16(recording(0)).tobytes())
        client.send('{"type": "end"}')
        finals = [message for message in rest(client) if message["type"] == "final"]
    assert finals and all((final["speaker"] is None) == bool(query) for final in finals)
    assert all((word["speaker"] is None) == bool(query) for final in finals for word in final["words"])


def test_deepgram_words_have_numbers(running: Running) -> None:
    with connect(running.url("/v1/listen?encoding=linear16&sample_rate=16000")) as client:
        client.send(int16(recording(0)).tobytes())
        client.send(json.dumps({"type": "CloseStream"}))
        answers = [message for message in rest(client) if message.get("is_final")]
    words = [word for answer in answers for word in answer["channel"]["alternatives"][0]["words"]]
    assert words and all(isinstance(word["speaker"], int) for word in words)


def test_diarized_json(running: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=running.url("/v1", "http"), api_key="unused", max_retries=0)
    upload = ("a.wav", wav(recording(0)))
    answer = client.audio.transcriptions.create(
        file=upload, model="small", response_format="diarized_json", chunking_strategy="auto"
    )
    assert answer.segments and {segment.speaker for segment in answer.segments} <= set("ABCDEFGH")
    assert " ".join(segment.text for segment in answer.segments) == answer.text
