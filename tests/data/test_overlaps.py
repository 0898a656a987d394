"""Utterances that share audio are kept in one part, or flagged. Supervisions may reach outside of cuts."""

import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.shar import SharWriter

from maya.data.corpus.folder import read_corpus
from maya.data.measure.entry import Entry
from maya.data.measure.overlaps import overlap_groups, overlaps
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.examine import examine
from maya.data.prepare.split import SplitConfig
from tests.data.making import make_entry, write_tone
from tests.data.splitting import Item, split


def utterance(name: str, start: float | None, seconds: float, **facts: object) -> Entry:
    """An utterance of a.wav, which lasts 100 s."""
    path = os.path.realpath(str(facts.pop("path", "a.wav")))
    facts.pop("tar", None)
    length = 100.0 if start is None else seconds
    return make_entry(name, seconds=length, path=path, start=start, num_samples=1_600_000, **facts)


def pairs(*utterances: Entry) -> set[tuple[str, str, float]]:
    return {(o.first.id, o.second.id, round(o.seconds, 3)) for o in overlaps(utterances)}


def test_overlaps_of_time_spans() -> None:
    a, b, c, d = utterance("a", 0, 3), utterance("b", 2, 3), utterance("c", 5, 1), utterance("d", 2.5, 0.25)
    assert pairs(a, b, c, d) == {("a", "b", 1.0), ("a", "d", 0.25), ("b", "d", 0.25)}
    assert pairs(d, c, b, a) == pairs(a, b, c, d)
    assert pairs(utterance("e", 0, 1), utterance("f", 0.97, 1)) == set(), (
        "an overlap as small as rounding is ignored"
    )
    assert pairs(utterance("whole", None, 0), utterance("g", 90, 5)) == {("whole", "g", 5.0)}
    assert pairs(utterance("h", 1, 1), utterance("i", 1, 1)) == {("h", "i", 1.0)}


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({"channel": 0}, {"channel": 1}, False),
        ({"channel": 0}, {"channel": 0}, True),
        ({"channel": 0}, {}, True),
        ({}, {"path": Path("b.wav")}, False),
        ({"tar": "t", "offset": 0}, {"tar": "t", "offset": 512}, False),
        ({"tar": "t", "offset": 512}, {"tar": "t", "offset": 512}, True),
        ({"path": Path("x/../a.wav")}, {}, True),
    ],
)
def test_overlaps_need_the_same_recording_and_channel(
    first: dict[str, object], second: dict[str, object], shared: bool, tmp_path: Path
) -> None:
    assert bool(pairs(utterance("a", 0, 3, **first), utterance("b", 1, 3, **second))) is shared


def test_links_are_followed(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.2)
    (tmp_path / "b.wav").symlink_to("a.wav")
    a, b = (utterance(name, 0, 1, path=tmp_path / f"{name}.wav") for name in "ab")
    assert pairs(a, b) == {("a", "b", 1.0)}


def test_overlap_groups() -> None:
    shared = list(
        overlaps([
            utterance("a", 0, 3), utterance("b", 2, 3), utterance("c", 4, 3), utterance("d", 6.7, 3),
            utterance("e", 50, 2), utterance("f", 51, 0.1), utterance("g", 90, 1),
        ])
    )  # fmt: skip
    assert len(shared) == 4
    assert overlap_groups(shared) == {"a": "a", "b": "a", "c": "a", "e": "e", "f": "e"}, (
        "an overlap of 0.3 s is padding"
    )


@pytest.mark.parametrize("speakers", [12, 1])
@pytest.mark.parametrize("seed", range(4))
def test_a_group_stays_in_one_part(speakers: int, seed: int) -> None:
    """The group may be two speakers who talk at the same time, or two sentences of one speaker."""
    items = [
        Item(
            id=f"u{i:02d}", language="en", speaker=f"s{i % speakers}", text=f"text {i}", seconds=2.0,
            group=f"g{i // 4}" if i % 4 < 2 else None,
        )
        for i in range(48)
    ]  # fmt: skip
    parts, report = split(items, SplitConfig(dev=0.2, test=0.2, seed=seed))
    assert set(parts.values()) == {"train", "dev", "test"}
    of_group = defaultdict(set)
    for item in items:
        of_group[item.group].add(parts[item.id])
    assert all(len(places) == 1 for group, places in of_group.items() if group is not None)
    counts = report["en"]["parts"]
    assert sum(part["texts"] for part in counts.values()) == 48, "the report counts each text as it is"
    if speakers > 1:
        assert sum(part["speakers"] for part in counts.values()) == speakers


def test_single_utterance_groups_do_not_change_a_split() -> None:
    items = [
        Item(id=f"u{i}", language="en", speaker=f"s{i % 9}", text=f"t{i}", seconds=1.0) for i in range(90)
    ]
    grouped = [Item(**{name: getattr(i, name) for name in Item.__slots__} | {"group": i.id}) for i in items]
    assert split(items, SplitConfig()) == split(grouped, SplitConfig())


def overlapping_corpus(folder: Path, parts: str = "") -> None:
    """Twelve recordings of two speakers: both speak for 2 s, the second starts 1 s after the first."""
    folder.mkdir()
    lines = []
    for i in range(12):
        write_tone(folder / f"r{i}.wav", 4.0, pitch=200 + 20 * i)
        for k, start in enumerate((0.5, 1.5)):
            line = {
                "audio_filepath": f"r{i}.wav",
                "offset": start,
                "duration": 2.0,
                "id": f"u{i}-{k}",
                "text": f"{'abcdefghijkl'[i]} {'xy'[k]}",
                "lang": "en",
                "speaker": f"s{i}-{k}",
            }
            if parts:
                line["split"] = parts if k else "train"
            lines.append(json.dumps(line) + "\n")
    (folder / "manifest.json").write_text("".join(lines))


def test_overlapping_supervisions_stay_in_one_part(tmp_path: Path) -> None:
    overlapping_corpus(tmp_path / "c")
    examined = examine(tmp_path / "c", languages=[], cfg=PrepareConfig())
    parts = {entry.id: part for entry, part in examined.kept()}
    assert set(parts.values()) == {"train", "dev", "test"}
    assert all(parts[f"u{i}-0"] == parts[f"u{i}-1"] for i in range(12))
    assert "24 utterances share audio with others: 12 groups, each kept in one part" in examined.notes
    assert not [flag for flag in examined.flags() if flag.reason == "overlap_in_other_part"]


def test_overlaps_are_flagged_where_the_corpus_fixes_the_parts(tmp_path: Path) -> None:
    overlapping_corpus(tmp_path / "c", parts="test")
    examined = examine(tmp_path / "c", languages=[], cfg=PrepareConfig())
    flags = [flag for flag in examined.flags() if flag.reason == "overlap_in_other_part"]
    dev = {entry.id for entry, part in examined.kept() if part == "dev"}
    assert dev and {flag.id for flag in flags} == {f"u{i}-1" for i in range(12)} | dev
    details = {flag.id: flag.detail for flag in flags}
    other = next(f"u{i}-0" for i in range(12) if f"u{i}-0" not in dev)
    assert details[f"{other[:-1]}1"] == f"test: 1.00 s of its audio are in {other!r} too, which is in train"


def write_cuts(folder: Path, *spans: tuple[float, float], begin: float = 5.5, seconds: float = 4.0) -> Path:
    """Write a cut of 12 s of noise with supervisions of (start, duration) in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    soundfile.write(folder / "long.wav", rng.uniform(-0.3, 0.3, 12 * 16000).astype(np.float32), 16000)
    recording = Recording.from_file(folder / "long.wav", "long")
    cut = MonoCut("tail", begin, seconds, 0, recording=recording)
    cut.supervisions = [
        SupervisionSegment(f"u{i}", "long", start, duration, text="one", language="en", speaker=f"s{i}")
        for i, (start, duration) in enumerate(spans)
    ]
    CutSet.from_cuts([cut]).to_file(folder / "cuts.jsonl.gz")
    return folder


@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [
        (-1.5, 2.0, (4.0, 2.0)),  # before its cut
        (-5.5, 3.0, (0.0, 3.0)),  # at the begin of the recording
        (3.0, 2.5, (8.5, 2.5)),  # beyond its cut
        (-2.0, 8.0, (3.5, 8.0)),  # both
        (-5.55, 3.0, (0.0, 2.95)),  # 0.05 s before the recording
        (5.0, 1.5, (10.5, 1.5)),  # after its cut, to the end of the recording
    ],
)
def test_supervisions_longer_than_their_cut(
    tmp_path: Path, start: float, duration: float, expected: tuple[float, float]
) -> None:
    folder = write_cuts(tmp_path / "c", (start, duration), (1.0, 1.0))
    rows, dropped = read_corpus(folder)
    assert not dropped and [row.id for row in rows] == ["u0", "u1"]
    assert (rows[0].start, rows[0].duration) == pytest.approx(expected)
    whole = soundfile.read(folder / "long.wav", dtype="float32")[0]
    kept, unusable = probe(folder, rows, ProbeConfig())
    assert not unusable
    begin = round(expected[0] * 16000)
    part = whole[begin : begin + round(expected[1] * 16000)]
    np.testing.assert_allclose(kept[0].load_audio().numpy(), part, atol=1e-6)


@pytest.mark.parametrize(
    ("start", "duration", "reason"),
    [
        (-6.5, 3.0, "outside_recording"),  # 1 s before the recording
        (-9.0, 2.0, "outside_recording"),
        (7.0, 1.0, "outside_recording"),
        (-5.5, 14.0, "duration_mismatch"),
        (6.0, 2.0, "duration_mismatch"),
    ],
)
def test_supervisions_outside_of_their_recording_are_dropped(
    tmp_path: Path, start: float, duration: float, reason: str
) -> None:
    folder = write_cuts(tmp_path / "c", (start, duration), (0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (2.5, 1.0))
    examined = examine(folder, languages=["en"], cfg=PrepareConfig(max_dropped_fraction=0.5))
    (dropped,) = examined.dropped()
    assert (dropped.id, dropped.reason) == ("u0", reason)
    assert len(list(examined.kept())) == 4 and "12" in dropped.detail


def test_supervisions_outside_the_audio_of_shar_are_dropped(tmp_path: Path) -> None:
    folder = write_cuts(tmp_path / "c", (-0.05, 1.0), (-1.5, 2.0), (1.0, 1.0), (3.0, 2.0))
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "wav"}) as writer:
        for cut in CutSet.from_file(folder / "cuts.jsonl.gz"):
            writer.write(cut)
    rows, dropped = read_corpus(tmp_path / "shar")
    assert [(row.id, row.start) for row in rows] == [("u0", 0.0), ("u2", 1.0)]
    assert rows[0].duration == pytest.approx(0.95)
    assert [(problem.id, problem.reason) for problem in dropped] == [
        ("u1", "outside_recording"),
        ("u3", "outside_recording"),
    ]
