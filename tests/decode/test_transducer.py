"""Greedy transducer decoding against NeMo's output and a plain loop over single utterances."""

from pathlib import Path

import pytest
import torch

from maya.decode.hypothesis import Hypothesis
from maya.decode.transducer.greedy import greedy_transducer
from maya.errors import MayaError
from maya.heads.transducer import Joint, JointConfig, Predictor, PredictorConfig
from tests.decode.reference_greedy import reference_transducer

BLANK = 6


def make(num_durations: int, blank_bias: float = 0.0, label_bias: float = 0.0) -> tuple[Predictor, Joint]:
    """A random model with sharp outputs, so that durations and tokens vary from frame to frame."""
    predictor = Predictor(PredictorConfig(hidden=8, layers=2), BLANK).eval()
    joint = Joint(JointConfig(hidden=16), 5, 8, BLANK, num_durations).eval()
    with torch.no_grad():
        for weight in (joint.enc.weight, joint.pred.weight, joint.joint_net[2].weight):
            weight.normal_(std=1.5)
        joint.joint_net[2].bias[BLANK] += blank_bias
        joint.joint_net[2].bias[:BLANK] += label_bias
    return predictor, joint


def check(hyps: list[Hypothesis], expected: list[Hypothesis]) -> None:
    for hyp, truth in zip(hyps, expected, strict=True):
        assert (hyp.tokens, hyp.frames, hyp.durations) == (truth.tokens, truth.frames, truth.durations)
        assert hyp.scores == pytest.approx(truth.scores, abs=1e-4)


@pytest.mark.parametrize("durations", [[0, 1, 2, 3, 4], [0, 1], [2, 5], [0, 3]], ids=str)
@pytest.mark.parametrize("blank_bias", [-4.0, 0.0, 6.0])
def test_tdt_batch_equals_single_rows(durations: list[int], blank_bias: float) -> None:
    predictor, joint = make(len(durations), blank_bias)
    enc, lens = 2 * torch.randn(7, 25, 5), torch.tensor([25, 24, 17, 9, 2, 1, 0])
    expected = [
        reference_transducer(x[:n], predictor, joint, BLANK, durations, 3)
        for x, n in zip(enc, lens, strict=True)
    ]
    hyps = greedy_transducer(enc, lens, predictor, joint, durations=durations, blank=BLANK, max_symbols=3)
    assert sum(len(h.tokens) for h in expected) > 0
    check(hyps, expected)


@pytest.mark.parametrize("extra_outputs", [0, 3])
@pytest.mark.parametrize("blank_bias", [-4.0, 4.0])
def test_rnnt_batch_equals_single_rows(blank_bias: float, extra_outputs: int) -> None:
    predictor, joint = make(extra_outputs, blank_bias)
    enc, lens = 2 * torch.randn(5, 20, 5), torch.tensor([20, 13, 20, 1, 0])
    expected = [
        reference_transducer(x[:n], predictor, joint, BLANK, None, 4) for x, n in zip(enc, lens, strict=True)
    ]
    assert sum(len(h.tokens) for h in expected) > 0
    check(greedy_transducer(enc, lens, predictor, joint, blank=BLANK, max_symbols=4), expected)


def test_tokens_and_frames_equal_nemo(shared: Path) -> None:
    nemo = torch.load(shared / "golden/nemo/tdt_ctc_tiny.pt", weights_only=True)
    predictor = Predictor(PredictorConfig(hidden=24, layers=2), nemo["V"]).eval()
    joint = Joint(JointConfig(hidden=24), 32, 24, nemo["V"], len(nemo["durations"])).eval()
    for name, module in (("decoder.", predictor), ("joint.", joint)):
        state = {k.removeprefix(name): v for k, v in nemo["state_dict"].items() if k.startswith(name)}
        module.load_state_dict(state)
    hyps = greedy_transducer(
        nemo["enc"].mT, nemo["elen"], predictor, joint, durations=nemo["durations"], blank=nemo["V"]
    )
    assert [(h.tokens, h.frames) for h in hyps] == nemo["greedy"]


def test_max_symbols_forces_the_next_frame() -> None:
    predictor, joint = make(2, label_bias=50.0)  # always a label ...
    with torch.no_grad():
        joint.joint_net[2].bias[-2] += 500.0  # ... of duration 0
    enc, lens = torch.randn(2, 4, 5), torch.tensor([4, 2])
    hyps = greedy_transducer(enc, lens, predictor, joint, durations=[0, 1], blank=BLANK, max_symbols=2)
    assert [h.frames for h in hyps] == [[0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1]]
    assert all(d == 0 for h in hyps for d in h.durations)


def test_row_does_not_depend_on_padding_or_batch() -> None:
    predictor, joint = make(3)
    enc = 2 * torch.randn(1, 12, 5)
    alone = greedy_transducer(enc, torch.tensor([12]), predictor, joint, durations=[0, 1, 2], blank=BLANK)
    batch = torch.full((2, 30, 5), float("nan"))
    batch[0, :12], batch[1] = enc[0], torch.randn(30, 5)
    together = greedy_transducer(
        batch, torch.tensor([12, 30]), predictor, joint, durations=[0, 1, 2], blank=BLANK
    )
    check(together[:1], alone)


def test_empty_input_gives_empty_hypotheses() -> None:
    predictor, joint = make(0)
    empty = greedy_transducer(torch.zeros(2, 0, 5), torch.tensor([0, 0]), predictor, joint, blank=BLANK)
    assert [h.tokens for h in empty] == [[], []]
    assert greedy_transducer(torch.zeros(0, 4, 5), torch.zeros(0), predictor, joint, blank=BLANK) == []


def test_wrong_arguments_are_refused() -> None:
    predictor, joint = make(2)
    enc, lens = torch.zeros(1, 4, 5), torch.tensor([4])
    with pytest.raises(MayaError, match="3 durations"):
        greedy_transducer(enc, lens, predictor, joint, durations=[0, 1, 2], blank=BLANK)
    with pytest.raises(MayaError, match="max_symbols"):
        greedy_transducer(enc, lens, predictor, joint, blank=BLANK, max_symbols=0)
