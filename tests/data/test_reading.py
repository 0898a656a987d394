"""The loader with unreadable audio, slow storage, dead workers and other failures."""

import json
import logging
import os
import signal
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.data.loading.augment import Augment, AugmentConfig
from maya.data.loading.loader import TrainLoader, clear_worker_errors
from maya.data.loading.reading import Skipped, Skips
from maya.data.plan import BatchPlan, PlanConfig
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer
from tests.data.making import make_cuts

LANGUAGES = ("en", "hi")
COUNT = 40


def make(folder: Path, tokenizer: Tokenizer, **options: Any) -> TrainLoader:
    utterances = Utterances.from_cuts(make_cuts(folder, [0.3] * COUNT), tokenizer, LANGUAGES)
    cfg = PlanConfig(max_seconds=1.5, num_buckets=1)
    plan = BatchPlan(utterances.durations, utterances.token_counts, utterances.langs, cfg)
    return TrainLoader(utterances, tokenizer, LANGUAGES, plan, sample_rate=16000, **options)


def an_epoch(loader: TrainLoader) -> list[list[str]]:
    return [batch.ids for _, batch in islice(loader, loader.plan.num_batches(0))]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_utterances_are_skipped_counted_and_named(
    tmp_path: Path, tokenizer: Tokenizer, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = an_epoch(make(tmp_path, tokenizer))
    loader = make(
        tmp_path, tokenizer, num_workers=num_workers, max_skipped=0.1, skip_log=tmp_path / "skipped.jsonl"
    )
    gone = {whole[1][0], whole[3][2]}
    for name in gone:
        (tmp_path / f"{name}.wav").unlink()
    with caplog.at_level(logging.WARNING):
        assert an_epoch(loader) == [[i for i in ids if i not in gone] for ids in whole]
    assert set(loader.skips.reasons) == gone and len(loader.skips) == 2
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == gone
    assert all(f"cannot read {tmp_path}/{line['id']}.wav" in line["reason"] for line in lines)
    assert caplog.text.count("left out: utterance 'en-") == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_unreadable_utterances_stop_the_run(
    tmp_path: Path, tokenizer: Tokenizer, num_workers: int
) -> None:
    loader = make(
        tmp_path, tokenizer, num_workers=num_workers, max_skipped=0.1, skip_log=tmp_path / "s.jsonl"
    )
    for i in range(0, COUNT, 5):
        (tmp_path / f"en-{i:04d}.wav").unlink()
    with pytest.raises(
        MayaError, match=r"cannot be read \('en-.*more than data\.max_skipped=0\.1 allows; all"
    ):
        an_epoch(loader)
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) >= 5


def test_skips_are_counted_once_and_by_rank() -> None:
    skips = Skips(utterances=4000, world_size=4, max_share=0.002)
    for _ in range(5):
        skips.add([Skipped("a", "x"), Skipped("b", "y")])
    assert len(skips) == 2
    with pytest.raises(MayaError, match="3 utterances cannot be read"):
        skips.add([Skipped("c", "z")])


def test_an_unreadable_batch_becomes_one_readable_utterance(tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole = an_epoch(make(tmp_path, tokenizer))
    loader = make(tmp_path, tokenizer, max_skipped=0.5)
    for name in whole[2]:
        (tmp_path / f"{name}.wav").unlink()
    batches = an_epoch(loader)
    assert len(batches) == len(whole) and len(batches[2]) == 1 and batches[2][0] not in whole[2]
    assert set(loader.skips.reasons) == set(whole[2])


def test_missing_storage_stops_the_run(tmp_path: Path, tokenizer: Tokenizer) -> None:
    loader = make(tmp_path, tokenizer, max_skipped=1.0)
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    with pytest.raises(MayaError, match=r"none of \d+ utterances in a row can be read; is the storage there"):
        an_epoch(loader)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unresponsive_storage_is_a_clear_error(
    tmp_path: Path, tokenizer: Tokenizer, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make(tmp_path, tokenizer, num_workers=num_workers, timeout_seconds=2.0)
    monkeypatch.setattr("maya.data.table.packed.load_cut_audio", lambda cut, rate: time.sleep(60))
    started = time.monotonic()
    with pytest.raises(MayaError, match=r"no data came for 2 s, while waiting .* begins with utterance 'en-"):
        next(iter(loader))
    assert time.monotonic() - started < 50


def test_slow_storage_is_a_warning(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("maya.data.loading.loader._SLOW_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        next(iter(make(tmp_path, tokenizer)))
    assert "for the batch that begins with utterance 'en-" in caplog.text


@pytest.mark.parametrize("where", ["while waiting", "between batches"])
def test_a_dead_worker_is_a_clear_error(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """PyTorch detects this by a signal, which may arrive anywhere in the main thread."""
    if where == "while waiting":
        monkeypatch.setattr(
            "maya.data.table.packed.load_cut_audio", lambda cut, rate: os.kill(os.getpid(), signal.SIGKILL)
        )
    loader = make(tmp_path, tokenizer, num_workers=1)
    message = r"a data worker \(process [\d, ]+\) .*: often the system"
    with pytest.raises(MayaError, match=message), clear_worker_errors():
        for _ in islice(loader, 100):
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                if "multiprocessing" not in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(int(child), signal.SIGKILL)
            time.sleep(0.2)


def test_other_errors_are_raised_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"), clear_worker_errors():
        raise RuntimeError("shape mismatch in DataLoader worker")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmented_batches_do_not_depend_on_workers_or_resuming(
    tmp_path: Path, tokenizer: Tokenizer, num_workers: int
) -> None:
    cfg = AugmentConfig(clean_share=0.2, volume_prob=1.0, codec_prob=0.5, band_limit_prob=0.5, warp_prob=0.7)
    cfg.made_room_prob = cfg.made_noise_prob = cfg.equalizer_prob = 0.5
    options = {"augment": Augment(cfg, 16000), "cache_gb": 1.0}
    whole = list(islice(make(tmp_path, tokenizer, **options), 24))
    plain = list(islice(make(tmp_path, tokenizer), 24))
    start = whole[13][0]
    rest = islice(make(tmp_path, tokenizer, num_workers=num_workers, start=start, **options), 10)
    for (_, a), (_, b) in zip(whole[14:], rest, strict=True):
        assert a.ids == b.ids and torch.equal(a.audio, b.audio)
        assert a.warps is not None and b.warps is not None and torch.equal(a.warps, b.warps)
    assert all(batch.warps is None for _, batch in plain)
    assert all(
        a.ids == b.ids and a.audio.shape == b.audio.shape for (_, a), (_, b) in zip(whole, plain, strict=True)
    )
    per_epoch = make(tmp_path, tokenizer).plan.num_batches(0)
    first = {i: row for _, b in whole[:per_epoch] for i, row in zip(b.ids, b.audio, strict=True)}
    second = {i: row for _, b in whole[per_epoch:] for i, row in zip(b.ids, b.audio, strict=True)}
    both = first.keys() & second.keys()
    assert sum(not torch.equal(first[i], second[i]) for i in both) > len(both) / 2, (
        "changes differ between epochs"
    )
