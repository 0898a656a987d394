"""Which head decodes, the reason that the log gives, and which heads are refused."""

from typing import Any

import pytest
import torch

from maya.decode.head_choice import TrainedHeads, best_head
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import AttentionDecoderConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import SpeechModel
from tests import tiny

HEADS = ("transducer", "ctc", "attention")


def rates(**cer: float) -> Any:
    return {head: {"wer": 2 * value, "cer": value} for head, value in cer.items()}


@pytest.mark.parametrize(
    ("heads", "trained", "dev", "head", "reason"),
    [
        (("ctc",), ("ctc",), {}, "ctc", "the only head"),
        (HEADS, HEADS, {}, "transducer", "the default, as the checkpoint has no dev scores"),
        (HEADS, ("ctc", "attention"), {}, "ctc",
         "the default, as the checkpoint has no dev scores; transducer was not trained"),
        (HEADS, ("attention",), {}, "attention", "transducer and ctc were not trained"),
        (HEADS[:2], HEADS[:2], rates(transducer=0.098, ctc=0.091), "ctc",
         "best on dev, CER 9.10 % against transducer 9.80 %"),
        (HEADS[:2], HEADS[:2], rates(transducer=0.09, ctc=0.091), "transducer",
         "best on dev, CER 9.00 % against ctc 9.10 %"),
        (HEADS, ("transducer", "ctc"), rates(transducer=0.2, ctc=0.1), "ctc",
         "best on dev, CER 10.00 % against transducer 20.00 %; attention was not trained"),
        (HEADS, HEADS, rates(transducer=0.2, ctc=0.1, attention=0.05), "attention",
         "best on dev, CER 5.00 % against transducer 20.00 %, ctc 10.00 %"),
        # A score that an untrained head has from somewhere counts for nothing.
        (HEADS[:2], ("ctc",), rates(transducer=0.0, ctc=0.5), "ctc", "transducer was not trained"),
    ],
)  # fmt: skip
def test_best_trained_head_is_chosen(heads: Any, trained: Any, dev: Any, head: str, reason: str) -> None:
    choice = TrainedHeads(heads=heads, trained=trained, dev=dev).best()
    assert (choice.head, choice.reason) == (head, reason)


def test_ties_are_broken_by_wer_then_head_order() -> None:
    equal = {"wer": 0.5, "cer": 0.1}
    assert best_head({"transducer": equal, "ctc": equal, "attention": equal}) == "transducer"
    assert best_head({"transducer": equal, "ctc": {"wer": 0.4, "cer": 0.1}}) == "ctc"


def recognizer(without: str = "") -> Recognizer:
    cfg = with_vocabulary(tiny.experiment().model, 12, ("en", "hi"))
    cfg.heads["attention"] = AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=32)
    cfg.heads.pop(without, None)
    return Recognizer(
        model=SpeechModel(cfg).eval(), tokenizer=tiny.NumberTokenizer(), device=torch.device("cpu")
    )  # type: ignore[arg-type]


def test_transcribe_with_each_head_and_with_the_best(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="maya")
    ours, audio = recognizer(), torch.randn(16000) * 0.1
    with torch.inference_mode():
        encoded = ours.model.encode_audio(audio[None], torch.tensor([16000]))
    tokens = {}
    for head in HEADS:
        with torch.inference_mode():
            (expected,) = greedy(ours.model, encoded, head)
        (hyp,) = ours.transcribe([audio], method=head)
        assert hyp.tokens == expected.tokens
        tokens[head] = hyp.tokens
    assert len({tuple(t) for t in tokens.values()}) == 3  # so that the heads give different texts
    assert not caplog.messages
    for best in HEADS:
        dev = rates(**{head: 0.1 if head == best else 0.2 for head in HEADS})
        ours.heads = TrainedHeads(heads=HEADS, trained=HEADS, dev=dev)
        assert [ours.transcribe([audio])[0].tokens for _ in range(2)] == [tokens[best]] * 2
    assert [m.split(":")[0] for m in caplog.messages] == [f"decoding with {head}" for head in HEADS]


@pytest.mark.parametrize("head", HEADS)
def test_missing_head_is_refused(head: str) -> None:
    message = f"decode.method={head} reads a head of kind {head}, which this model lacks"
    with pytest.raises(MayaError, match=message):
        recognizer(without=head).transcribe([torch.randn(4000)], method=head)


def test_untrained_head_is_refused() -> None:
    ours = recognizer()
    ours.heads = TrainedHeads(heads=HEADS, trained=("ctc", "attention"))
    with pytest.raises(MayaError, match="head transducer, which was never trained; use ctc or attention"):
        ours.transcribe([torch.randn(4000)], method="transducer")
    ours.heads = TrainedHeads(heads=HEADS, trained=())
    with pytest.raises(MayaError, match="cannot decode: .* never trained; train first"):
        ours.transcribe([torch.randn(4000)])
