"""Marks and capitals in whole recordings: words, segments and text, `maya transcribe --punctuate`, and the
server's queue, where others may vote."""

import io
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from maya.decode.hypothesis import Hypothesis
from maya.decode.punctuation import Punctuation
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import TranscriptionConfig
from maya.decode.words import join_words
from maya.errors import MayaError
from maya.heads import PunctuationConfig, PunctuationHead
from maya.models.speech_model import SpeechModel
from maya.recipes.transcribe import TranscribeOptions
from maya.serve.offline import OfflineQueue, Rewriting
from maya.text.punctuation import UPPER
from tests.decode import test_streaming
from tests.decode.test_stream_rows import noise

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
    with pytest.raises(MayaError, match="--punctuate is for whole recordings"):
        TranscribeOptions(punctuate=True, stream=True).check(["a.wav"])


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
