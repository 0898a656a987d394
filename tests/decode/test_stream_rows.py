"""Rows that begin, pause and end at any time give what each gives alone."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.decode.hypothesis import Hypothesis
from maya.decode.long.buffered import BufferConfig
from maya.decode.recognizer import Recognizer
from maya.decode.stream_rows import StreamRow, StreamRows
from maya.encoders.lact.config import streaming
from maya.models.speech_model import SpeechModel
from maya.recipes.lact_presets import lact_tiny
from tests.decode import test_buffered, test_streaming, test_streaming_zipformer
from tests.tiny import LetterTokenizer

SAMPLES = (40_123, 16_000, 0, 700, 25_000, 64_000)
BUFFER = BufferConfig(left_seconds=1.2, chunk_seconds=1.6, right_seconds=1.2)


def lact() -> Recognizer:
    torch.manual_seed(0)
    cfg = test_streaming.recognizer().model.cfg
    small = lact_tiny(d_model=32, n_layers=2, ff_dim=32, feat_in=cfg.features.num_mels)
    cfg.encoder = streaming(small, chunk=4)
    model = SpeechModel(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return Recognizer(model=model, tokenizer=LetterTokenizer(), device=torch.device("cpu"))  # type: ignore[arg-type]


RECOGNIZERS: dict[str, Any] = {
    "fastconformer": test_streaming.recognizer,
    "rnnt": lambda: test_streaming.recognizer("rnnt"),
    "zipformer": test_streaming_zipformer.recognizer,
    "lact": lact,
    "buffered": test_buffered.untrained,
}


def make_rows(name: str, method: str) -> tuple[Recognizer, StreamRows, BufferConfig | None]:
    torch.manual_seed(1)
    ours, buffer = RECOGNIZERS[name](), BUFFER if name == "buffered" else None
    choice = ours.choose_method(method, stream=True)
    return ours, StreamRows(ours.make_method(choice), buffer=buffer), buffer


def noise(samples: int, seed: int) -> Tensor:
    audio = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return audio * torch.linspace(0.01, 0.5, samples)


def assert_same(hyp: Hypothesis, expected: Hypothesis) -> None:
    assert (hyp.tokens, hyp.frames, hyp.durations) == (expected.tokens, expected.frames, expected.durations)
    torch.testing.assert_close(torch.tensor(hyp.scores), torch.tensor(expected.scores), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        torch.tensor(hyp.confidences), torch.tensor(expected.confidences), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("method", ["transducer", "ctc"])
@pytest.mark.parametrize("name", sorted(RECOGNIZERS))
def test_a_row_among_others_equals_a_stream_alone(name: str, method: str) -> None:
    """Rows are opened one after another while others go on, in pieces of any size, nothing among them."""
    ours, rows, buffer = make_rows(name, method)
    expected = []
    for seed, samples in enumerate(SAMPLES):
        stream = ours.stream(method=method, buffer=buffer)
        stream.accept(noise(samples, seed).numpy())
        expected.append(stream.finish())
    assert sum(len(hyp.tokens) for hyp in expected) > 20
    draw = random.Random(2)
    waiting = list(range(len(SAMPLES)))
    running: dict[int, tuple[StreamRow, Tensor]] = {}
    done: dict[int, StreamRow] = {}
    largest = 0
    while waiting or running:
        while waiting and len(running) < 4:
            number = waiting.pop(0)
            running[number] = rows.open(), noise(SAMPLES[number], number)
        active = [number for number in running if draw.random() < 0.8]
        sizes = {number: draw.choice([0, 320, 1280, 5000, 20_000]) for number in active}
        finals = {number: len(running[number][1]) <= sizes[number] for number in active}
        if not active:
            continue
        largest = max(largest, len(active))
        rows.push(
            [running[number][0] for number in active],
            [running[number][1][: sizes[number]] for number in active],
            [finals[number] for number in active],
        )
        for number in active:
            row, audio = running.pop(number)
            if finals[number]:
                done[number] = row
            else:
                running[number] = row, audio[sizes[number] :]
    assert largest == 4
    for number, hyp in enumerate(expected):
        assert_same(done[number].hypothesis, hyp)
        if SAMPLES[number]:
            assert done[number].frames == ours.model.cfg.clock.frames(SAMPLES[number])


def test_a_new_text_counts_from_where_it_begins() -> None:
    ours, rows, _ = make_rows("fastconformer", "ctc")
    row, audio = rows.open("hi"), noise(64_000, 5)
    rows.push([row], [audio[:32_000]], [False])
    first, at = row.hypothesis, row.frames
    rows.begin_text(row)
    rows.push([row], [audio[32_000:]], [True])
    stream = ours.stream("hi", method="ctc")
    stream.accept(audio.numpy())
    whole = stream.finish()
    frames = first.frames + [row.first_frame + frame for frame in row.hypothesis.frames]
    assert row.first_frame == at and len(frames) >= len(whole.frames) and set(whole.frames) <= set(frames)
