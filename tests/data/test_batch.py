from pathlib import Path

import pytest
import torch

from maya.audio.load import load_audio
from maya.data.loading.batch import make_batch
from maya.data.loading.loader import EvalLoader
from tests.data.making import make_cuts, make_tokenizer


def test_a_batch_is_padded_and_counted(tmp_path: Path) -> None:
    cuts = make_cuts(tmp_path, [1.0, 0.5, 0.25])  # the longest comes first
    tokenizer = make_tokenizer()
    (batch,) = EvalLoader(cuts, tokenizer, ("hi", "en"), sample_rate=16000)
    assert batch.audio.shape == (3, 16000) and batch.audio.dtype == torch.float32
    assert batch.audio_lens.tolist() == [16000, 8000, 4000] and batch.audio_lens.dtype == torch.int64
    for row, n, cut in zip(batch.audio, batch.audio_lens, cuts, strict=True):
        assert torch.equal(row[:n], load_audio(cut.recording.sources[0].source))
        assert not row[n:].any()
    for row, n, cut in zip(batch.tokens, batch.token_lens, cuts, strict=True):
        assert tokenizer.decode(row[:n].tolist()) == cut.supervisions[0].text
    assert batch.tokens.dtype == torch.int64 and batch.tokens.shape == (3, int(batch.token_lens.max()))
    assert batch.langs.tolist() == [1, 1, 1] and batch.langs.dtype == torch.int64
    assert batch.ids == ["en-0000", "en-0001", "en-0002"]
    assert batch.labels == {"speaker": ["s0", "s1", "s2"]}
    assert batch.size == 3 and batch.seconds == pytest.approx(1.75)


def test_an_unknown_language_has_index_minus_one(tmp_path: Path) -> None:
    (batch,) = EvalLoader(make_cuts(tmp_path, [0.5]), make_tokenizer(), ("hi",), sample_rate=16000)
    assert batch.langs.tolist() == [-1]


def test_to_moves_every_tensor() -> None:
    batch = make_batch([torch.ones(3), torch.ones(5)], [[1], [2, 3]], [0, 1], ["a", "b"], sample_rate=16000)
    moved = batch.to("meta")
    for name in ("audio", "audio_lens", "tokens", "token_lens", "langs"):
        assert getattr(moved, name).device.type == "meta" and getattr(batch, name).device.type == "cpu"
    assert moved.ids == ["a", "b"]


def test_utterances_may_have_no_tokens() -> None:
    batch = make_batch([torch.ones(3)], [[]], [0], ["a"], sample_rate=16000)
    assert batch.tokens.shape == (1, 0) and batch.token_lens.tolist() == [0]
