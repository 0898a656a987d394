"""Word times by phonemes."""

from typing import Any

import pytest
import torch

from maya.align.phonemes import PhonemeAligner
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import CTCConfig, UnitCTCConfig
from maya.text.phonemes import is_installed
from tests.score.test_hallucination import model_of, peaky

pytestmark = pytest.mark.skipif(not is_installed(), reason="eSpeak NG is not installed")


def test_words_and_loose_marks_have_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(ctc=CTCConfig(), phonemes=UnitCTCConfig(units=("h", "ə", "l", "əʊ", "n")))
    recognizer: Any = type("Recognizer", (), {"model": model})()
    aligner = PhonemeAligner(recognizer)
    blank = 5
    #           h  ə  l  əʊ              n  əʊ
    outputs = [blank, 0, 1, 2, 3, 3, blank, blank, 4, 3, blank]
    encoded = peaky(model, "phonemes", outputs)
    monkeypatch.setattr(model, "encode_audio", lambda *_, hidden=(): Encoded(encoded.frames, encoded.lens))
    words = aligner(torch.zeros(16000), "Hello , - no!", "en")
    frames = [(w.text, round(w.start / aligner.seconds), round(w.end / aligner.seconds)) for w in words]
    assert frames == [("Hello,-", 1, 6), ("no!", 8, 10)]
    assert aligner(torch.zeros(16000), "hello " * 9, "en") == []  # too long
    with pytest.raises(MayaError, match="kind unit_ctc"):
        PhonemeAligner(recognizer, "ctc")
