"""Validation: every trained head is scored, and no language gets the errors of another."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maya.data.loading.batch import Batch, make_batch
from maya.decode.recognizer import decode_frames
from maya.encoders.conformer.fastconformer import FastConformer
from maya.heads.attention import AttentionDecoderConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import SpeechModel
from maya.models.text_heads import HEADS
from maya.score.wer import cer, wer
from maya.train.heads import describe
from maya.train.validate import error_rates, make_validate, make_validate_llm, rates_of_heads
from tests import tiny

LANGUAGES = ("en", "hi")
LANGS = [0, -1, 1, 1, -1]  # -1: the corpus has a language that the model does not know
TEXTS = ["1 2", "3", "4 5 6", "7", "8 9"]


class Numbers:
    """A tokenizer whose text is the ids."""

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


def model_of(**settings: Any) -> SpeechModel:
    cfg = with_vocabulary(tiny.experiment().model, 12, LANGUAGES)
    cfg.attention_weight, cfg.language_id_weight = 0.3, 0.2
    cfg.attention_decoder = AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=32)
    for name, value in settings.items():
        setattr(cfg, name, value)
    return SpeechModel(cfg)


def batches(langs: list[int]) -> list[Batch]:
    audio = [torch.randn(8000 + 800 * i) * 0.1 for i in range(len(langs))]
    tokens = [np.array([i + 1, i + 2], np.int32) for i in range(len(langs))]
    names = [f"u{i}" for i in range(len(langs))]
    parts = (slice(0, 3), slice(3, None))
    return [make_batch(audio[p], tokens[p], langs[p], names[p], sample_rate=16000) for p in parts]


def validate_of(given: list[Batch], method: Any = "auto") -> Any:
    texts = {f"u{i}": text for i, text in enumerate(TEXTS)}
    return make_validate(lambda: given, texts, Numbers(), LANGUAGES, method=method)  # type: ignore[arg-type]


def expected_rates(model: SpeechModel, given: list[Batch], head: Any, lang: int) -> tuple[float, float]:
    refs, hyps = [], []
    model.eval()
    with torch.inference_mode():
        for batch in given:
            enc, lens = model.encode(batch.audio, batch.audio_lens, batch.langs)
            for name, code, hyp in zip(
                batch.ids, batch.langs.tolist(), decode_frames(model, enc, lens, method=head), strict=True
            ):
                if code == lang:
                    refs.append(TEXTS[int(name[1:])])
                    hyps.append(Numbers().decode(hyp.tokens))
    model.train()
    return wer(refs, hyps).rate, cer(refs, hyps).rate


@pytest.mark.parametrize("method", ["auto", "transducer", "ctc", "attention"])
def test_every_head_is_scored_and_unknown_languages_stay_apart(method: Any) -> None:
    model, given = model_of(), batches(LANGS)
    scores = validate_of(given, method)(model, HEADS)
    for head in HEADS:
        en, hi, unknown = (expected_rates(model, given, head, lang) for lang in (0, 1, -1))
        for i, rate in enumerate(("wer", "cer")):
            assert scores[f"{head}_{rate}_en"] == pytest.approx(en[i])
            assert scores[f"{head}_{rate}_hi"] == pytest.approx(hi[i])
            assert scores[f"{head}_{rate}_unknown"] == pytest.approx(unknown[i])
            assert scores[f"{head}_{rate}"] == pytest.approx((en[i] + hi[i]) / 2)
    best = min(HEADS, key=lambda head: (scores[f"{head}_cer"], scores[f"{head}_wer"]))
    used = best if method == "auto" else method
    assert (
        scores["error"] == scores["cer"] == scores[f"{used}_cer"] and scores["wer"] == scores[f"{used}_wer"]
    )
    assert scores["wer_unknown"] == scores[f"{used}_wer_unknown"] and scores["unknown_language"] == 2
    accuracies = {name for name in scores if name.startswith("language_accuracy")}
    assert accuracies == {"language_accuracy", "language_accuracy_en", "language_accuracy_hi"}
    line = describe(scores)
    assert all(f"{head} WER {100 * scores[f'{head}_wer']:.1f} CER " in line for head in HEADS)
    assert "(2 utterances of an unknown language are not averaged)" in line and model.training


def test_the_encoder_runs_once_for_all_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], FastConformer.forward
    monkeypatch.setattr(FastConformer, "forward", lambda *a, **k: calls.append(1) or real(*a, **k))
    given = batches(LANGS)
    validate_of(given)(model_of(), HEADS)
    assert len(calls) == len(given)


def test_a_head_that_is_not_trained_yet_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    monkeypatch.setattr(model.joint, "output", lambda *_: pytest.fail("the joint ran"))
    monkeypatch.setattr(model, "_transducer_loss", lambda *_: pytest.fail("its loss was computed"))
    for method in ("auto", "transducer"):  # the latter is what decoding will use, once it is trained
        scores = validate_of(batches(LANGS), method)(model, ("ctc", "attention"))
        assert not any(name.startswith("transducer") for name in scores)
        assert scores["error"] == min(scores["ctc_cer"], scores["attention_cer"])
        assert "transducer" not in describe(scores)


def test_without_known_languages_the_unknown_are_averaged() -> None:
    pairs = [("unknown", "a b", "a"), ("unknown", "c", "c")]
    scores = error_rates(pairs)
    assert scores["wer"] == scores["wer_unknown"] == pytest.approx(1 / 3) and scores["unknown_language"] == 2
    scores = error_rates([*pairs, ("hi", "d", "x")])
    assert scores["wer"] == scores["wer_hi"] == 1.0 and scores["wer_unknown"] == pytest.approx(1 / 3)
    assert "unknown_language" not in error_rates([("hi", "d", "x")])
    # A language without a word of reference has no rate, and none to average.
    assert error_rates([("hi", "", "x"), ("unknown", "a", "a")])["wer"] == 0.0


def test_rates_of_heads_are_named() -> None:
    rows = [("en", "a b", ["a b", "a"]), ("hi", "c", ["x", "c"])]
    scores = rates_of_heads(rows, ("transducer", "ctc"), "auto")
    assert (scores["transducer_wer"], scores["ctc_wer"], scores["wer"]) == (0.5, 0.25, 0.25)
    assert rates_of_heads(rows, ("transducer", "ctc"), "transducer")["wer"] == 0.5
    assert rates_of_heads(rows, ("ctc",), "attention").keys() >= {"ctc_wer_en", "ctc_cer_hi", "error"}


def test_a_speech_llm_keeps_unknown_languages_apart() -> None:
    given = batches(LANGS)

    class Model(torch.nn.Module):
        """Writes the id of each utterance right in English and wrong in every other language."""

        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))

        def project(self, audio: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return audio, lens

        def losses(self, speech: torch.Tensor, lens: torch.Tensor, batch: Batch) -> Any:
            return SimpleNamespace(total=torch.ones(len(lens)))

        def generate(self, speech: torch.Tensor, lens: Any, langs: Any, *, max_tokens: Any) -> list[Any]:
            return [SimpleNamespace(tokens=[1, 2] if lang == 0 else [0]) for lang in langs.tolist()]

    texts = {f"u{i}": text for i, text in enumerate(TEXTS)}
    validate = make_validate_llm(lambda: given, texts, Numbers(), LANGUAGES, tokens_per_second=4)  # type: ignore[arg-type]
    scores = validate(Model(), None)
    assert (scores["wer_en"], scores["wer_hi"], scores["wer_unknown"]) == (0.0, 1.0, 1.0)
    assert scores["wer"] == 0.5 and scores["unknown_language"] == 2
    assert describe(scores).startswith("loss ") and "wer 0.500" in describe(scores)
