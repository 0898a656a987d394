"""Modified beam search against icefall's algorithm for one utterance, exhaustive search and greedy search."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.decode.beams.trace import Trace, TraceStep
from maya.decode.beams.transducer_beams import TransducerParts
from maya.decode.hypothesis import Hypothesis
from maya.decode.transducer.greedy import greedy_transducer
from maya.decode.transducer.modified_beam import ModifiedBeamConfig
from maya.decode.transducer.modified_beam import modified_beam_search as search
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads.transducer import (
    Joint,
    JointConfig,
    Predictor,
    PredictorConfig,
    StatelessConfig,
    StatelessPredictor,
)

KINDS = ["lstm", "stateless", "icefall"]
VOCAB = 6


def modified_beam_search(
    enc: Tensor, lens: Tensor, predictor: Any, joint: Joint, blank: int, **options: Any
) -> list[Hypothesis]:
    parts = TransducerParts(predictor=predictor, joint=joint, blank=blank)
    return search(Encoded(enc, lens), parts, ModifiedBeamConfig(**options))


def make(kind: str, blank_bias: float = 0.0, vocab: int = VOCAB) -> tuple[Any, Joint, int]:
    """A random model with sharp outputs: predictor, joint and blank id."""
    blank = 0 if kind == "icefall" else None
    if kind == "lstm":
        predictor: Any = Predictor(PredictorConfig(hidden=8, layers=2), vocab).eval()
    else:
        predictor = StatelessPredictor(StatelessConfig(hidden=8, context=2), vocab, blank).eval()
    joint = Joint(JointConfig(hidden=16, activation="tanh"), 5, 8, vocab, blank=blank).eval()
    with torch.no_grad():
        for weight in (joint.enc.weight, joint.pred.weight, joint.joint_net[2].weight):
            weight.normal_(std=0.7)
        joint.joint_net[2].bias[joint.blank] += blank_bias
    return predictor, joint, joint.blank


def outputs(predictor: Any, joint: Joint, blank: int, frame: Tensor, history: tuple[int, ...]) -> Tensor:
    """Logits (V,) after a whole history, from the predictor's forward."""
    tokens = torch.tensor([history], dtype=torch.int64)
    return joint(frame[None, None], predictor(tokens)[:, -1:])[0, 0, 0]


@torch.no_grad()
def one_by_one(
    enc: Tensor,
    predictor: Any,
    joint: Joint,
    blank: int,
    beam: int,
    penalty: float,
    temperature: float,
    context: int,
) -> tuple[int, ...]:
    """icefall's search of one utterance (S, D), with a dictionary from labels to log probability."""
    beams: dict[tuple[int, ...], float] = {(): 0.0}
    for frame in enc:
        reached: list[tuple[float, tuple[int, ...]]] = []
        for history, score in beams.items():
            logits = outputs(predictor, joint, blank, frame, history)
            logits[blank] -= penalty
            for token, gain in enumerate((logits / temperature).log_softmax(-1).tolist()):
                reached.append((score + gain, history if token == blank else (*history, token)))
        beams = {}
        for score, history in sorted(reached, reverse=True)[:beam]:
            old = beams.get(history, -math.inf)
            beams[history] = score if old == -math.inf else old + math.log1p(math.exp(score - old))
    return max(beams, key=lambda h: beams[h] / (len(h) + context))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("penalty", "temperature"), [(0.0, 1.0), (1.5, 2.0)])
@pytest.mark.parametrize("beam", [2, 4])
def test_batch_equals_icefalls_algorithm(kind: str, penalty: float, temperature: float, beam: int) -> None:
    predictor, joint, blank = make(kind, blank_bias=1.0)
    enc, lens = 2 * torch.randn(6, 14, 5), torch.tensor([3, 14, 0, 14, 1, 8])
    context = 1 if kind == "lstm" else 2
    expected = [
        one_by_one(x[:n], predictor, joint, blank, beam, penalty, temperature, context)
        for x, n in zip(enc, lens.tolist(), strict=True)
    ]
    hypotheses = modified_beam_search(
        enc, lens, predictor, joint, blank=blank, beam=beam, blank_penalty=penalty, temperature=temperature
    )
    assert [tuple(h.tokens) for h in hypotheses] == expected
    assert sum(map(len, expected)) > 8


@torch.no_grad()
def probability(enc: Tensor, predictor: Any, joint: Joint, blank: int) -> dict[tuple[int, ...], float]:
    """Log probabilities of all label sequences, each summed over all paths of one output per frame."""
    log_probs: dict[tuple[int, ...], float] = {}
    for path in product(range(joint.num_tokens), repeat=len(enc)):
        history: tuple[int, ...] = ()
        total = 0.0
        for frame, token in zip(enc, path, strict=True):
            total += float(outputs(predictor, joint, blank, frame, history).log_softmax(-1)[token])
            history = history if token == blank else (*history, token)
        log_probs[history] = float(torch.tensor([log_probs.get(history, -math.inf), total]).logsumexp(0))
    return log_probs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_wide_beam_equals_exhaustive_search(kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    predictor, joint, blank = make(kind, blank_bias=0.5, vocab=2)
    enc = torch.randn(1, 4, 5)
    totals = probability(enc[0], predictor, joint, blank)
    assert math.log(sum(map(math.exp, totals.values()))) == pytest.approx(0, abs=1e-4)
    (hyp,) = modified_beam_search(
        enc, torch.tensor([4]), predictor, joint, blank=blank, beam=100, length_norm=False
    )
    assert tuple(hyp.tokens) == max(totals, key=totals.__getitem__)


def test_sum_over_paths_beats_the_best_path() -> None:
    predictor, joint, blank = make("icefall", vocab=2)
    with torch.no_grad():
        joint.joint_net[2].weight.zero_()
        joint.joint_net[2].bias.copy_(torch.tensor([0.6, 0.4, 1e-9]).log())
    enc, lens = torch.randn(1, 2, 5), torch.tensor([2])
    # Silence has one path of two frames (0.36); one label has two (0.24 each).
    hypotheses = modified_beam_search(enc, lens, predictor, joint, blank=blank, length_norm=False)
    assert hypotheses[0].tokens == [1] and hypotheses[0].durations == [1]
    assert hypotheses[0].score == pytest.approx(math.log(0.4), abs=1e-5)
    assert not modified_beam_search(enc, lens, predictor, joint, blank=blank, beam=1)[0].tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blank_bias", [-4.0, 0.0, 4.0])
def test_beam_of_one_equals_greedy_with_one_symbol_per_frame(kind: str, blank_bias: float) -> None:
    predictor, joint, blank = make(kind, blank_bias)
    enc, lens = 2 * torch.randn(7, 25, 5), torch.tensor([25, 0, 24, 17, 9, 2, 1])
    greedy = greedy_transducer(enc, lens, predictor, joint, blank=blank, max_symbols=1)
    hypotheses = modified_beam_search(enc, lens, predictor, joint, blank=blank, beam=1)
    assert sum(len(h.tokens) for h in greedy) > 0
    for hyp, truth in zip(hypotheses, greedy, strict=True):
        assert (hyp.tokens, hyp.frames, hyp.durations) == (truth.tokens, truth.frames, truth.durations)
        assert hyp.scores == pytest.approx(truth.scores, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_row_alone_equals_row_in_batch_and_padding_is_ignored(kind: str) -> None:
    predictor, joint, blank = make(kind)
    enc, lens = torch.randn(4, 20, 5), torch.tensor([12, 20, 5, 1])
    together = modified_beam_search(enc, lens, predictor, joint, blank=blank)
    for row, n in enumerate(lens.tolist()):
        row_slice = slice(row, row + 1)
        (alone,) = modified_beam_search(enc[row_slice, :n], lens[row_slice], predictor, joint, blank=blank)
        assert (alone.tokens, alone.frames) == (together[row].tokens, together[row].frames)
        enc[row, n:] = float("nan")
    again = modified_beam_search(enc, lens, predictor, joint, blank=blank)
    assert [h.tokens for h in again] == [h.tokens for h in together]


def test_blank_penalty_adds_labels() -> None:
    predictor, joint, blank = make("icefall", blank_bias=6.0)
    enc, lens = torch.randn(3, 20, 5), torch.tensor([20, 20, 20])
    few, many = (
        modified_beam_search(enc, lens, predictor, joint, blank=blank, blank_penalty=p) for p in (0.0, 8.0)
    )
    assert sum(len(h.tokens) for h in few) < sum(len(h.tokens) for h in many)
    for hyp in many:
        assert blank not in hyp.tokens and hyp.frames == sorted(set(hyp.frames))
        assert len(hyp.tokens) == len(hyp.frames) == len(hyp.durations) == len(hyp.scores)


def test_empty_input_and_bad_arguments() -> None:
    predictor, joint, blank = make("icefall")
    settings: dict[str, Any] = {"predictor": predictor, "joint": joint, "blank": blank}
    none = modified_beam_search(torch.randn(2, 0, 5), torch.tensor([0, 0]), **settings)
    assert none == [Hypothesis(search_score=0.0)] * 2
    assert modified_beam_search(torch.randn(0, 3, 5), torch.tensor([], dtype=torch.int64), **settings) == []
    enc, lens = torch.randn(1, 3, 5), torch.tensor([3])
    for mistake in ({"beam": 0}, {"temperature": 0.0}):
        with pytest.raises(MayaError, match=next(iter(mistake))):
            modified_beam_search(enc, lens, **settings, **mistake)  # type: ignore[arg-type]
    tdt = Joint(JointConfig(hidden=16), 5, 8, VOCAB, num_durations=3)
    with pytest.raises(MayaError, match="0 durations do not fit a joint network that scores 3"):
        modified_beam_search(enc, lens, predictor, tdt, blank=VOCAB)


def test_trace_follows_the_parents() -> None:
    trace = Trace(9)
    for parents, tokens, score in (
        ([[0, 0], [0, 0]], [[1, 2], [3, 9]], -0.5),
        ([[1, 0], [0, 1]], [[9, 4], [5, 6]], -0.25),
        ([[1, 0], [0, 1]], [[7, 8], [9, 9]], -1.0),
    ):
        trace.add(TraceStep(torch.tensor(parents), torch.tensor(tokens), torch.full((2, 2), score)))
    (first, other), (_, second) = trace.read(torch.tensor([[0, 1], [0, 1]]))
    assert (first.tokens, first.frames, first.scores) == ([1, 4, 7], [0, 1, 2], [-0.5, -0.25, -1.0])
    assert (other.tokens, other.durations) == ([2, 8], [1, 1])
    assert (second.tokens, second.frames, second.scores) == ([6], [1], [-0.25])
