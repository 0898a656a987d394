"""`maya transcribe --check`: a verdict for each segment (recipes.transcribe_check)."""

import json
from pathlib import Path

import pytest
import torch

from maya.align.formats.base import FormatConfig
from maya.align.formats.structured import jsonl
from maya.decode.hypothesis import Hypothesis, TextSegment
from maya.decode.transcription import Recording, Transcript
from maya.errors import MayaError
from maya.recipes.transcribe import TranscribeOptions
from maya.recipes.transcribe_check import SegmentCheck
from tests.convert import whisper_files
from tests.decode import test_streaming
from tests.tiny import LetterTokenizer


class Letters(LetterTokenizer):
    def encode(self, text: str, language: str) -> list[int]:
        return [ord(letter) - 97 for letter in text]


def test_each_segment_gets_a_verdict() -> None:
    ours = test_streaming.recognizer()
    ours.tokenizer = Letters()
    audio = 0.1 * torch.randn(32_000)
    segments = [TextSegment(text="ab", start=0.1, end=0.9), TextSegment(text="abcdefgh", start=1.0, end=1.1)]
    transcript = Transcript(id="x", place=0, seconds=2.0, hypothesis=Hypothesis(text="ab", segments=segments))
    SegmentCheck(ours)(Recording(audio=audio.numpy(), id="x"), transcript)
    shown = json.loads(jsonl(transcript, FormatConfig()))["segments"]
    assert [set(row["check"]) for row in shown] == 2 * [
        {"nats", "speech", "confidence", "loops", "suspicion", "made_up"}
    ]
    assert shown[0]["check"]["nats"] > 0 and shown[1]["check"]["made_up"]


def test_the_check_needs_a_format_that_holds_it() -> None:
    with pytest.raises(MayaError, match="--check writes a verdict for each segment"):
        TranscribeOptions(check_texts=True).check(["a.wav"])


def test_a_segment_of_whispers_whole_window_is_checked(tmp_path: Path) -> None:
    model = whisper_files.recognizer(tmp_path)
    seconds = whisper_files.POSITIONS / 50  # the margins beside it would be too long for the encoder
    segment = TextSegment(text="the ant", start=1.0, end=1.0 + seconds)
    hyp = Hypothesis(text="the ant", segments=[segment], language="en")
    audio = whisper_files.speech(seconds + 2.0)
    transcript = Transcript(id="x", place=0, seconds=seconds + 2.0, hypothesis=hyp)
    SegmentCheck(model)(Recording(audio=audio.numpy(), id="x"), transcript)
    assert segment.check is not None and segment.check["nats"] is None and "speech" in segment.check
