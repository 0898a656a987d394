"""Alignment through the lattices of RNN-T and TDT, against exhaustive search by the definition."""

import math
from functools import cache

import pytest
import torch

from maya.align.transducer import Lattice, align_transducer, best_paths, make_lattice
from maya.decode.transducer.greedy import greedy_transducer
from maya.errors import MayaError
from maya.heads.transducer import Joint, JointConfig, Predictor, PredictorConfig

BLANK = 5


def networks(durations: tuple[int, ...] | None) -> tuple[Predictor, Joint]:
    predictor = Predictor(PredictorConfig(hidden=8, layers=1, dropout=0.0), BLANK).eval()
    joint = Joint(JointConfig(hidden=8, dropout=0.0), 6, 8, BLANK, len(durations or ())).eval()
    with torch.no_grad():
        for parameter in joint.parameters():
            parameter *= 5  # far from uniform, so that paths differ
    return predictor, joint


def exhaustive(
    lattice: Lattice, row: int, frames: int, labels: int
) -> tuple[float, tuple[tuple[int, int], ...]]:
    """The score and the (frame, duration) of each token of the best path to (frames, labels)."""
    has_durations = lattice.duration is not None

    def weight(table: torch.Tensor, t: int, u: int, d: int) -> float:
        extra = float(lattice.duration[row, t, u, d]) if lattice.duration is not None else 0.0
        return float(table[row, t, u]) + extra

    @cache
    def best(t: int, u: int) -> tuple[float, tuple[tuple[int, int], ...]]:
        choices = [(0.0, ())] if t == u == 0 else [(-math.inf, ())]
        for d, duration in enumerate(lattice.durations):
            source = t - duration
            if source < 0 or source >= frames:
                continue
            if duration > 0:
                score, path = best(source, u)
                choices.append((score + weight(lattice.blank, source, u, d), path))
            if u and t < frames and (has_durations or duration == 0):
                score, path = best(source, u - 1)
                value = score + weight(lattice.label, source, u - 1, d)
                choices.append((value, (*path, (source, duration))))  # type: ignore[arg-type]
        return max(choices, key=lambda choice: choice[0])  # type: ignore[return-value]

    return best(frames, labels)


@pytest.mark.parametrize("durations", [None, (0, 1, 2), (1, 2), (0, 1, 4), (0, 2)])
@pytest.mark.parametrize("seed", range(12))
def test_best_path_equals_exhaustive_search(seed: int, durations: tuple[int, ...] | None) -> None:
    torch.manual_seed(seed)
    predictor, joint = networks(durations)
    longest, most = int(torch.randint(1, 7, ())), int(torch.randint(0, 5, ()))
    frames = [longest, *torch.randint(1, longest + 1, (2,)).tolist()]
    tokens = [
        torch.randint(0, BLANK, (n,)).tolist() for n in (most, *torch.randint(0, most + 1, (2,)).tolist())
    ]
    enc = 3 * torch.randn(3, longest, 6)
    with torch.no_grad():
        lattice = make_lattice(enc, tokens, predictor, joint, blank=BLANK, durations=durations)
    paths = best_paths(lattice, frames, [len(row) for row in tokens])
    for row, path in enumerate(paths):
        score, expected = exhaustive(lattice, row, frames[row], len(tokens[row]))
        if score == -math.inf:
            assert path is None
        else:
            assert path is not None and list(zip(*path, strict=True)) == list(expected)


@pytest.mark.parametrize("durations", [None, (0, 1, 2)])
def test_a_row_alone_equals_the_row_in_a_batch(durations: tuple[int, ...] | None) -> None:
    predictor, joint = networks(durations)
    enc, lens = torch.randn(3, 12, 6), torch.tensor([12, 7, 9])
    tokens = [[1, 2, 3, 4], [0], [2, 2]]
    options = {"blank": BLANK, "durations": durations}
    batch = align_transducer(enc, lens, tokens, predictor, joint, **options)  # type: ignore[arg-type]
    for row in range(3):
        own = (enc[row : row + 1, : lens[row]], lens[row : row + 1], tokens[row : row + 1])
        (hyp,) = align_transducer(*own, predictor, joint, **options)  # type: ignore[arg-type]
        assert (hyp.frames, hyp.durations) == (batch[row].frames, batch[row].durations)
        assert hyp.scores == pytest.approx(batch[row].scores, abs=1e-5)


def test_greedy_path_is_no_better_than_the_best_one_of_its_tokens() -> None:
    """And it has the tokens' own scores: frames and durations mean the same in both."""
    predictor, joint = networks((0, 1, 2))
    enc = 2 * torch.randn(4, 30, 6)
    lens = torch.full((4,), 30)
    options = {"blank": BLANK, "durations": (0, 1, 2)}
    hyps = greedy_transducer(enc, lens, predictor, joint, **options)  # type: ignore[arg-type]
    aligned = align_transducer(enc, lens, [h.tokens for h in hyps], predictor, joint, **options)  # type: ignore[arg-type]
    assert any(hyp.tokens for hyp in hyps)
    for hyp, own in zip(hyps, aligned, strict=True):
        assert own.tokens == hyp.tokens and len(own.frames) == len(own.durations) == len(own.scores)
        assert own.frames == sorted(own.frames)
        for a, b, score, own_score in zip(hyp.frames, own.frames, hyp.scores, own.scores, strict=True):
            if a == b:
                assert score == pytest.approx(own_score, abs=1e-4)


def test_impossible_texts_are_refused() -> None:
    predictor, joint = networks((2,))
    enc = torch.randn(1, 3, 6)
    with pytest.raises(MayaError, match="1 tokens have no path through 3 frames"):
        align_transducer(enc, torch.tensor([3]), [[1]], predictor, joint, blank=BLANK, durations=(2,))
    with pytest.raises(MayaError, match="hold the blank 5"):
        align_transducer(enc, torch.tensor([3]), [[5]], predictor, joint, blank=BLANK, durations=(2,))
