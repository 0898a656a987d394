"""Decoding with a language model head through the ordinary methods."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads.language_model import load_tokenizer
from tests import tiny_llm
from tests.models.test_speech_llm import batch_of, head_of, project, stirred

pytest.importorskip("transformers", reason="pip install 'maya-asr[llm]'")
pytest.importorskip("peft", reason="pip install 'maya-asr[llm]'")


def test_generation_is_in_the_table_of_methods(tmp_path: Path) -> None:
    """Tokens and scores are the head's own; a transcript's limit follows from its own length."""
    model = stirred(tiny_llm.make(tmp_path), tokens_per_second=4.0)
    tokenizer: Any = load_tokenizer(str(tmp_path))
    batch = batch_of(tokenizer, [0, 1, 2, 3])
    with torch.inference_mode():
        encoded = model.encode_audio(batch.audio, batch.audio_lens)
        seconds = (encoded.lens * model.frame_seconds).tolist()
        limits = [8 + math.ceil(s * 4.0) for s in seconds]
        expected = head_of(model).generate(*project(model, batch), batch.langs, max_tokens=limits)
    hyps = greedy(model, encoded, "llm", batch.langs)
    assert [h.tokens for h in hyps] == [row.tokens for row in expected]
    assert [h.scores for h in hyps] == [row.scores for row in expected]
    assert all(h.frames == h.durations == [] for h in hyps)
    assert max(len(h.tokens) - n for h, n in zip(hyps, limits, strict=True)) == 0  # some reach their limit
    assert len({len(h.tokens) for h in hyps}) > 1
    ours = Recognizer(model=model, tokenizer=tokenizer, device=torch.device("cpu"))
    audio = [row[:n] for row, n in zip(batch.audio, batch.audio_lens, strict=True)]
    assert ours.choose_method().method == "language_model"
    english = ours.transcribe([audio[0], audio[3]], "en")
    assert [h.tokens for h in english] == [hyps[0].tokens, hyps[3].tokens]
    assert english[0].text == tokenizer.decode(hyps[0].tokens)
    with pytest.raises(MayaError, match="reads the whole utterance before it writes"):
        ours.stream("en")
    with pytest.raises(MayaError, match="language_model cannot decode a stream: a language model reads"):
        ours.stream("en", method="language_model")


def test_rows_without_frames_are_empty(tmp_path: Path) -> None:
    model = stirred(tiny_llm.make(tmp_path))
    frames, lens = torch.randn(3, 6, 32), torch.tensor([6, 0, 2])
    hyps = greedy(model, Encoded(frames, lens), "llm")
    assert [bool(h.tokens) for h in hyps] == [True, False, True]
    none = greedy(model, Encoded(frames[:2], torch.tensor([0, 0])), "llm")
    assert [h.tokens for h in none] == [h.scores for h in none] == [[], []]
