"""The adaptation experiment: who is asked what, the ways of having heard, and the table of what was found."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from egs.digits.adaptation import read_speakers
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.kernels.lact import FastWeights
from maya.models.speech_model import build_model
from maya.recipes import adaptation
from maya.recipes.adaptation_report import START, Answer, curves, table
from maya.recipes.lact_presets import lact_tiny
from maya.text.tokenizer import Tokenizer
from tests.egs.test_digits_data import source  # noqa: F401  (a fixture)
from tests.tiny import experiment
from tools import plot_adaptation

KNOWN: set[str] = set()


def test_no_recording_is_both_heard_and_asked(source: Path) -> None:  # noqa: F811
    speakers = read_speakers(source, "test", KNOWN, seed=1)
    again = read_speakers(source, "test", KNOWN, seed=1)
    assert [s.name for s in speakers] == [s.name for s in again]
    for speaker, same in zip(speakers, again, strict=True):
        heard = {word for _, text in speaker.heard for word in text.split()}
        asked = {word for _, text in speaker.asked for word in text.split()}
        assert heard and asked and not heard & asked  # each speaker of the fixture says each word once
        for (audio, text), (audio2, text2) in zip(speaker.heard, same.heard, strict=True):
            assert text == text2 and torch.equal(audio, audio2)
    with pytest.raises(MayaError, match="heard in training"):
        read_speakers(source, "test", {s.name for s in speakers}, seed=1)


def test_a_prefix_is_the_nearest_that_whole_utterances_give() -> None:
    second = torch.zeros(16000)
    speaker = adaptation.Speaker(
        name="s", language="en", sample_rate=16000, heard=[(second, "one")] * 5, asked=[]
    )
    assert [len(speaker.prefix(s)) for s in (0.1, 1.4, 1.6, 4.0, 99.0)] == [1, 1, 2, 4, 5]


@pytest.fixture
def listener() -> adaptation.Listener:
    torch.manual_seed(0)
    cfg = experiment().model
    cfg.encoder = lact_tiny(d_model=32, n_layers=2, ff_dim=32, feat_in=cfg.features.num_mels)
    tokenizer = Tokenizer.train({"en": ["one two three four"] * 20}, experiment().tokenizer)
    cfg.vocab_size, cfg.languages = tokenizer.vocab_size, ("en", "hi")
    model = build_model(cfg).eval()
    for layer in model.encoder.layers:  # open the gates: before training the fast weights are silent
        torch.nn.init.ones_(layer.mixer.fast.gate.bias)
    make = torch.Generator().manual_seed(1)

    def say(count: int) -> list[tuple[Tensor, str]]:
        return [(0.1 * torch.randn(9000 + 1000 * i, generator=make), "one two") for i in range(count)]

    speaker = adaptation.Speaker(name="s", language="en", sample_rate=16000, heard=say(4), asked=say(3))
    recognizer = Recognizer(model=model, tokenizer=tokenizer, device=torch.device("cpu"))
    return adaptation.Listener(recognizer, speaker, "ctc")


def encoded(listener: adaptation.Listener, encode: adaptation.Encode) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return encode([audio for audio, _ in listener.speaker.asked])


def test_what_was_heard_changes_what_is_encoded(listener: adaptation.Listener) -> None:
    heard = [audio for audio, _ in listener.speaker.heard]
    with torch.inference_mode():
        plain, lens = encoded(listener, listener.plain())
        carried, carried_lens = encoded(listener, listener.carried(heard))
        together, together_lens = encoded(listener, listener.one_recording(heard))
    assert torch.equal(lens, carried_lens) and torch.equal(lens, together_lens)
    assert plain.shape == carried.shape == together.shape
    assert float((plain - carried).abs().max()) > 1e-4 and float((plain - together).abs().max()) > 1e-4


def test_carried_is_the_same_for_a_question_alone(listener: adaptation.Listener) -> None:
    heard = [audio for audio, _ in listener.speaker.heard]
    with torch.inference_mode():
        carry = listener.carried(heard)
        enc, lens = encoded(listener, carry)
        for row, (audio, _) in enumerate(listener.speaker.asked):
            alone, _ = carry([audio])
            assert float((enc[row, : lens[row]] - alone[0]).abs().max()) < 1e-5


def test_an_empty_past_changes_nothing(listener: adaptation.Listener) -> None:
    """Fast weights that no utterance has changed are those every utterance begins with."""
    encoder = listener.model.encoder
    with torch.inference_mode():
        plain, _ = encoded(listener, listener.plain())
        fresh = [layer.mixer.fast.initial(1) for layer in encoder.layers]
        assert all(isinstance(weights, FastWeights) for weights in fresh)
        audio = [audio for audio, _ in listener.speaker.asked]
        feats, lens = listener.model.features(*adaptation._padded(audio))
        enc, _, _ = encoder.adapt(feats, lens, [adaptation._for_all(w, len(audio)) for w in fresh])
    assert float((plain - enc).abs().max()) < 1e-5


@pytest.mark.parametrize("before", [True, False])
def test_the_model_is_left_as_it_was(
    listener: adaptation.Listener, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, real, during = listener.model.encoder.cfg, listener.answers, []

    def answers(*args: object) -> object:
        during.append(cfg.update_at_test)
        return real(*args)

    cfg.update_at_test = before
    monkeypatch.setattr(listener, "answers", answers)
    with torch.inference_mode():
        listener.without_update()
    assert during == [False] and cfg.update_at_test is before
    monkeypatch.setattr(listener, "answers", lambda *_: [].pop())
    with pytest.raises(IndexError):
        listener.without_update()
    assert cfg.update_at_test is before


def test_every_way_is_in_the_table(listener: adaptation.Listener, tmp_path: Path) -> None:
    rates = {(w, labelled): 1e-3 for w in ("lora", "all") for labelled in (True, False)}
    answers = adaptation.compare(listener, "run", [1.0, 2.0], rates)
    assert listener.model.encoder.cfg.update_at_test
    found = curves(answers)
    assert set(found) == {
        ("as trained", False), ("no update", False), ("LaCT, carried", False), ("LaCT, one recording", False),
        ("LoRA", False), ("LoRA", True), ("all weights", False), ("all weights", True),
    }  # fmt: skip
    assert all(
        len(curve) == (1 if way in ("as trained", "no update") else 2) for (way, _), curve in found.items()
    )
    text = table(answers)
    assert "| LoRA | given |" in text and "| LoRA | none |" in text
    written = tmp_path / "a.json"
    written.write_text(json.dumps({"answers": [asdict(a) for a in answers]}))
    assert plot_adaptation.main([str(written)]) == 0
    assert (tmp_path / "a.png").stat().st_size > 10_000 and (tmp_path / "a.md").read_text() == text
    written.write_text("{}")
    assert plot_adaptation.main([str(written)]) == 1


def answer(language: str, pairs: list[tuple[str, str]], run: str = "r", way: str = START) -> Answer:
    return Answer(run=run, speaker=language, language=language, way=way, labelled=False,
                  asked_seconds=0.0, seconds=0.0, pairs=pairs)  # fmt: skip


def test_rates_are_means_over_languages() -> None:
    answers = [answer("en", [("one two", "one")] * 4), answer("gu", [("one", "one")] * 9)]
    (point,) = curves(answers)[START, False]
    assert point.rate == pytest.approx(0.25)
    assert point.interval.low <= 0.25 <= point.interval.high
    assert json.dumps(table(answers)).count("25.00 %") == 1
    assert np.isfinite([point.interval.low, point.interval.high]).all()


def test_more_models_are_not_more_questions() -> None:
    pairs = [("one two", "one")] * 5 + [("one two", "one two")] * 5
    one = curves([answer("en", pairs)])[START, False][0]
    three = curves([answer("en", pairs, run) for run in "abc"])[START, False][0]
    assert one.interval == three.interval


def test_changes_are_of_the_same_questions() -> None:
    pairs = [("one two", "one")] * 5 + [("one two", "one two")] * 5
    worse = [(ref, "") if hyp == "one" else (ref, hyp) for ref, hyp in pairs]
    answers = [answer("en", pairs), answer("en", pairs, way="no update"), answer("en", worse, way="LoRA")]
    found = curves(answers)
    same, changed = (found[way, False][0].change for way in ("no update", "LoRA"))
    assert same.difference == same.interval.low == same.interval.high == 0
    assert changed.difference == pytest.approx(0.25) and changed.interval.low > 0
    assert "| LoRA | none | +25.00 [" in table(answers)
    with pytest.raises(MayaError, match="different utterances"):
        curves([*answers, answer("en", pairs[:3], way="all weights")])
    with pytest.raises(MayaError, match="there are no answers as trained"):
        curves(answers[1:])
