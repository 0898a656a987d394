"""The verdict on made-up texts: each sign by itself, and heads of text and of phonemes as judges."""

from typing import Any

import pytest
import torch

from maya.decode.hypothesis import Hypothesis, Word
from maya.encoders import Encoded
from maya.heads import CTCConfig
from maya.heads.units import UnitCTCConfig
from maya.models.speech_model import SpeechModel, build_model
from maya.score.hallucination import HallucinationCheck, HallucinationConfig
from tests import tiny


def model_of(**heads: Any) -> SpeechModel:
    cfg = tiny.hybrid(transducer="none")
    cfg.heads = heads
    return build_model(cfg).eval()


def said(*tokens: int, text: str = "a b", confidence: float | None = None) -> Hypothesis:
    words = [Word(text=text, confidence=confidence)]
    return Hypothesis(tokens=list(tokens), text=text, words=words, language="en")


def peaky(model: SpeechModel, head: str, outputs: list[int]) -> Encoded:
    """Frames at which a head is sure of these outputs."""
    module: Any = model.head(head)
    layer = module.decoder_layers[0] if head == "ctc" else module.out
    weight = layer.weight.detach().reshape(len(layer.bias), -1)
    layer.bias.data.zero_()
    frames = torch.linalg.pinv(weight) @ (12 * torch.eye(len(weight))[:, outputs])
    return Encoded(frames.T[None], torch.tensor([len(outputs)]))


def test_the_likelihood_parts_texts() -> None:
    model = model_of(ctc=CTCConfig())
    check, blank = HallucinationCheck(model), model.blank
    encoded = peaky(model, "ctc", [blank, 3, blank, 5, blank])
    right, wrong = check(said(3, 5), encoded), check(said(4, 6), encoded)
    assert right.nats is not None and right.nats < 0.1 and not right.made_up
    assert wrong.nats is not None and wrong.nats > 6 and wrong.made_up
    too_long = check(said(*range(9)), encoded)
    assert too_long.nats == 100 and too_long.suspicion == 1


def test_a_head_of_phonemes_judges_the_pronunciation() -> None:
    model = model_of(ctc=CTCConfig(), phones=UnitCTCConfig(units=("a", "b", "c")))
    check = HallucinationCheck(model, pronounce=lambda text, language: " ".join(text.replace(" ", "")))
    assert check.judges[0] is model.head("phones")
    encoded = peaky(model, "phones", [3, 0, 3, 1, 3])
    assert not check(said(1, 1, text="a b"), encoded).made_up
    assert check(said(1, 1, text="c c"), encoded).made_up
    unspoken = check(said(1, 1, text="x y"), encoded)  # no sound of the head: the head of text judges
    unknown = said(1, 1, text="a b")
    unknown.language = None  # of several, so that nobody knows how it is pronounced
    assert (
        unspoken.nats
        == check(unknown, encoded).nats
        == HallucinationCheck(model, HallucinationConfig(head="ctc"))(said(1, 1), encoded).nats
    )
    assert HallucinationCheck(model, HallucinationConfig(head="ctc")).judges == [model.head("ctc")]


@pytest.mark.parametrize(("options", "made_up"), [
    ({"speech": 1.0}, False), ({"speech": 0.0}, True), ({"speech": 0.29}, False),
    ({"confidence": 0.9}, False), ({"confidence": 0.1}, True),
    ({"text": "no no no no no"}, True), ({"text": "no one", "seconds": 0.1}, True),
    ({"text": "", "speech": 0.0}, False),
])  # fmt: skip
def test_the_other_signs(options: dict[str, Any], made_up: bool) -> None:
    text = options.get("text", "one two")
    hyp = said(1, text=text, confidence=options.get("confidence"))
    check = HallucinationCheck(model_of(ctc=CTCConfig()))
    verdict = check(hyp, speech=options.get("speech"), seconds=options.get("seconds", 2.0))
    assert verdict.made_up is made_up and verdict.nats is None


def test_signs_add_up() -> None:
    check = HallucinationCheck(model_of(ctc=CTCConfig()), HallucinationConfig(limit=0.7))
    weak = [check(said(1, confidence=c), speech=s) for c, s in ((0.25, None), (None, 0.15), (0.25, 0.15))]
    assert [round(v.suspicion, 2) for v in weak] == [0.5, 0.5, 0.75]
    assert [v.made_up for v in weak] == [False, False, True]
