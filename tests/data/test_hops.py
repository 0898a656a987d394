"""Counts the function calls between a data worker and the decoder: the path is short."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import maya
from maya.audio.tar_index import index_tar
from maya.data.corpus.manifest import Row
from maya.data.loading.cache import AudioCache
from maya.data.loading.reading import BatchReader, Job
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.plan import Position
from maya.data.table.table import Table, write_table
from maya.data.table.utterances import Utterances
from tests.data.making import make_tokenizer, write_tar, write_tone

MOST_HOPS = 8
HOUSE = (str(Path(maya.__file__).parent), "lhotse")


def depth(frame: types.FrameType | None, top: str) -> int:
    """The number of Maya's and lhotse's frames below `top`, including this frame."""
    count = 0
    while frame is not None and frame.f_code.co_qualname != top:
        count += any(part in frame.f_code.co_filename for part in HOUSE)
        frame = frame.f_back
    return count


def hops_to_samples(reader: BatchReader, job: Job) -> list[int]:
    """Calls between the reader's __getitem__ and the decoder, for each utterance of a batch."""
    hops: list[int] = []

    def watch(frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is soundfile.SoundFile.read.__code__:
            hops.append(depth(frame.f_back, "BatchReader.__getitem__"))

    sys.setprofile(watch)
    try:
        reader[job].checked()
    finally:
        sys.setprofile(None)
    return hops


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A table of a whole file, a tar member, a part of a long recording, and one channel of two."""
    tone = write_tone(tmp_path / "a.flac", 0.5)
    tar = write_tar(tmp_path / "t.tar", {"b.flac": tone.read_bytes()})
    write_tone(tmp_path / "c.wav", 3.0)
    write_tone(tmp_path / "d.flac", 0.5, channels=2)
    (member,) = index_tar(tar)
    facts = {"language": "en", "text": "one", "where": ""}
    rows = [
        Row(id="a", audio="a.flac", **facts),
        Row(id="b", audio="b.flac", tar="t.tar", offset=member.offset, size=member.size, **facts),
        Row(id="c", audio="c.wav", start=1.0, duration=0.5, **facts),
        Row(id="d", audio="d.flac", channel=1, **facts),
    ]
    entries, problems = probe(tmp_path, rows, ProbeConfig())
    assert not problems
    write_table(tmp_path / "train.parquet", entries)
    return Table.open(tmp_path / "train.parquet")


@pytest.mark.parametrize("some", [None, [3, 1, 0]])
def test_a_worker_reaches_decoded_samples_in_few_calls(table: Table, some: list[int] | None) -> None:
    rows = None if some is None else torch.tensor(some).numpy()
    utterances = Utterances.from_table(table, make_tokenizer(), ("en",), rows)
    reader = BatchReader(
        utterances, AudioCache(utterances.durations, 0.0, sample_rate=16000), sample_rate=16000
    )
    items = list(range(len(utterances)))
    hops = hops_to_samples(reader, Job(Position(0, 1), 0, items, [1.0] * len(items)))
    assert len(hops) == len(items) and max(hops) <= MOST_HOPS, hops


def test_training_makes_no_cuts(table: Table) -> None:
    """Audio of a table is read without lhotse."""
    utterances = Utterances.from_table(table, make_tokenizer(), ("en",))
    modules: set[str] = set()

    def watch(frame: types.FrameType, event: str, argument: Any) -> None:
        modules.add(frame.f_globals.get("__name__", "").split(".")[0])

    sys.setprofile(watch)
    try:
        for i in range(len(utterances)):
            utterances.source.load_audio(i, 16000)
    finally:
        sys.setprofile(None)
    assert "maya" in modules and "lhotse" not in modules
