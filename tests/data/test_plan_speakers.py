"""Rows of one speaker in a batch plan: each utterance once an epoch, speakers apart, caps, resuming."""

from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maya.data.loading.loader import TrainLoader
from maya.data.plan import BatchPlan, PlanConfig
from maya.data.plan.sampler import PlanSampler
from maya.data.plan.speaker_rows import SpeakerRows
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer
from tests.data.making import make_cuts
from tests.data.test_plan import corpus


def utterances(n: int = 500, speakers: int = 20, seed: int = 0, unknown: int = 5) -> Any:
    durations, tokens, langs = corpus(n, seed)
    rng = np.random.default_rng(seed)
    of = rng.choice(speakers, n, p=np.arange(1, speakers + 1) / np.arange(1, speakers + 1).sum())
    of[rng.choice(n, unknown, replace=False)] = -1
    names = [f"u{i}" for i in range(n)]
    return SimpleNamespace(ids=names, durations=durations, langs=langs, token_counts=tokens, speakers=of)


def config(**options: Any) -> PlanConfig:
    return PlanConfig(**({"max_seconds": 120.0, "temperature": 1.0, "same_speaker": 4, "seed": 3} | options))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("length", [2, 4, 7])
def test_each_utterance_is_in_one_row_of_an_epoch_and_speakers_are_apart(ranks: int, length: int) -> None:
    data, cfg = utterances(), config(same_speaker=length, max_seconds=200.0, max_tokens=2000)
    plans = [BatchPlan.of(data, cfg, rank=r, world_size=ranks, speeds=(0.9, 1.0, 1.1)) for r in range(ranks)]
    assert len(plans[0]) == 500 and len({plan.num_batches(1) for plan in plans}) == 1
    seen: list[int] = []
    sizes: list[int] = []
    for plan in plans:
        for position in islice(plan.positions(plan.resume((1, 0))), plan.num_batches(1)):
            draws = plan.take(position)
            assert draws.row_of is not None
            speeds = np.array(plan.speeds)[draws.speeds]
            seconds, tokens = (data.durations[draws.rows] / speeds).max(), data.token_counts[draws.rows].max()
            assert len(draws.rows) * seconds <= 200.0 * 1.00001 and len(draws.rows) * tokens <= 2000
            for row in range(draws.row_of.max() + 1):
                own = np.flatnonzero(draws.row_of == row)
                assert (np.diff(own) == 1).all() and 1 <= len(own) <= length
                who = {(data.speakers[i], data.langs[i]) for i in draws.rows[own].tolist()}
                assert len(who) == 1 and len({*draws.speeds[own]}) == 1
                assert who.pop()[0] >= 0 or len(own) == 1  # without a speaker, alone
                sizes.append(len(own))
            seen += draws.rows.tolist()
    assert sorted(seen) == list(range(500))
    pairs = Counter((s, n) for s, n in zip(data.speakers, data.langs, strict=True) if s >= 0)
    assert len(sizes) == 5 + sum(-(-count // length) for count in pairs.values())  # only the rest is shorter


def test_rows_change_from_epoch_to_epoch_and_hold_utterances_of_like_length() -> None:
    data = utterances(4000, speakers=4, unknown=0)
    rows = SpeakerRows(data, config())
    first, second = (
        [rows._members(epoch, row).tolist() for row in range(len(rows.sizes))] for epoch in (0, 1)
    )
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 0.02 * len(first)
    assert [len(a) for a in first] == rows.sizes.tolist()
    longest = np.array([data.durations[row].max() for row in first])
    assert (longest <= rows.durations).all()
    mean = sum(float(data.durations[row].sum()) for row in first) / float((rows.durations * rows.sizes).sum())
    assert mean > 0.75


def test_the_statistics_count_utterances() -> None:
    data = utterances()
    stats = BatchPlan.of(data, config()).stats(0)
    assert stats.utterances == 500 and stats.seconds == pytest.approx(data.durations.sum(), rel=1e-5)
    assert not any(stats.skipped.values()) and not any(stats.repeated.values())
    assert stats.max_padded_seconds <= 120.0 and stats.padded_seconds > stats.seconds
    hours = np.bincount(data.langs, weights=data.durations) / 3600
    assert stats.hours == pytest.approx(dict(enumerate(hours)), rel=1e-5)


def test_short_rows_are_said() -> None:
    pairs = Counter(s for s in utterances().speakers if s >= 0)
    said = str(SpeakerRows(utterances(), config(same_speaker=4)))
    assert said.startswith(
        f"{len(SpeakerRows(utterances(), config()).sizes)} rows of 4 utterances of one speaker, "
    )
    assert len(pairs) == 20 and said.endswith(
        "shorter, where a speaker has no more; 5 utterances name no speaker and are alone"
    )


def test_what_cannot_be_planned_is_said() -> None:
    data = utterances()
    for changes, options, message in (
        ({"speakers": np.full(500, -1)}, {}, "needs speakers, and no utterance of the data names one"),
        ({}, {"max_seconds": 30.0}, r"a row of data.plan.same_speaker=4 utterances as long as 'u\d+' \(\d"),
    ):
        with pytest.raises(MayaError, match=message):
            BatchPlan.of(SimpleNamespace(**(vars(data) | changes)), config(**options))
    with pytest.raises(MayaError, match="same_speaker=4 needs the speakers of a prepared table"):
        BatchPlan(data.durations, data.token_counts, data.langs, config())


def test_the_loader_gives_the_rows_and_resumes_by_seeking(tmp_path: Path, tokenizer: Tokenizer) -> None:
    cuts = make_cuts(tmp_path, np.random.default_rng(0).uniform(0.2, 0.8, 40).round(3).tolist())
    for i, cut in enumerate(cuts):
        cut.supervisions[0].speaker = f"s{i % 3}"
    with pytest.raises(MayaError, match="same_speaker=3"):
        PlanSampler(cuts, config(same_speaker=3))
    data = Utterances.from_cuts(cuts, tokenizer, ("en",))
    plan = BatchPlan.of(data, config(same_speaker=3, max_seconds=6.0))

    def batches(start: Any, count: int) -> list[Any]:
        return [
            *islice(iter(TrainLoader(data, tokenizer, ("en",), plan, sample_rate=16000, start=start)), count)
        ]

    straight = batches((0, 0), 9)
    resumed = batches(straight[3][0], 5)
    assert [b.ids for _, b in straight[4:]] == [b.ids for _, b in resumed]
    for (_, a), (_, b) in zip(straight[4:], resumed, strict=True):
        assert torch.equal(a.row_of, b.row_of) and torch.equal(a.audio, b.audio)
        for row in a.row_of.unique().tolist():
            own = [who for who, of in zip(a.labels["speaker"], a.row_of.tolist(), strict=True) if of == row]
            assert len(own) <= 3 and len({*own}) == 1
