from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut
from torch.utils.data import DataLoader, Dataset

from maya.data.loading.lhotse_cuts import shar_in_place
from maya.data.plan import PlanConfig
from maya.data.plan.sampler import PlanSampler, count_characters
from maya.data.table.packed import PackedCuts
from maya.errors import MayaError
from tests.data.making import make_cuts


def synthetic_cuts(n: int, seed: int = 0) -> CutSet:
    """Cuts without audio, in two languages."""
    rng = np.random.default_rng(seed)
    return CutSet.from_cuts(
        synthetic_cut(i, float(seconds), "en" if i % 4 else "hi")
        for i, seconds in enumerate(rng.gamma(3.0, 1.5, n).clip(0.2, 20.0).round(2))
    )


def synthetic_cut(number: int, seconds: float, language: str = "en") -> MonoCut:
    name = f"cut-{number:05d}"
    recording = Recording(name, [], 16000, round(seconds * 16000), seconds)
    text = "a" * max(1, int(seconds * (2 + number % 7)))
    supervision = SupervisionSegment(name, name, 0.0, seconds, text=text, language=language)
    return MonoCut(name, 0.0, seconds, 0, recording=recording, supervisions=[supervision])


class Names(Dataset[list[str]]):
    """A dataset that returns the ids of each batch and reads no audio."""

    def __getitem__(self, cuts: CutSet) -> list[str]:  # type: ignore[override]
        return [cut.id for cut in cuts]


CUTS = synthetic_cuts(400)
CFG = PlanConfig(max_seconds=60, max_tokens=400, temperature=1.0)


def loader(sampler: PlanSampler, num_workers: int) -> DataLoader[list[str]]:
    return DataLoader(Names(), sampler=sampler, batch_size=None, num_workers=num_workers)


def test_batches_are_cutsets_under_the_caps() -> None:
    sampler = PlanSampler(CUTS, CFG)
    assert isinstance(sampler, torch.utils.data.Sampler)
    batches = list(sampler)
    assert all(isinstance(batch, CutSet) for batch in batches)
    assert sorted(cut.id for batch in batches for cut in batch) == sorted(CUTS.ids)
    for batch in batches:
        assert len(batch) * max(cut.duration for cut in batch) <= 60.001 or len(batch) == 1
        assert len(batch) * max(count_characters(cut) for cut in batch) <= 400 or len(batch) == 1
    assert sampler.languages == ("hi", "en")


def test_lazy_cuts_give_the_same_batches() -> None:
    lazy = CutSet(Lazy())
    assert lazy.is_lazy
    eager, packed = PlanSampler(CUTS, CFG), PlanSampler(lazy, CFG)
    assert [list(batch.ids) for batch in packed] == [list(batch.ids) for batch in eager]
    assert next(iter(packed))[0].supervisions[0].text


class Lazy:
    def __iter__(self) -> Iterator[Cut]:
        yield from CUTS


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_state_names_the_first_batch_not_handed_out(num_workers: int) -> None:
    whole = [*PlanSampler(CUTS, CFG), *_second_epoch()]
    names = [[cut.id for cut in batch] for batch in whole]
    for stop in (1, 7, len(names) // 2, len(names) // 2 + 3):
        sampler = PlanSampler(CUTS, CFG)
        before = take(sampler, num_workers, stop)
        assert before == names[:stop]
        resumed = PlanSampler(CUTS, CFG)
        resumed.load_state_dict(sampler.state_dict())
        assert take(resumed, num_workers, len(names) - stop) == names[stop:]


def take(sampler: PlanSampler, num_workers: int, count: int) -> list[list[str]]:
    batches: list[list[str]] = []
    while len(batches) < count:
        for batch in sampler.follow(loader(sampler, num_workers)):
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def _second_epoch() -> list[CutSet]:
    sampler = PlanSampler(CUTS, CFG)
    sampler.set_epoch(1)
    return list(sampler)


def test_epochs_follow_each_other_and_can_be_set() -> None:
    sampler = PlanSampler(CUTS, CFG)
    first, second = ([list(batch.ids) for batch in sampler] for _ in range(2))
    assert first != second
    sampler.set_epoch(1)
    assert len(sampler) == len(second) and [list(batch.ids) for batch in sampler] == second


def test_an_epoch_resumes_with_fewer_ranks() -> None:
    ranks = [PlanSampler(CUTS, CFG, rank=rank, world_size=4) for rank in range(4)]
    seen = [cut.id for sampler in ranks for _, batch in zip(range(3), sampler, strict=False) for cut in batch]
    fewer = [PlanSampler(CUTS, CFG, rank=rank, world_size=2) for rank in range(2)]
    for sampler in fewer:
        sampler.load_state_dict(ranks[3].state_dict())
        seen += [cut.id for batch in sampler for cut in batch]
    assert sorted(seen) == sorted(CUTS.ids)


def test_speeds_are_applied_before_the_caps() -> None:
    sampler = PlanSampler(CUTS, PlanConfig(max_seconds=60), speeds=(0.9, 1.1))
    for batch in sampler:
        assert len(batch) * max(cut.duration for cut in batch) <= 60.01 or len(batch) == 1
        assert all("_sp" in cut.id for cut in batch)


def test_a_too_long_utterance_is_named() -> None:
    with pytest.raises(MayaError, match=r"utterance 'cut-\d+' is .* s long"):
        PlanSampler(CUTS, PlanConfig(max_seconds=10))


def test_packed_cuts_are_read_back() -> None:
    packed = PackedCuts()
    for cut in CUTS:
        packed.append(cut)
    assert len(packed) == 400 and packed[399] == CUTS[399] and packed[0] == CUTS[0]
    with pytest.raises(IndexError):
        packed[400]


def test_cuts_that_hold_their_audio_are_refused(tmp_path: Path) -> None:
    """lhotse's own reader of Shar puts the audio into the cuts."""
    folder = tmp_path / "shar"
    folder.mkdir()
    make_cuts(tmp_path, [1.0, 1.2]).to_shar(folder, fields={"recording": "wav"})
    with pytest.raises(MayaError, match=r"cut .* holds audio or arrays in memory.*shar_in_place"):
        PlanSampler(CutSet.from_shar(in_dir=folder), PlanConfig(), rank=0, world_size=1)
    sampler = PlanSampler(shar_in_place(folder), PlanConfig(), rank=0, world_size=1)
    assert sampler.num_cuts == 2
