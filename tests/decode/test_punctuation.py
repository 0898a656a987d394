"""Marks and capitals in whole recordings: words, segments and text, `maya transcribe --punctuate`, and the
server's queue, where others may vote."""

import io
import json
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from maya.decode.hypothesis import Hypothesis
from maya.decode.long.buffered import BufferConfig
from maya.decode.punctuation import LivePunctuation, PunctuatedStream, Punctuation
from maya.decode.recognizer import Recognizer
from maya.decode.streaming import RecognizerStream
from maya.decode.transcription import TranscriptionConfig
from maya.decode.words import join_words
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import PunctuationConfig, PunctuationHead
from maya.models.speech_model import SpeechModel
from maya.recipes.transcribe_live import Printer
from maya.serve.offline import OfflineQueue, Rewriting
from maya.text.punctuation import UPPER
from tests.decode import test_streaming
from tests.decode.test_stream_rows import noise
from tests.tiny import NumberTokenizer

RATE = 16_000


@pytest.fixture(scope="module")
def writer() -> Recognizer:
    """Its head says of every word: a full stop, in capitals."""
    torch.manual_seed(1)
    old = test_streaming.recognizer()
    cfg = old.model.cfg
    cfg.heads |= {"punctuation": PunctuationConfig()}
    model = SpeechModel(cfg).eval()
    model.load_state_dict(old.model.state_dict(), strict=False)
    head = model.head("punctuation")
    assert isinstance(head, PunctuationHead)
    for layer, number in ((head.marks, 2), (head.case, UPPER)):
        layer.weight.data.zero_()
        layer.bias.data.copy_(torch.eye(len(layer.bias))[number])
    return Recognizer(model=model, tokenizer=old.tokenizer, device=old.device)


def recognised(ours: Recognizer, audio: np.ndarray) -> Hypothesis:
    (hyp,) = ours.transcribe(audio, method="ctc")
    assert hyp.words
    return hyp


def test_words_segments_and_text_are_rewritten(writer: Recognizer) -> None:
    audio = noise(3 * RATE, 3).clip(-1, 1).numpy()
    hyp = recognised(writer, audio)
    plain, times = hyp.text.split(), [(w.start, w.end) for w in hyp.words]
    Punctuation(writer)(hyp, torch.from_numpy(audio))
    assert hyp.text.split() == [f"{word.upper()}." for word in plain] == [w.text for w in hyp.words]
    assert [(w.start, w.end) for w in hyp.words] == times
    assert [s.text for s in hyp.segments] == hyp.text.split()  # a sentence each
    hyp = recognised(writer, audio)
    for segment in hyp.segments:
        segment.check = {"made_up": False}
    count = len(hyp.segments)
    Punctuation(writer)(hyp, torch.from_numpy(audio))
    assert len(hyp.segments) == count and all(segment.check for segment in hyp.segments)
    assert join_words([s.text for s in hyp.segments]) == hyp.text


def test_models_and_options_without_it_are_refused(writer: Recognizer) -> None:
    with pytest.raises(MayaError, match="no head for punctuation"):
        Punctuation(test_streaming.recognizer())
    untrained = Recognizer(model=writer.model, tokenizer=writer.tokenizer, device=writer.device)
    untrained.model.untrained = ("punctuation",)
    with pytest.raises(MayaError, match="never trained"):
        Punctuation(untrained)
    untrained.model.untrained = ()


def opinionated(model: SpeechModel) -> None:
    """Random weights that write all marks and cases."""
    head = model.head("punctuation")
    assert isinstance(head, PunctuationHead)
    torch.manual_seed(5)
    for layer in (head.marks, head.case):
        torch.nn.init.normal_(layer.weight, std=2.0)
        torch.nn.init.zeros_(layer.bias)


def numbered(recognizer: Recognizer) -> Recognizer:
    """A copy whose text is a word for each token."""
    tokenizer: Any = NumberTokenizer()
    model = SpeechModel(recognizer.model.cfg).eval()
    model.load_state_dict(recognizer.model.state_dict())
    return Recognizer(model=model, tokenizer=tokenizer, device=recognizer.device)


@pytest.mark.parametrize("buffered", [False, True])
def test_a_stream_writes_what_stays(writer: Recognizer, buffered: bool) -> None:
    """Pieces of 0.1 s: no stable part changes, and in the end the text is that of all words at once. Few
    frames are kept."""
    recognizer = numbered(writer)
    opinionated(recognizer.model)
    buffer = BufferConfig(left_seconds=1.0, chunk_seconds=0.5, right_seconds=0.5) if buffered else None
    audio = torch.cat([noise(RATE, n) * level for n in range(8) for level in (1, 0.01)]).clip(-1, 1).numpy()
    streams = [
        RecognizerStream(
            recognizer.make_method(recognizer.choose_method("ctc")), recognizer.tokenizer, buffer=buffer,
            keep_frames=True,
        ) for _ in range(2)
    ]  # fmt: skip
    written, before, kept = PunctuatedStream(streams[0], Punctuation(recognizer)), "", 0
    for begin in range(0, len(audio), RATE // 10):
        hyp = written.accept(audio[begin : begin + RATE // 10])
        assert hyp.text.startswith(before) and hyp.text.startswith(written.stable_text)
        assert written.stable_text.startswith(before)
        before, kept = written.stable_text, max(kept, streams[0].row.kept_frames().shape[1])
    assert len(before.split()) > 8
    last, row = written.finish(), streams[1].row
    streams[1].accept(audio)
    plain = streams[1].finish()
    frames = row.kept_frames()
    assert kept < frames.shape[1] * 0.8
    words = LivePunctuation(Punctuation(recognizer), None).write(
        plain.words, Encoded(frames, torch.tensor([frames.shape[1]])), 0.0
    )
    assert last.text.split() == [word.text for word in words] and last.text.startswith(before)
    assert {mark for mark in ",.?!" if mark in last.text} and written.stable_text == ""


def test_a_pipe_gets_what_stays(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        printer = Printer("a", RATE, as_json=as_json, named=False)
        for text, stable in (
            ("Yes", ""),
            ("Yes, he", ""),
            ("Yes, he did. not", "Yes, he"),
            ("Yes, he did.", None),
        ):
            if stable is None:
                printer.finish(Hypothesis(text=text))
            else:
                printer.show(Hypothesis(text=text), RATE, stable)
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == "Yes, he did."
    assert [json.loads(row).get("stable") for row in rows] == [0, 0, 7, None]


@pytest.mark.parametrize("options", [
    {"punctuate": True}, {"rover": ("transducer",)}, {"others": True}, {"others": True, "punctuate": True},
])  # fmt: skip
def test_the_queue_of_whole_recordings(writer: Recognizer, options: dict[str, Any]) -> None:
    """Equal voters change nothing, and marks are written after the vote."""
    options = options | ({"others": [writer]} if "others" in options else {})
    data = io.BytesIO()
    soundfile.write(data, noise(2 * RATE, 3).clip(-1, 1).numpy(), RATE, format="WAV")
    texts = []
    for rewriting in (None, Rewriting(**options)):
        whole = TranscriptionConfig(long_audio=None)
        offline = OfflineQueue(writer, waiting=2, max_seconds=9.0, cfg=whole, rewriting=rewriting)
        hyp = offline.submit(data.getvalue()).result(60).hypothesis
        offline.close()
        assert hyp is not None
        texts.append(hyp.text)
    plain = texts[0].split()
    assert plain and texts[1].split() == (
        [f"{w.upper()}." for w in plain] if "punctuate" in options else plain
    )
