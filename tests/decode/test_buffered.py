"""Buffered streaming: an encoder that needs the audio around a frame gives in chunks what it gives whole."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maya.decode.long.buffered import BufferConfig, WindowBuffer, encode_windows
from maya.decode.long.long_audio import LongAudioConfig, transcribe_long
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.models.speech_model import build_model
from tests import tone_recognizer
from tools.bench import not_speech as sounds


def untrained(encoder: str = "fastconformer", loss: str = "tdt", **options: Any) -> Recognizer:
    """Random weights; a frame of the FastConformer sees 16 frames (0.64 s) on each side."""
    cfg: Any = tone_recognizer.config(encoder)
    if encoder == "fastconformer":
        cfg.heads["transducer"].loss = loss
        cfg.features.normalize = "none"
        cfg.encoder.att_context_size, cfg.encoder.conv_kernel = ((4, 4),), 9
        cfg.encoder.conv_norm = "layer_norm"
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.15)
    tokenizer = tone_recognizer.tokenizer()
    return Recognizer(model=model, tokenizer=tokenizer, device=torch.device("cpu"))


def speech(seconds: float) -> Tensor:
    return torch.from_numpy(sounds.melody(seconds) + sounds.pink_noise(seconds, -30))


@pytest.mark.parametrize(("loss", "method"), [("tdt", "transducer"), ("rnnt", "transducer"), ("tdt", "ctc")])
def test_chunks_give_the_hypothesis_of_the_whole(loss: str, method: str) -> None:
    recognizer, audio = untrained(loss=loss), speech(10)[:-777]
    (expected,) = recognizer.transcribe(audio, method=method)
    assert len(expected.tokens) > 15
    cfg = BufferConfig(left_seconds=1.2, chunk_seconds=1.6, right_seconds=1.2)
    stream = recognizer.stream(method=method, buffer=cfg)
    assert stream.latency_seconds == pytest.approx(2.8)
    for _ in range(2):  # it begins anew
        counts = []
        for block in audio.split(5000):
            counts.append(len(stream.accept(block).tokens))
        hyp = stream.finish()
        assert (hyp.tokens, hyp.frames, hyp.durations) == (
            expected.tokens,
            expected.frames,
            expected.durations,
        )
        np.testing.assert_allclose(hyp.scores, expected.scores, rtol=1e-3, atol=1e-4)
        assert hyp.text == expected.text and counts == sorted(counts) and 0 < counts[-1] < len(hyp.tokens)
    long = LongAudioConfig(strategy="buffered", buffer=cfg)
    hyp = transcribe_long(recognizer, method, iter(audio.split(7000)), None, long)
    assert (hyp.tokens, hyp.frames) == (expected.tokens, expected.frames) and hyp.segments


@pytest.mark.parametrize("encoder", ["fastconformer", "zipformer", "lact"])
@pytest.mark.parametrize("left_seconds", [0.0, 1.0])
def test_no_frame_is_lost_or_doubled(encoder: str, left_seconds: float) -> None:
    recognizer = untrained(encoder)
    cfg = BufferConfig(left_seconds=left_seconds, chunk_seconds=1.0, right_seconds=0.5)
    for count in (0, 100, 16000, 16000 * 5 + 123, 24000):
        audio, buffer = speech(6)[:count], WindowBuffer(cfg, recognizer.model)
        windows = [window for block in audio.split(3000) for window in buffer.push(block)]
        windows.append(buffer.finish())
        with torch.inference_mode():
            chunks = encode_windows(recognizer.model, windows)
        expected = recognizer.model.cfg.clock.frames(count) if count else 0
        assert sum(map(len, chunks)) == expected, count


@pytest.mark.parametrize("encoder", ["zipformer", "lact"])
@pytest.mark.parametrize("method", ["transducer", "ctc"])
def test_enough_context_gives_the_whole(encoder: str, method: str) -> None:
    """A window that holds the recording is encoded as the recording."""
    recognizer, audio = untrained(encoder), speech(4)
    (expected,) = recognizer.transcribe(audio, method=method)
    cfg = LongAudioConfig(strategy="buffered", buffer=BufferConfig(right_seconds=60.0))
    hyp = transcribe_long(recognizer, method, iter([audio]), None, cfg)
    assert (hyp.tokens, hyp.frames) == (expected.tokens, expected.frames)
    cfg.buffer = BufferConfig(left_seconds=1.0, chunk_seconds=1.0, right_seconds=1.0)
    assert transcribe_long(recognizer, method, iter([audio]), None, cfg).tokens


def test_a_stream_of_24_hours_does_not_grow() -> None:
    recognizer, sizes = untrained(), []
    buffer, block = WindowBuffer(BufferConfig(), recognizer.model), torch.zeros(60 * 16000)
    for _ in range(24 * 60):
        assert len(buffer.push(block)) in (5, 6)
        sizes.append(buffer.stored_samples)
    assert max(sizes) == min(sizes[1:]) <= 26 * 16000


@pytest.mark.parametrize("method", ["transducer", "ctc"])
def test_states_do_not_grow(method: str) -> None:
    """All tensors of a stream, after 10 chunks and after 200."""
    recognizer = untrained()
    cfg = BufferConfig(left_seconds=0.2, chunk_seconds=0.2, right_seconds=0.2)
    stream: Any = recognizer.stream(method=method, buffer=cfg)
    block, sizes = speech(1.0)[:3200], []
    for _ in range(200):
        stream.accept(block)
        sizes.append(
            _numbers({k: v for k, v in vars(stream.row.decoder).items() if k not in ("hyps", "head")})
        )
    assert sizes[10] == sizes[-1]


def _numbers(value: Any) -> int:
    """The numbers in all tensors and lists of a state; modules do not count."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, torch.nn.Module):
        return 0
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    if isinstance(value, (list, tuple)):
        return len(value) + sum(map(_numbers, value))
    return _numbers(vars(value)) if hasattr(value, "__dict__") else 1


def test_refusals() -> None:
    recognizer = untrained()
    with pytest.raises(MayaError, match="same_speaker needs a LaCT"):
        recognizer.stream(buffer=BufferConfig()).finish(same_speaker=True)
    with pytest.raises(MayaError, match="cannot stream"):
        recognizer.stream()
    short = WindowBuffer(
        BufferConfig(left_seconds=0.0, chunk_seconds=1.0, right_seconds=0.0), recognizer.model
    )
    assert short.push(torch.zeros(16000))
