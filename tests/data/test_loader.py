import gc
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet

from maya.audio.load import change_speed, load_cut_audio
from maya.data.loading.batch import Batch
from maya.data.loading.cache import AudioCache
from maya.data.loading.loader import EvalLoader, TrainLoader
from maya.data.plan import BatchPlan, PlanConfig, Position
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer
from tests.data.making import make_cuts

LANGUAGES = ("en", "hi")
SPEEDS = (0.9, 1.0, 1.1)


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> CutSet:
    folder = tmp_path_factory.mktemp("cuts")
    rng = np.random.default_rng(0)
    english = make_cuts(folder, rng.uniform(0.2, 0.8, 17).round(3).tolist())
    hindi = make_cuts(folder, rng.uniform(0.2, 0.8, 7).round(3).tolist(), "hi")
    return CutSet.from_cuts([*english, *hindi])


def make_loader(cuts: CutSet, tokenizer: Tokenizer, **options: object) -> TrainLoader:
    utterances = Utterances.from_cuts(cuts, tokenizer, LANGUAGES)
    cfg = PlanConfig(max_seconds=3.0, temperature=0.5, num_buckets=3)
    plan = BatchPlan(utterances.durations, utterances.token_counts, utterances.langs, cfg)
    options = {"speed_perturb": SPEEDS} | options
    return TrainLoader(utterances, tokenizer, LANGUAGES, plan, sample_rate=16000, **options)  # type: ignore[arg-type]


def take(loader: TrainLoader, count: int) -> list[tuple[Position, Batch]]:
    iterator = iter(loader)
    batches = list(islice(iterator, count))
    del iterator
    gc.collect()
    return batches


def assert_same(a: list[tuple[Position, Batch]], b: list[tuple[Position, Batch]]) -> None:
    assert [p for p, _ in a] == [p for p, _ in b]
    for (_, x), (_, y) in zip(a, b, strict=True):
        assert x.ids == y.ids
        for name in ("audio", "audio_lens", "tokens", "token_lens", "langs"):
            assert torch.equal(getattr(x, name), getattr(y, name)), name


def test_batches_are_those_of_the_plan(cuts: CutSet, tokenizer: Tokenizer) -> None:
    loader = make_loader(cuts, tokenizer)
    by_id = {cut.id: cut for cut in cuts}
    position = loader.start
    for after, batch in take(loader, loader.plan.num_batches(0) + 2):
        items = loader.plan.take(position).rows.tolist()
        assert batch.ids == [loader.utterances.ids[i] for i in items]
        for row, n, name, speed in zip(
            batch.audio, batch.audio_lens, batch.ids, loader.plan.batch_speeds(*position[:2]), strict=True
        ):
            assert torch.equal(row[:n], change_speed(load_cut_audio(by_id[name]), speed, 16000))
        for row, n, name in zip(batch.tokens, batch.token_lens, batch.ids, strict=True):
            assert tokenizer.decode(row[:n].tolist()) == by_id[name].supervisions[0].text
        assert batch.langs.tolist() == [LANGUAGES.index(name[:2]) for name in batch.ids]
        assert batch.audio.numel() / 16000 < 3.0 + batch.size / 16000 or batch.size == 1
        position = loader.plan.advance(position)
        assert after == position
    assert position.epoch == 1, "the iterator goes on into the next epoch"


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cache_gb", [0.0, 1.0, 0.0003])
def test_workers_and_cache_do_not_change_batches(
    cuts: CutSet, tokenizer: Tokenizer, num_workers: int, cache_gb: float
) -> None:
    """The third cache holds only some of the utterances."""
    plain = make_loader(cuts, tokenizer)
    count = 2 * plain.plan.num_batches(0) + 1
    assert_same(
        take(plain, count),
        take(make_loader(cuts, tokenizer, num_workers=num_workers, cache_gb=cache_gb), count),
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_loses_and_repeats_nothing(cuts: CutSet, tokenizer: Tokenizer, num_workers: int) -> None:
    whole = take(make_loader(cuts, tokenizer), 12)
    for stop in (1, 5, 9):
        before = take(make_loader(cuts, tokenizer, num_workers=num_workers), stop)  # more are decoded ahead
        saved = tuple(before[-1][0])
        after = take(make_loader(cuts, tokenizer, num_workers=num_workers, start=saved), 12 - stop)
        assert_same(before + after, whole)


def test_a_position_that_no_longer_exists_is_refused(cuts: CutSet, tokenizer: Tokenizer) -> None:
    with pytest.raises(MayaError, match=r"batch 999 of epoch 0, which has only \d+"):
        take(make_loader(cuts, tokenizer, start=(0, 999)), 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_missing_audio_is_a_clear_error_in_every_loader(
    tmp_path: Path, tokenizer: Tokenizer, num_workers: int
) -> None:
    cuts = make_cuts(tmp_path, [0.3] * 12)
    (tmp_path / "en-0005.wav").unlink()
    with pytest.raises(MayaError, match=r"utterance 'en-0005': cannot read .*en-0005\.wav") as caught:
        take(make_loader(cuts, tokenizer, num_workers=num_workers), 12)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_abandoned_iterators_stop_their_threads(cuts: CutSet, tokenizer: Tokenizer) -> None:
    take(make_loader(cuts, tokenizer), 2)
    assert not [t for t in threading.enumerate() if t.name == "maya-loader"]


def test_bugs_are_not_swallowed(cuts: CutSet, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make_loader(cuts, tokenizer)
    monkeypatch.setattr(loader._dataset, "cache", None)
    with pytest.raises(AttributeError):
        take(loader, 1)


def test_plan_of_other_data_is_refused(cuts: CutSet, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="plan is for 1 utterances, the data has 24"):
        TrainLoader(cuts, tokenizer, LANGUAGES, BatchPlan([1.0], [1], [0], PlanConfig()), sample_rate=16000)


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_reads_each_utterance_once(cuts: CutSet, tokenizer: Tokenizer, world_size: int) -> None:
    loaders = [
        EvalLoader(
            cuts,
            tokenizer,
            LANGUAGES,
            sample_rate=16000,
            max_seconds=2.0,
            max_utterances=4,
            rank=r,
            world_size=world_size,
        )  # fmt: skip
        for r in range(world_size)
    ]
    batches = [list(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(b) for b in batches]
    ids = [name for rank in batches for batch in rank for name in batch.ids]
    assert sorted(ids) == sorted(cut.id for cut in cuts)
    for rank in batches:
        lengths = [int(batch.audio_lens.max()) for batch in rank]
        assert lengths == sorted(lengths, reverse=True)
        for batch in rank:
            assert batch.size <= 4 and (batch.audio.numel() <= 2.0 * 16000 * 1.001 or batch.size == 1)
    again = list(loaders[0])
    assert_same([(Position(0, 0), b) for b in batches[0]], [(Position(0, 0), b) for b in again])


def test_evaluation_skips_unreadable_utterances(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A whole batch may be unreadable. Each pass counts from zero. Too many skips raise one clear error."""
    made = make_cuts(tmp_path, [0.3, 0.4, 0.5, 0.6])
    cuts, log = CutSet.from_cuts(made), tmp_path / "skipped.jsonl"
    paths = [Path(cut.recording.sources[0].source) for cut in made]
    whole = paths[1].read_bytes()
    paths[1].write_bytes(b"RIFF no more")
    options = {"sample_rate": 16000, "max_seconds": 0.5, "max_utterances": 1}
    loader = EvalLoader(cuts, tokenizer, LANGUAGES, max_skipped=0.25, skip_log=log, **options)  # type: ignore[arg-type]
    for _ in range(2):
        assert [name for batch in loader for name in batch.ids] == [made[i].id for i in (3, 2, 0)]
        assert [skipped.id for skipped in loader.left_out] == [made[1].id]
    assert len(log.read_text().splitlines()) == 1
    paths[1].write_bytes(whole)
    assert len(list(loader)) == 4 and not loader.left_out
    paths[1].write_bytes(b"")
    paths[2].unlink()
    with pytest.raises(MayaError, match=r"2 utterances cannot be read .*max_skipped=0\.25 allows"):
        list(loader)
    with pytest.raises(MayaError, match=made[2].id):  # by default, the first unreadable utterance is an error
        list(EvalLoader(cuts, tokenizer, LANGUAGES, **options))  # type: ignore[arg-type]


def test_a_long_utterance_is_evaluated_alone(cuts: CutSet, tokenizer: Tokenizer) -> None:
    assert all(
        b.size == 1 for b in EvalLoader(cuts, tokenizer, LANGUAGES, sample_rate=16000, max_seconds=0.1)
    )


def test_the_cache_stays_within_its_size() -> None:
    cache = AudioCache(np.array([1.0, 1.0, 1.0]), 2.5 * 16000 * 4 / 1e9, sample_rate=16000)
    assert len(cache) == 2
    assert cache.get(0) is None
    for index in range(3):
        cache.put(index, torch.full((16000,), float(index)))
    assert torch.equal(cache.get(1), torch.ones(16000))  # type: ignore[arg-type]
    assert cache.get(2) is None
    cache.put(0, torch.zeros(20000))  # longer than its slot; it would overwrite the next one
    assert torch.equal(cache.get(1), torch.ones(16000))  # type: ignore[arg-type]
