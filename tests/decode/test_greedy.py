"""The loops of greedy decoding against `reference_greedy`: 1000 random models, batches, pieces, fusion."""

import random

import pytest
import torch

from maya.decode.confidence import ConfidenceConfig
from maya.decode.ctc.greedy import CTCDecoder, FusedRuns
from maya.decode.fusion import Fusion, Part
from maya.decode.label_looping.loops import MaskedLoop, make_loop
from maya.decode.label_looping.masked import MaskedSearch, masked_labels
from maya.decode.label_looping.rules import RowStates, TransducerRules
from maya.decode.transducer.greedy import TransducerDecoder
from maya.heads.transducer import (
    Joint,
    JointConfig,
    Predictor,
    PredictorConfig,
    StatelessConfig,
    StatelessPredictor,
)
from tests.decode.reference_greedy import Bigrams, bigram_fusion, reference_ctc, reference_transducer
from tests.no_waiting import no_waiting

VOCAB, DIM = 7, 5
DURATIONS = [None, (0, 1, 2, 3, 4), (0, 1), (2, 5), (0, 3), (1,)]


def network(draw: random.Random, durations=None):
    """A random predictor and joint whose outputs vary from frame to frame, and their blank."""
    if draw.random() < 0.3:
        blank = draw.choice([0, VOCAB])
        cfg = StatelessConfig(hidden=8, context=draw.choice([1, 2, 3]))
        predictor = StatelessPredictor(cfg, VOCAB, blank)
    else:
        blank = VOCAB
        predictor = Predictor(PredictorConfig(hidden=8, layers=draw.choice([1, 2])), VOCAB)
    joint = Joint(JointConfig(hidden=16), DIM, 8, VOCAB, len(durations or ()), blank)
    with torch.no_grad():
        for weight in (joint.enc.weight, joint.pred.weight, joint.joint_net[2].weight):
            weight.normal_(std=1.5)
        joint.joint_net[2].bias[blank] += draw.choice([-4.0, 0.0, 2.0, 6.0])
    return predictor.eval(), joint.eval(), blank


def rules_of(draw: random.Random, durations=None, fusion=False) -> TransducerRules:
    predictor, joint, blank = network(draw, durations)
    return TransducerRules(
        predictor=predictor, joint=joint, blank=blank, durations=durations,
        max_symbols=draw.choice([1, 2, 3]),
        fusion=bigram_fusion(VOCAB + 1, blank) if fusion else None,
    )  # fmt: skip


def decoded(rules: TransducerRules, enc, lens, loop="packed"):
    fusion = rules.fusion.start(len(enc)) if rules.fusion else None
    decoder = TransducerDecoder(make_loop(rules, loop), len(enc), fusion)
    decoder.push(enc, lens, final=True)
    return decoder.hyps


def expected_of(rules: TransducerRules, enc, lens):
    return [
        reference_transducer(
            x[:n], rules.predictor, rules.joint, rules.blank, rules.durations, rules.max_symbols, rules.fusion
        )
        for x, n in zip(enc, lens.tolist(), strict=True)
    ]


def same(hyps, expected):
    for a, b in zip(hyps, expected, strict=True):
        assert (a.tokens, a.frames, a.durations) == (b.tokens, b.frames, b.durations)
        assert a.scores == pytest.approx(b.scores, abs=1e-4)
        assert a.confidences == pytest.approx(b.confidences, abs=1e-4)
        assert len(a.tokens) == len(a.confidences)


def pieces(enc, lens, draw):
    """(enc, lens) of each push: 0 to 9 frames, of another size for each row, behind which is NaN."""
    at, total = [0] * len(enc), lens.tolist()
    while at != total:
        sizes = [min(draw.randrange(10), n - a) for n, a in zip(total, at, strict=True)]
        piece = torch.full((len(enc), max(sizes), enc.shape[2]), float("nan"))
        for row, size in enumerate(sizes):
            piece[row, :size] = enc[row, at[row] : at[row] + size]
            at[row] += size
        yield piece, torch.tensor(sizes)


@pytest.mark.parametrize("loop", ["packed", "masked"])
@pytest.mark.parametrize("durations", DURATIONS, ids=str)
def test_loops_equal_the_definition(durations, loop):
    """1008 random models in all, a third of them with fusion; batches with rows of 0 and 1 frames."""
    draw = random.Random(3)
    tokens = 0
    for trial in range(84):
        rules = rules_of(draw, durations, fusion=trial % 3 == 0)
        lens = torch.tensor([draw.choice([0, 1, 2, 7, 10]) for _ in range(3)])
        enc = 2 * torch.randn(3, 10, DIM)
        expected = expected_of(rules, enc, lens)
        tokens += sum(len(h.tokens) for h in expected)
        for row, n in enumerate(lens.tolist()):
            enc[row, n:] = float("nan")
        same(decoded(rules, enc, lens, loop), expected)
    assert tokens > 250


@pytest.mark.parametrize("loop", ["packed", "masked"])
@pytest.mark.parametrize("fusion", [False, True])
def test_row_alone_and_pieces_equal_the_batch(loop, fusion):
    draw = random.Random(5)
    for durations in DURATIONS:
        rules = rules_of(draw, durations, fusion)
        enc, lens = 2 * torch.randn(4, 40, DIM), torch.tensor([40, 31, 0, 7])
        whole = decoded(rules, enc, lens, loop)
        for row, n in enumerate(lens.tolist()):
            same(decoded(rules, enc[row : row + 1, :n], lens[row : row + 1], loop), whole[row : row + 1])
        start = rules.fusion.start(4) if rules.fusion else None
        decoder = TransducerDecoder(make_loop(rules, loop), 4, start)
        for piece, sizes in pieces(enc, lens, draw):
            decoder.push(piece, sizes)
        same(decoder.hyps, whole)


@pytest.mark.parametrize("durations", [None, (0, 1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("fusion", [False, True])
def test_masked_steps_never_wait(durations, fusion):
    """A step reads nothing on the host and changes no shape, so a CUDA graph can hold it; steps after the
    last label change nothing. Only the labels' transfer at the end waits."""
    rules = rules_of(random.Random(1), durations, fusion)
    enc, lens = 2 * torch.randn(3, 8, DIM), torch.tensor([8, 5, 0])
    expected = decoded(rules, enc, lens)
    assert sum(len(h.tokens) for h in expected) > 3
    f = rules.joint.project_encoder(enc).detach()
    states = RowStates.start(rules, 3, rules.fusion.start(3) if rules.fusion else None)
    modules = [rules.predictor, rules.joint, f, lens, states.g, states.next_frame]
    tables = [part.scorer.table for part in rules.fusion.parts] if rules.fusion else []
    steps = []

    def run(search):
        addresses = {name: x.data_ptr() for name, x in search.columns.items()}
        for _ in range(search.most_steps):
            search.step()
        steps.append(search.most_steps)
        assert addresses == {name: x.data_ptr() for name, x in search.columns.items()}

    with no_waiting(*modules, *tables, allowed=("tests/decode/reference_greedy",)) as waits:
        search = MaskedSearch(rules, 4, 8)
        setup = len(waits)
        labels = masked_labels(search, states, f, lens, run)
    assert {w.split(" at ")[0] for w in waits[:setup]} <= {"to to the device"}
    assert [w for w in waits[setup:] if "tolist" not in w] == []
    assert steps == [8 * rules.max_symbols + 2]
    assert [x.tokens for x in labels] == [h.tokens for h in expected]
    assert [x.frames for x in labels] == [h.frames for h in expected]


def test_masked_search_serves_pieces_of_other_sizes():
    rules = rules_of(random.Random(8), (0, 1, 2))
    loop = MaskedLoop(rules, graphed=False)
    sizes = []
    for rows, frames in ((2, 10), (1, 30), (3, 5), (3, 90), (1, 90)):
        enc, lens = 2 * torch.randn(rows, frames, DIM), torch.full((rows,), frames)
        decoder = TransducerDecoder(loop, rows)
        decoder.push(enc, lens, final=True)
        same(decoder.hyps, expected_of(rules, enc, lens))
        sizes.append((loop.search.batch, loop.search.frames))
    assert sizes == [(2, 64), (2, 64), (3, 64), (3, 128), (3, 128)]


def test_changed_weights_are_read_again():
    """The packed loop keeps products of labels, which belong to the weights."""
    rules = TransducerRules(
        **dict(zip(("predictor", "joint", "blank"), network(random.Random(4)), strict=True))
    )
    loop, lens = make_loop(rules, "packed"), torch.tensor([20])
    enc = 2 * torch.randn(1, 20, DIM)
    for _ in range(3):
        decoder = TransducerDecoder(loop, 1)
        decoder.push(enc, lens, final=True)
        same(decoder.hyps, expected_of(rules, enc, lens))
        with torch.no_grad():
            for p in rules.predictor.parameters():
                p += torch.randn_like(p)


def log_probs_of(draw, rows, frames, outputs=6):
    """Random outputs with runs of equal frames."""
    x = torch.randn(rows, frames, outputs) * 2
    for row in range(rows):
        for t in range(1, frames):
            if draw.random() < 0.4:
                x[row, t] = x[row, t - 1] + 0.3 * torch.randn(outputs)
    return x.log_softmax(-1)


@pytest.mark.parametrize("fused", [False, True])
def test_ctc_equals_the_definition(fused):
    """1000 random lattices: whole, in pieces, and each row alone."""
    draw, changed = random.Random(2), 0
    for trial in range(250):
        blank, rows = draw.choice([0, 5]), 2
        log_probs, lens = log_probs_of(draw, rows, 12), torch.tensor([12, draw.choice([0, 1, 7])])
        fusion = bigram_fusion(6, blank) if fused else None
        expected = [reference_ctc(x[:n], blank, fusion) for x, n in zip(log_probs, lens, strict=True)]
        plain = [reference_ctc(x[:n], blank) for x, n in zip(log_probs, lens, strict=True)]
        changed += expected != plain

        def decoder(rows, fusion=fusion, blank=blank):
            runs = FusedRuns(fusion, fusion.start(rows), rows) if fusion else None
            return CTCDecoder(torch.nn.Identity(), rows, blank=blank, fusion=runs)

        whole, parts = decoder(rows), decoder(rows)
        whole.push(log_probs, lens)
        same(whole.hyps, expected)
        if trial % 5 == 0:
            for piece, sizes in pieces(log_probs, lens, draw):
                parts.push(piece.nan_to_num(-9.0), sizes)
            same(parts.hyps, expected)
            alone = decoder(1)
            alone.push(log_probs[:1], lens[:1])
            same(alone.hyps, expected[:1])
    assert bool(changed) == fused


@pytest.mark.parametrize("aggregation", ["mean", "max", "prod"])
def test_ctc_confidences_are_aggregated_over_the_run(aggregation):
    import math
    import statistics

    functions = {"mean": statistics.mean, "max": max, "prod": math.prod}
    draw = random.Random(6)
    log_probs, lens = log_probs_of(draw, 2, 40), torch.tensor([40, 33])
    decoder = CTCDecoder(lambda x: x, 2, blank=5, confidence=ConfidenceConfig(aggregation=aggregation))
    for piece, sizes in pieces(log_probs, lens, draw):
        decoder.push(piece.nan_to_num(-9.0), sizes)
    expected = [
        reference_ctc(x[:n], 5, aggregate=functions[aggregation])
        for x, n in zip(log_probs, lens, strict=True)
    ]
    same(decoder.hyps, expected)


def test_no_confidences_on_request():
    rules = rules_of(random.Random(1))
    none = ConfidenceConfig(measure="none")
    enc, lens = 2 * torch.randn(2, 20, DIM), torch.tensor([20, 9])
    for loop in ("packed", "masked"):
        with_them = decoded(rules, enc, lens, loop)
        quiet = TransducerRules(
            **{n: getattr(rules, n) for n in ("predictor", "joint", "blank", "max_symbols")}, confidence=none
        )
        without = decoded(quiet, enc, lens, loop)
        assert [h.scores for h in without] == [h.scores for h in with_them]
        assert [h.confidences for h in without] == [[], []]


@pytest.mark.parametrize("durations", [None, (0, 1, 2)], ids=str)
def test_weight_zero_and_empty_fusion_change_nothing(durations):
    rules = rules_of(random.Random(12), durations)
    enc, lens = 2 * torch.randn(3, 30, DIM), torch.tensor([30, 20, 5])
    plain = decoded(rules, enc, lens)
    for parts in ([], [Part(weight=0.0, scorer=Bigrams(VOCAB + 1, rules.blank))]):
        fusion = Fusion(parts, blank=rules.blank)
        assert not fusion
        fused = TransducerRules(
            **{n: getattr(rules, n) for n in ("predictor", "joint", "blank", "max_symbols", "durations")},
            fusion=fusion or None,
        )
        assert decoded(fused, enc, lens) == plain  # bit for bit
