"""Transcription with a named, a detected or no language."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import LanguageConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer({"en": ["ab ba abba", "a b"], "hi": ["ab"]}, TokenizerConfig(vocab_size=8))


def _recognizer(tokenizer: Tokenizer, weight: float) -> Recognizer:
    cfg = with_vocabulary(tiny.experiment().model, tokenizer.vocab_size, ("en", "hi"))
    if weight:
        cfg.heads["language"] = LanguageConfig(weight=weight)
    cfg.language_init = 3.0  # a large embedding, so that the language changes the tokens
    torch.manual_seed(1)
    return Recognizer(model=build_model(cfg).eval(), tokenizer=tokenizer, device=torch.device("cpu"))


@pytest.mark.parametrize(("code", "index"), [("en", 0), ("hi", 1)])
def test_auto_decodes_in_the_detected_language(tokenizer: Tokenizer, code: str, index: int) -> None:
    recognizer = _recognizer(tokenizer, 0.3)
    with torch.no_grad():
        recognizer.model.heads["language"].out.weight.zero_()
        recognizer.model.heads["language"].out.bias[:] = torch.tensor([0.0, 0.0])
        recognizer.model.heads["language"].out.bias[index] = 2.0
    audio = [torch.randn(n) * 0.1 for n in (16000, 9000, 12000)]
    named, detected = recognizer.transcribe(audio, code), recognizer.transcribe(audio, "auto")
    assert [h.tokens for h in named] == [h.tokens for h in detected] and any(h.tokens for h in detected)
    assert {h.language for h in detected} == {code} == {h.language for h in named}
    for hyp in detected:
        assert hyp.language_probability == pytest.approx(torch.tensor([2.0, 0.0]).softmax(0)[0].item())
    assert named[0].language_probability is None
    assert recognizer.transcribe(audio)[0].language is None


def test_single_item_and_language_spellings(tokenizer: Tokenizer, tmp_path: Path) -> None:
    recognizer = _recognizer(tokenizer, 0.3)
    samples = torch.randn(16000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    soundfile.write(tmp_path / "a.wav", samples, 16000, "FLOAT")
    (expected,) = recognizer.transcribe([samples], "en")
    for audio in (samples, torch.from_numpy(samples), tmp_path / "a.wav", str(tmp_path / "a.wav")):
        for language in ("en", "en-US", "English"):
            (hyp,) = recognizer.transcribe(audio, language)
            assert (hyp.tokens, hyp.language) == (expected.tokens, "en")
    assert recognizer.transcribe(samples[None], "en")[0].tokens == expected.tokens  # a batch of one


def test_integer_samples_are_scaled_and_bad_audio_is_refused(tokenizer: Tokenizer) -> None:
    recognizer = _recognizer(tokenizer, 0.3)
    samples = (torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 3000).short()
    exact, scaled = recognizer.transcribe([samples.numpy(), samples.float() / 2**15], "en")
    assert exact.tokens == scaled.tokens
    for bad, complaint in (
        (np.full(800, np.nan, np.float32), "800 of 800 samples are not finite numbers"),
        (np.zeros((2, 800), np.float32), r"has shape \(2, 800\); give one channel of it, as array\[0\]"),
        (np.zeros(800, bool), "samples of type bool have no usual full scale"),
    ):
        with pytest.raises(MayaError, match=f"^audio 1: .*{complaint}"):
            recognizer.transcribe([samples.numpy(), bad], "en")


def test_auto_without_language_head_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="it has no language head; name the language"):
        _recognizer(tokenizer, 0.0).transcribe([tmp_path / "unread.wav"], "auto")


def test_an_array_without_an_axis_is_refused(tokenizer: Tokenizer) -> None:
    for audio in (np.array(0.1), torch.tensor(0.1)):
        with pytest.raises(MayaError, match=r"audio 0: .* one-dimensional"):
            _recognizer(tokenizer, 0.0).transcribe(audio)
