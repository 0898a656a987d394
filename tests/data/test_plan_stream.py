from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.iterable_dataset import IterableDatasetWrapper
from torch.utils.data import DataLoader

from maya.data.plan import PlanConfig
from maya.data.plan.caps import Caps
from maya.data.plan.sampler import count_characters
from maya.data.plan.stream import StreamSampler
from maya.errors import MayaError
from tests.data.test_plan_sampler import CUTS, Names, synthetic_cut

LISTED = list(CUTS)


@given(
    st.integers(1, 400), st.sampled_from([1, 30, 1000]), st.sampled_from([None, 60.0]),
    st.sampled_from([None, 5]), st.sampled_from([None, 300]), st.sampled_from([None, 20_000]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_caps_hold_and_each_cut_comes_once(
    n: int, held: int, seconds: float | None, utterances: int | None, tokens: int | None, lattice: int | None
) -> None:
    if seconds is utterances is tokens is lattice is None:
        utterances = 10
    cfg = PlanConfig(max_seconds=seconds, max_utterances=utterances, max_tokens=tokens, max_lattice=lattice)
    batches = list(StreamSampler(LISTED[:n], cfg, held=held))
    assert sorted(cut.id for batch in batches for cut in batch) == sorted(cut.id for cut in LISTED[:n])
    for batch in batches:
        longest, most = max(cut.duration for cut in batch), max(map(count_characters, batch))
        assert len(batch) <= int(Caps(cfg).size(longest, most)) or len(batch) == 1


def endless(seed: int) -> Iterator[Cut]:
    rng = np.random.default_rng(seed)
    for i in count():
        yield synthetic_cut(i, round(min(20.0, 0.2 + rng.gamma(3.0, 1.5)), 2))


class Endless:
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[Cut]:
        return endless(self.seed)


def test_an_endless_stream_has_little_padding_and_even_ranks() -> None:
    cfg = PlanConfig(max_seconds=100)
    ranks = [islice(StreamSampler(endless(r), cfg, held=3000, stream=r), 100) for r in range(4)]
    costs, seconds, padded = np.zeros((4, 100)), 0.0, 0.0
    for rank, batches in enumerate(ranks):
        for step, batch in enumerate(batches):
            longest = max(cut.duration for cut in batch)
            costs[rank, step] = Caps(cfg).cost(len(batch), longest, max(map(count_characters, batch)))
            seconds += sum(cut.duration for cut in batch)
            padded += len(batch) * longest
    assert seconds / padded > 0.9
    assert np.median(costs.max(axis=0) / costs.mean(axis=0)) < 1.1


def test_a_resumed_stream_gives_the_same_batches() -> None:
    cfg = PlanConfig(max_seconds=60)
    sampler = StreamSampler(Endless(0), cfg, held=200)
    whole = [list(batch.ids) for batch in islice(sampler, 12)]
    first = StreamSampler(Endless(0), cfg, held=200)
    iterator = iter(first)
    for _ in range(5):
        next(iterator)
    second = StreamSampler(Endless(0), cfg, held=200)
    second.load_state_dict(first.state_dict())
    assert [list(batch.ids) for batch in islice(second, 7)] == whole[5:]
    assert second.state_dict() == {"epoch": 0, "given": 12, "world_size": 1}
    sampler.set_epoch(1)
    assert [list(batch.ids) for batch in islice(sampler, 12)] != whole


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_sampler_runs_in_dataloader_workers(num_workers: int) -> None:
    """lhotse reads Shar this way: the sampler runs in the workers."""
    sampler = StreamSampler(CutSet.from_cuts(LISTED).repeat(), PlanConfig(max_seconds=60), held=300)
    dataset = IterableDatasetWrapper(Names(), sampler)
    batches = list(islice(DataLoader(dataset, batch_size=None, num_workers=num_workers), 10))
    assert all(batches) and len(batches) == 10


def test_speeds_and_bad_input() -> None:
    cfg = PlanConfig(max_seconds=60)
    batches = list(StreamSampler(LISTED, cfg, speeds=(0.9, 1.0)))
    for batch in batches:
        assert len(batch) * max(cut.duration for cut in batch) <= 60.01 or len(batch) == 1
    with pytest.raises(MayaError, match="utterance 'cut-.* is .* s long"):
        next(iter(StreamSampler(LISTED, PlanConfig(max_seconds=5))))
    with pytest.raises(MayaError, match="at least one cut, not 0"):
        StreamSampler(LISTED, cfg, held=0)
