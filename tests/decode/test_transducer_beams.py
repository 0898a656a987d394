"""Beam searches of RNN-T and TDT against their definitions, exhaustive search and greedy search."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.decode.beams.fused_rows import FusionStart
from maya.decode.beams.transducer_beams import TransducerParts
from maya.decode.fusion import Fusion, Part
from maya.decode.hypothesis import Hypothesis
from maya.decode.transducer.alsd import ALSDConfig, alsd_search
from maya.decode.transducer.greedy import greedy_transducer
from maya.decode.transducer.maes import MAESConfig, maes_search
from maya.decode.transducer.modified_beam import ModifiedBeamConfig, modified_beam_search
from maya.encoders import Encoded
from maya.heads.transducer import Joint, JointConfig, Predictor, PredictorConfig
from tests.decode.reference_beams import Path, ReferenceBeam, TableScorer, TableTransducer

LABELS = 3
BLANK = LABELS
NODES = 211  # so many that two paths with the same score are rare
MODELS: dict[str, tuple[int, ...] | None] = {"rnnt": None, "tdt": (0, 1, 2, 4), "no zero": (1, 2)}
SEARCHES: dict[str, tuple[Any, Any]] = {
    "alsd": (alsd_search, ALSDConfig),
    "maes": (maes_search, MAESConfig),
    "modified": (modified_beam_search, ModifiedBeamConfig),
}


def random_transducer(
    rows: int, frames: int, durations: Sequence[int] | None, sharp: float = 1.5
) -> TableTransducer:
    outputs = LABELS + 1 + len(durations or ())
    table = sharp * torch.randn(rows * frames, NODES, outputs, dtype=torch.float64)
    table[..., BLANK] += 0.7
    return TableTransducer(table, torch.randint(NODES, (NODES, LABELS + 1)), BLANK, durations)


def options(search: str, i: int) -> dict[str, Any]:
    """Various options of a search, by number."""
    if search == "alsd":
        return {"max_symbols": (2, 10)[i % 2]}
    return (
        {"num_steps": 1 + i % 3, "gamma": (1.0, 2.3, math.inf)[i % 3], "beta": i % 2}
        if search == "maes"
        else {}
    )


def by_definition(
    reference: ReferenceBeam, search: str, own: dict[str, Any]
) -> list[tuple[Path, Path, float]]:
    searches: dict[str, Callable[..., list[tuple[Path, Path, float]]]] = {
        "alsd": reference.alsd, "maes": reference.maes, "modified": reference.modified,
    }  # fmt: skip
    return searches[search](**own)


def check(hyp: Hypothesis, expected: list[tuple[Path, Path, float]]) -> None:
    for own, (path, frames, score) in zip([hyp, *hyp.alternatives], expected, strict=True):
        assert (tuple(own.tokens), tuple(own.frames)) == (path, frames)
        assert own.search_score == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("search", SEARCHES)
def test_thousand_random_lattices_equal_the_definition(search: str, model: str) -> None:
    """Labels, frames and scores of the whole beam; half of the lattices with a text score."""
    torch.manual_seed(0)
    decode, make = SEARCHES[search]
    durations, rows, frames = MODELS[model], 100, 6
    for i in range(10):
        transducer = random_transducer(rows, frames, durations)
        lens = torch.randint(frames + 1, (rows,)).tolist()
        beam, own, length_norm = 2 + i % 3, options(search, i), bool(i % 4 == 3)
        scorer = TableScorer(
            torch.randn(NODES, LABELS + 1, dtype=torch.float64), torch.randn(NODES), transducer.follow
        )
        scorer.table[:, BLANK] = 0.0
        start = None
        if i % 2:
            fusion = Fusion([Part(weight=0.7, scorer=scorer)], blank=BLANK)
            start = FusionStart(fusion, fusion.start(rows))
        cfg = make(beam=beam, n_best=beam, length_norm=length_norm, **own)
        text = scorer.text(0.7) if start else None
        hyps = decode(transducer.encoded(lens, frames), transducer.parts, cfg, start)
        for row, (hyp, length) in enumerate(zip(hyps, lens, strict=True)):
            reference = ReferenceBeam(
                transducer.outputs(row * frames), length, BLANK, durations, beam,
                text, length_norm,
            )  # fmt: skip
            check(hyp, by_definition(reference, search, own))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("search", ["alsd", "maes"])
@pytest.mark.parametrize("seed", range(3))
def test_beam_without_pruning_equals_exhaustive_search(search: str, model: str, seed: int) -> None:
    """T and U of 4 at most: the score of each text is the sum over all its alignments."""
    torch.manual_seed(seed)
    durations, frames, most = MODELS[model], 3, 3
    if durations is None:
        frames = most = 4
    nodes = sum(2**n for n in range(most + 2))  # of a tree of labels; after `most` labels only blank may come
    table = torch.randn(frames, nodes, 3 + len(durations or ()), dtype=torch.float64)
    table[:, nodes - 2 ** (most + 1) :, :2] = -math.inf
    table[:, (nodes - 2 ** (most + 1)) // 2 :, :2] = -math.inf
    follow = (2 * torch.arange(nodes)[:, None] + torch.tensor([1, 2, 0])).clamp(max=nodes - 1)
    transducer = TableTransducer(table, follow, 2, durations)
    totals = ReferenceBeam(transducer.outputs(0), frames, 2, durations, 1).every_path()
    assert math.log(sum(map(math.exp, totals.values()))) == pytest.approx(0, abs=1e-9)
    decode, make = SEARCHES[search]
    own = {"max_symbols": 10} if search == "alsd" else {"num_steps": most, "gamma": math.inf}
    cfg = make(beam=1500, n_best=1500, length_norm=False, **own)
    (hyp,) = decode(transducer.encoded([frames], frames), transducer.parts, cfg)
    beams = {tuple(h.tokens): h.search_score for h in (hyp, *hyp.alternatives)}
    assert beams == pytest.approx(totals, abs=1e-9)
    assert list(beams.values()) == sorted(beams.values(), reverse=True)  # type: ignore[type-var]


def test_modified_beam_without_pruning_sums_all_paths() -> None:
    """A TDT with one label per frame at most: the probabilities of all texts add up to 1."""
    transducer = random_transducer(1, 4, (0, 1, 2))
    cfg = ModifiedBeamConfig(beam=1200, n_best=1200, length_norm=False)
    (hyp,) = modified_beam_search(transducer.encoded([4], 4), transducer.parts, cfg)
    totals = [h.search_score for h in (hyp, *hyp.alternatives)]
    assert sum(map(math.exp, totals)) == pytest.approx(1, abs=1e-9)  # type: ignore[arg-type]
    assert len({tuple(h.tokens) for h in (hyp, *hyp.alternatives)}) == len(totals)


def networks(durations: Sequence[int] | None, blank_bias: float = 0.0) -> TransducerParts:
    """A random model with sharp outputs."""
    predictor = Predictor(PredictorConfig(hidden=8, layers=2), 6).eval()
    joint = Joint(JointConfig(hidden=16), 5, 8, 6, len(durations or ())).eval()
    with torch.no_grad():
        for weight in (joint.enc.weight, joint.pred.weight, joint.joint_net[2].weight):
            weight.normal_(std=1.0)
        joint.joint_net[2].bias[6] += blank_bias
    return TransducerParts(
        predictor=predictor, joint=joint, blank=6, durations=tuple(durations) if durations else None
    )


def batch() -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(6, 21, 5), torch.tensor([21, 20, 0, 9, 2, 1])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("blank_bias", [-4.0, 0.0, 4.0])
@pytest.mark.parametrize("search", SEARCHES)
def test_beam_of_one_equals_greedy(search: str, blank_bias: float, model: str) -> None:
    """ALSD and the modified beam always. MAES pays for the blank after `num_steps` labels, whose duration a
    TDT chooses, where greedy search moves on by one: there with a limit that is not reached."""
    durations = MODELS[model]
    parts, (enc, lens) = networks(durations, blank_bias), batch()
    if search == "maes" and durations is not None and 0 in durations:
        blank_bias = max(blank_bias, 0.0)
        parts = networks(durations, 4.0)
    limit = {"alsd": 3, "maes": 3 if durations is None else 20, "modified": 1}[search]
    decode, make = SEARCHES[search]
    own = {"alsd": {"max_symbols": limit}, "maes": {"num_steps": limit}, "modified": {}}[search]
    hyps = decode(Encoded(enc, lens), parts, make(beam=1, **own))
    greedy = greedy_transducer(
        enc, lens, parts.predictor, parts.joint, durations=durations, blank=6, max_symbols=limit
    )
    assert sum(len(h.tokens) for h in greedy) > 0
    for hyp, truth in zip(hyps, greedy, strict=True):
        assert (hyp.tokens, hyp.frames, hyp.durations) == (truth.tokens, truth.frames, truth.durations)
        assert hyp.scores == pytest.approx(truth.scores, abs=1e-4)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("search", SEARCHES)
def test_row_alone_equals_row_in_batch_and_padding_is_ignored(search: str, model: str) -> None:
    parts, (enc, lens) = networks(MODELS[model]), batch()
    decode, make = SEARCHES[search]
    cfg = make(n_best=3)
    together = decode(Encoded(enc, lens), parts, cfg)
    assert max(len(h.alternatives) for h in together) == 2
    for row, n in enumerate(lens.tolist()):
        (alone,) = decode(Encoded(enc[row : row + 1, :n], lens[row : row + 1]), parts, cfg)
        assert texts(alone) == texts(together[row])
        enc[row, n:] = float("nan")
    assert list(map(texts, decode(Encoded(enc, lens), parts, cfg))) == list(map(texts, together))
    assert decode(Encoded(enc[:0], lens[:0]), parts, cfg) == []
    assert [h.tokens for h in decode(Encoded(enc[:2, :0], 0 * lens[:2]), parts, cfg)] == [[], []]


def texts(hyp: Hypothesis) -> list[tuple[list[int], list[int]]]:
    return [(h.tokens, h.frames) for h in (hyp, *hyp.alternatives)]


@pytest.mark.parametrize("search", SEARCHES)
def test_weight_zero_changes_nothing_and_a_text_score_decides(search: str) -> None:
    parts, (enc, lens) = networks((0, 1, 2)), batch()
    decode, make = SEARCHES[search]
    cfg, plain = (
        make(n_best=2, length_norm=False),
        decode(Encoded(enc, lens), parts, make(n_best=2, length_norm=False)),
    )
    follow = torch.randint(5, (5, 7))
    scorer = TableScorer(torch.randn(5, 7), torch.randn(5), follow)
    off, on = (Fusion([Part(weight=w, scorer=scorer)], blank=6) for w in (0.0, 3.0))
    same = decode(Encoded(enc, lens), parts, cfg, FusionStart(off, off.start(len(enc))))
    assert same == plain
    other = decode(Encoded(enc, lens), parts, cfg, FusionStart(on, on.start(len(enc))))
    assert [h.tokens for h in other] != [h.tokens for h in plain]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("model", MODELS)
def test_path_without_questions_to_the_device_gives_the_same(
    search: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a GPU: all hypotheses take every step, and nothing asks which of them are active."""
    parts, (enc, lens) = networks(MODELS[model]), batch()
    decode, make = SEARCHES[search]
    scorer = TableScorer(torch.randn(5, 7), torch.randn(5), torch.randint(5, (5, 7)))
    fusion = Fusion([Part(weight=0.5, scorer=scorer)], blank=6)
    start = FusionStart(fusion, fusion.start(len(enc)))
    expected = decode(Encoded(enc, lens), parts, make(n_best=3), start)
    monkeypatch.setattr("maya.decode.beams.transducer_beams.waits_for", lambda device: True)
    monkeypatch.setattr("maya.decode.beams.fused_rows.waits_for", lambda device: True)
    hyps = decode(Encoded(enc, lens), parts, make(n_best=3), start)
    for hyp, truth in zip(hyps, expected, strict=True):
        assert texts(hyp) == texts(truth)
        assert hyp.search_score == pytest.approx(truth.search_score, abs=1e-4)
