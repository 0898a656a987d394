"""The adaptation experiment: its speakers, its methods of adaptation, and the table of results."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from egs.digits.adaptation import read_speakers
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.kernels.lact import FastWeights
from maya.models.speech_model import SpeechModel, build_model
from maya.recipes import adaptation
from maya.recipes.adaptation_report import START, Answer, curves, main, table
from maya.recipes.lact_presets import lact_tiny
from maya.text.tokenizer import Tokenizer
from tests.egs.test_digits_data import source  # noqa: F401  (a fixture)
from tests.tiny import experiment

TRAINED: set[str] = set()


def test_no_recording_is_in_both_parts(source: Path) -> None:  # noqa: F811
    speakers = read_speakers(source, "test", TRAINED, seed=1)
    again = read_speakers(source, "test", TRAINED, seed=1)
    assert [s.name for s in speakers] == [s.name for s in again]
    for speaker, same in zip(speakers, again, strict=True):
        adaptation_words = {word for _, text in speaker.adaptation for word in text.split()}
        words = {word for _, text in speaker.evaluation for word in text.split()}
        assert adaptation_words and words and not adaptation_words & words
        for (audio, text), (audio2, text2) in zip(speaker.adaptation, same.adaptation, strict=True):
            assert text == text2 and torch.equal(audio, audio2)
    # Each speaker of the fixture says each word once.
    with pytest.raises(MayaError, match="is in the training data"):
        read_speakers(source, "test", {s.name for s in speakers}, seed=1)


def test_prefix_takes_the_utterances_nearest_to_the_duration() -> None:
    second = torch.zeros(16000)
    speaker = adaptation.Speaker(
        name="s", language="en", sample_rate=16000, adaptation=[(second, "one")] * 5, evaluation=[]
    )
    assert [len(speaker.prefix(s)) for s in (0.1, 1.4, 1.6, 4.0, 99.0)] == [1, 1, 2, 4, 5]


@pytest.fixture
def speaker_model() -> adaptation.SpeakerModel:
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

    speaker = adaptation.Speaker(
        name="s", language="en", sample_rate=16000, adaptation=say(4), evaluation=say(3)
    )
    recognizer = Recognizer(model=model, tokenizer=tokenizer, device=torch.device("cpu"))
    return adaptation.SpeakerModel(recognizer, speaker, "ctc")


def encoded(speaker_model: adaptation.SpeakerModel, encode: adaptation.Encode) -> Encoded:
    with torch.inference_mode():
        return encode([audio for audio, _ in speaker_model.speaker.evaluation])


def test_adaptation_changes_the_encoder_output(speaker_model: adaptation.SpeakerModel) -> None:
    earlier = [audio for audio, _ in speaker_model.speaker.adaptation]
    with torch.inference_mode():
        plain, lens = encoded(speaker_model, speaker_model.plain())
        carried, carried_lens = encoded(speaker_model, speaker_model.carried(earlier))
        together, together_lens = encoded(speaker_model, speaker_model.one_recording(earlier))
    assert torch.equal(lens, carried_lens) and torch.equal(lens, together_lens)
    assert plain.shape == carried.shape == together.shape
    assert float((plain - carried).abs().max()) > 1e-4 and float((plain - together).abs().max()) > 1e-4


def test_carried_state_equals_single_utterances(
    speaker_model: adaptation.SpeakerModel,
) -> None:
    earlier = [audio for audio, _ in speaker_model.speaker.adaptation]
    with torch.inference_mode():
        carry = speaker_model.carried(earlier)
        enc, lens = encoded(speaker_model, carry)
        for row, (audio, _) in enumerate(speaker_model.speaker.evaluation):
            alone, _ = carry([audio])
            assert float((enc[row, : lens[row]] - alone[0]).abs().max()) < 1e-5


def test_fast_weights_without_updates_equal_no_adaptation(speaker_model: adaptation.SpeakerModel) -> None:
    """Every utterance starts with the initial fast weights."""
    encoder = speaker_model.model.encoder
    with torch.inference_mode():
        plain, _ = encoded(speaker_model, speaker_model.plain())
        fresh = [layer.mixer.fast.initial(1) for layer in encoder.layers]
        assert all(isinstance(weights, FastWeights) for weights in fresh)
        audio = [audio for audio, _ in speaker_model.speaker.evaluation]
        feats, lens = speaker_model.model.features(*adaptation._padded(audio))
        (enc, _), _ = encoder.adapt(feats, lens, fresh)  # one row for all utterances
    assert float((plain - enc).abs().max()) < 1e-5


@pytest.mark.parametrize("before", [True, False])
def test_decoding_without_updates_leaves_the_model_unchanged(
    speaker_model: adaptation.SpeakerModel, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, answers, during = speaker_model.model.encoder.cfg, speaker_model.answers, []

    def recorded(encode: adaptation.Encode, model: SpeechModel) -> list[tuple[str, str]]:
        during.append(model.encoder.cfg.update_at_test)
        return answers(encode, model)

    cfg.update_at_test = before
    monkeypatch.setattr(speaker_model, "answers", recorded)
    with torch.inference_mode():
        pairs = speaker_model.without_update()
    assert during == [False] and cfg.update_at_test is before
    cfg.update_at_test = False
    with torch.inference_mode():
        assert pairs == answers(speaker_model.plain())


def test_an_encoder_that_does_not_adapt_refuses() -> None:
    encoder = experiment().model.encoder.build()
    assert not encoder.adapts
    with pytest.raises(MayaError, match="does not learn from utterances"):
        encoder.adapt(torch.zeros(1, 10, 80), torch.tensor([10]))


def test_every_way_is_in_the_table(speaker_model: adaptation.SpeakerModel, tmp_path: Path) -> None:
    rates = {(w, labelled): 1e-3 for w in ("lora", "all") for labelled in (True, False)}
    answers = adaptation.compare(speaker_model, "run", [1.0, 2.0], rates)
    assert speaker_model.model.encoder.cfg.update_at_test
    points = curves(answers)
    assert set(points) == {
        ("as trained", False), ("no update", False), ("LaCT, carried", False), ("LaCT, one recording", False),
        ("LoRA", False), ("LoRA", True), ("all weights", False), ("all weights", True),
    }  # fmt: skip
    assert all(
        len(curve) == (1 if way in ("as trained", "no update") else 2) for (way, _), curve in points.items()
    )
    text = table(answers)
    assert "| LoRA | given |" in text and "| LoRA | none |" in text
    written = tmp_path / "a.json"
    written.write_text(json.dumps({"answers": [asdict(a) for a in answers]}))
    assert main([str(written)]) == 0
    assert (tmp_path / "a.png").stat().st_size > 10_000 and (tmp_path / "a.md").read_text() == text
    other = tmp_path / "other.json"
    other.write_text(written.read_text())
    assert main([str(written), str(other), "--over", "speakers", "--out", str(tmp_path / "both.png")]) == 0
    assert "| other: LoRA | given |" in (tmp_path / "both.md").read_text()
    written.write_text("{}")
    assert main([str(written)]) == 1


def answer(language: str, pairs: list[tuple[str, str]], run: str = "r", way: str = START) -> Answer:
    return Answer(run=run, speaker=language, language=language, way=way, labelled=False,
                  target_seconds=0.0, seconds=0.0, pairs=pairs)  # fmt: skip


def test_rates_are_means_over_languages() -> None:
    answers = [answer("en", [("one two", "one")] * 4), answer("gu", [("one", "one")] * 9)]
    (point,) = curves(answers)[START, False]
    assert point.rate == pytest.approx(0.25)
    assert point.interval.low <= 0.25 <= point.interval.high
    assert json.dumps(table(answers)).count("25.00 %") == 1
    assert np.isfinite([point.interval.low, point.interval.high]).all()


def test_more_models_do_not_narrow_the_interval() -> None:
    pairs = [("one two", "one")] * 5 + [("one two", "one two")] * 5
    single = curves([answer("en", pairs)])[START, False][0]
    three = curves([answer("en", pairs, run) for run in "abc"])[START, False][0]
    assert single.interval == three.interval


def test_changes_need_the_same_utterances() -> None:
    pairs = [("one two", "one")] * 5 + [("one two", "one two")] * 5
    worse = [(ref, "") if hyp == "one" else (ref, hyp) for ref, hyp in pairs]
    answers = [answer("en", pairs), answer("en", pairs, way="no update"), answer("en", worse, way="LoRA")]
    points = curves(answers)
    same, changed = (points[way, False][0].change for way in ("no update", "LoRA"))
    assert same.difference == same.interval.low == same.interval.high == 0
    assert changed.difference == pytest.approx(0.25) and changed.interval.low > 0
    assert "| LoRA | none | +25.00 [" in table(answers)
    with pytest.raises(MayaError, match="different utterances"):
        curves([*answers, answer("en", pairs[:3], way="all weights")])
    with pytest.raises(MayaError, match="there are no answers as trained"):
        curves(answers[1:])
