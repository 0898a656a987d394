"""Validation: every trained head is scored, and errors are counted for the right language."""

from typing import Any, Literal

import numpy as np
import pytest
import torch

from maya.config import config
from maya.data.loading.batch import Batch, make_batch
from maya.decode.hypothesis import Hypothesis
from maya.decode.methods import greedy
from maya.encoders import Encoded
from maya.encoders.conformer.fastconformer import FastConformer
from maya.heads import ClassifyConfig, Head, HeadConfig, Prediction
from maya.heads.base import LossStep
from maya.models.speech_model import SpeechModel
from maya.score.wer import cer, wer
from maya.train.heads import describe
from maya.train.validate import MOST_CLASSES, accuracy, error_rates, make_validate, rates_of_heads
from tests import tiny

HEADS = ("transducer", "ctc", "attention")
LANGUAGES = ("en", "hi")
LANGS = [0, -1, 1, 1, -1]  # -1: the corpus has a language that the model does not know
TEXTS = ["1 2", "3", "4 5 6", "7", "8 9"]


def model_of(**options: Any) -> SpeechModel:
    return SpeechModel(tiny.hybrid(**({"attention_weight": 0.3, "language_id_weight": 0.2} | options)))


def batches(langs: list[int]) -> list[Batch]:
    audio = [torch.randn(8000 + 800 * i) * 0.1 for i in range(len(langs))]
    tokens = [np.array([i + 1, i + 2], np.int32) for i in range(len(langs))]
    names = [f"u{i}" for i in range(len(langs))]
    parts = (slice(0, 3), slice(3, None))
    return [make_batch(audio[p], tokens[p], langs[p], names[p], sample_rate=16000) for p in parts]


def validate_of(given: list[Batch], method: Any = "auto") -> Any:
    texts = {f"u{i}": text for i, text in enumerate(TEXTS)}
    return make_validate(lambda: given, texts, tiny.NumberTokenizer(), LANGUAGES, method=method)  # type: ignore[arg-type]


def expected_rates(model: SpeechModel, given: list[Batch], head: Any, lang: int) -> tuple[float, float]:
    refs, hyps = [], []
    model.eval()
    with torch.inference_mode():
        for batch in given:
            hyps_of_head = greedy(model, model.encode_audio(batch.audio, batch.audio_lens), head, batch.langs)
            for name, code, hyp in zip(batch.ids, batch.langs.tolist(), hyps_of_head, strict=True):
                if code == lang:
                    refs.append(TEXTS[int(name[1:])])
                    hyps.append(tiny.NumberTokenizer().decode(hyp.tokens))
    model.train()
    return wer(refs, hyps).rate, cer(refs, hyps).rate


def test_validation_is_in_evaluation_mode_and_restores_training() -> None:
    """Without it, dropout would make two validations differ."""
    model, given = model_of(), batches(LANGS)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    validate = validate_of(given)
    assert validate(model) == validate(model) and all(m.training for m in model.modules())


@pytest.mark.parametrize("method", ["auto", "transducer", "ctc", "attention"])
def test_every_head_is_scored_without_unknown_languages(method: Any) -> None:
    model, given = model_of(), batches(LANGS)
    scores = validate_of(given, method)(model, (*HEADS, "language"))
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
    line = describe(scores, tuple(model.heads))
    assert f"language accuracy {100 * scores['language_accuracy']:.1f}" in line
    assert all(f"{head} WER {100 * scores[f'{head}_wer']:.1f} CER " in line for head in HEADS)
    assert "(2 utterances of an unknown language are not averaged)" in line and model.training


def test_the_encoder_runs_once_for_all_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], FastConformer.forward
    monkeypatch.setattr(FastConformer, "forward", lambda *a, **k: calls.append(1) or real(*a, **k))
    given = batches(LANGS)
    validate_of(given)(model_of(), HEADS)
    assert len(calls) == len(given)


def test_untrained_head_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    transducer: Any = model.head("transducer")
    monkeypatch.setattr(transducer.joint, "output", lambda *_: pytest.fail("the joint ran"))
    monkeypatch.setattr(transducer, "losses", lambda *_: pytest.fail("its loss was computed"))
    for method in ("auto", "transducer"):  # decoding will use the latter once it is trained
        scores = validate_of(batches(LANGS), method)(model, ("ctc", "attention"))
        assert not any(name.startswith("transducer") for name in scores)
        assert scores["error"] == min(scores["ctc_cer"], scores["attention_cer"])
        assert "transducer" not in describe(scores, tuple(model.heads))
        assert not any(name.startswith("language_accuracy") for name in scores)


def test_only_unknown_languages_are_averaged() -> None:
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


class RightInEnglish(Head):
    """Writes the same two tokens in English and one wrong token in every other language."""

    conditioned = False

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, torch.Tensor]:
        return {"loss": torch.ones(batch.size)}


def test_user_head_excludes_unknown_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    given, model = batches(LANGS), model_of()
    model.heads["ctc"] = RightInEnglish()

    def write(model: SpeechModel, encoded: Encoded, head: str, langs: torch.Tensor) -> list[Hypothesis]:
        assert head == "ctc"
        return [Hypothesis(tokens=[1, 2] if lang == 0 else [0], scores=[]) for lang in langs.tolist()]

    monkeypatch.setattr("maya.train.validate.greedy", write)
    scores = validate_of(given)(model, ("ctc",))
    assert (scores["wer_en"], scores["wer_hi"], scores["wer_unknown"]) == (0.0, 1.0, 1.0)
    assert scores["wer"] == 0.5 and scores["unknown_language"] == 2
    line = describe(scores, tuple(model.heads))
    assert line.startswith("loss ") and "ctc WER 50.0" in line


MOODS = [["sad", "glad", None], ["sad", "glad"]]  # of the utterances of both batches


def labelled() -> list[Batch]:
    given = batches(LANGS)
    for batch, moods in zip(given, MOODS, strict=True):
        batch.labels = {"mood": moods}
    return given


@pytest.mark.parametrize("alone", [True, False])
def test_a_classifier_is_scored_by_class(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier alone selects weights by accuracy. Beside a text head, CER selects them."""
    cfg = tiny.hybrid()
    mood = ClassifyConfig(label="mood", classes=("glad", "sad"), weight=0.5)
    cfg.heads = {"feeling": mood} if alone else {"ctc": cfg.heads["ctc"], "feeling": mood}
    model, given = SpeechModel(cfg), labelled()
    module = model.head("feeling")
    predicted = iter(
        [Prediction(label=label, probability=1.0) for label in ("sad", "sad", "glad", "sad", "glad")]
    )
    monkeypatch.setattr(module, "predict", lambda encoded: [next(predicted) for _ in encoded.lens])
    scores = validate_of(given)(model)
    # Of two sad ones both are right, of two glad ones one; the utterance without a label does not count.
    assert scores["feeling_accuracy_sad"] == 1.0 and scores["feeling_accuracy_glad"] == 0.5
    assert scores["feeling_accuracy"] == 0.75
    assert scores["error"] == (0.25 if alone else scores["cer"])
    assert ("wer" in scores) is not alone and model.training
    if alone:  # the loss is per utterance: the mean of those of the four with a label, and 0 of the fifth
        model.eval()
        with torch.inference_mode():
            losses = torch.cat([model(batch).parts["feeling"] for batch in given])
        assert scores["loss"] == pytest.approx(0.5 * float(losses.sum()) / 5, rel=1e-5)
    assert "feeling accuracy 75.0" in describe(scores, tuple(model.heads))


def test_model_without_scores_is_chosen_by_its_loss() -> None:
    @config
    class OnesConfig(HeadConfig):
        kind: Literal["ones_of_a_test"] = "ones_of_a_test"

    class Ones(RightInEnglish, config=OnesConfig):
        def __init__(self, cfg: OnesConfig, context: Any) -> None:
            super().__init__()

    cfg = tiny.hybrid()
    cfg.heads = {"ones": OnesConfig()}
    scores = validate_of(batches(LANGS))(SpeechModel(cfg))
    assert scores == {"error": 1.0, "loss": 1.0}


def test_accuracy_is_a_mean_over_classes() -> None:
    pairs = [("a", "a"), ("a", "a"), ("a", "b"), ("b", "a")]
    expected = {"mood_accuracy": 1 / 3, "mood_accuracy_a": 2 / 3, "mood_accuracy_b": 0.0}
    assert accuracy(pairs, "mood") == pytest.approx(expected) and accuracy([], "mood") == {}
    many = [(str(i), str(i)) for i in range(MOST_CLASSES + 1)]
    assert accuracy(many, "voice") == {"voice_accuracy": 1.0}


def test_losses_that_are_not_numbers_stay_visible() -> None:
    """As 0 they would make a broken model the best one, where the loss decides."""
    model, given = model_of(), batches(LANGS)
    assert validate_of(given)(model)["loss"] > 0
    with torch.no_grad():
        next(model.head("ctc").parameters()).fill_(float("nan"))
    assert np.isnan(validate_of(given)(model)["loss"])


def test_without_a_word_of_reference_no_rate_is_zero() -> None:
    assert error_rates([("hi", "", "")]) == error_rates([]) == {"error": 1.0, "wer": 1.0, "cer": 1.0}
