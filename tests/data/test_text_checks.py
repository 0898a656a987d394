import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maya.data.corpus.manifest import PARTS
from maya.data.measure.entry import Entry
from maya.data.measure.reasons import LEAKS
from maya.data.measure.reasons import TEXT as REASONS
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.parts import find_leaks
from maya.data.prepare.prepare import prepare_corpus
from maya.data.prepare.text_checks import (
    TextCheckConfig,
    same_audio,
    text_findings,
    usual_duration,
)
from maya.errors import MayaError
from maya.text.languages import LANGUAGES
from maya.text.normalize import normalize
from tests.data.checking import checked, shards_of
from tests.data.making import make_entry, write_corpus, write_manifest, write_tar

NO_AUDIO = TextCheckConfig(compare_audio=False)


def utterance(name: str, text: str, seconds: float = 1.0, **facts: Any) -> Entry:
    """A measured utterance; `path`, `offset` and `size` give the bytes of its audio."""
    path = Path(facts.pop("path", "a.wav"))
    if path.is_file():
        facts["file_size"] = path.stat().st_size
    language = facts.get("language", "en")
    return make_entry(name, normalize(text, language), seconds, raw_text=text, path=str(path), **facts)


@pytest.mark.parametrize(
    ("raw", "language", "reasons"),
    [
        ("नमस्ते दुनिया।", "hi", []),
        ("don't, Zoë!", "en", []),
        ("मैंने Google पर देखा", "hi", ["mixed_script"]),
        ("hello दुनिया", "hi", ["wrong_script"]),
        ("ভাত", "hi", ["wrong_script"]),
        ("उसके पास 12 आम हैं", "hi", ["digits"]),
        ("उसके पास १२ आम हैं", "hi", ["digits"]),
        ("<noise> आम [हँसी]", "hi", ["wrong_script", "markup"]),
        ("आम (हँसी)", "hi", ["markup"]),
        ("a < b and c > d", "en", ["markup"]),
        ("ok :-) [...]", "en", []),
        ("आम ी", "hi", ["stray_mark"]),
        ("it&#39;s", "en", ["html_entities"]),
        ("this &amp; that", "en", ["html_entities"]),
        ("&lt;noise&gt; yes", "en", ["html_entities", "markup"]),
        ("&amp;lt;i&amp;gt;yes", "en", ["html_entities", "markup"]),
        ("AT&T and Q&As; a & b", "en", []),
        ("<unk> yes", "en", ["markup"]),
        ("<UNK>", "en", ["markup"]),
        ("<i>yes</i> <br/> no", "en", ["markup"]),
        ("{cough} yes", "en", ["markup"]),
        ("yes *laughs* no", "en", ["markup"]),
        ("!SIL yes", "en", ["markup"]),
        ("%um yes", "en", ["markup"]),
        ("（笑）はい", "ja", ["markup"]),
        ("yes! 5 % of it", "en", ["digits"]),
        ("na\u00c3\u00afve", "en", ["damaged_text"]),
        ("\u00e0\u00a4\u00a8", "en", ["damaged_text"]),
        ("na\ufffdve", "en", ["damaged_text"]),
        ("naïve Ärger", "de", []),
    ],
)
def test_findings_of_a_transcript(raw: str, language: str, reasons: list[str]) -> None:
    assert [reason for reason, _ in text_findings(raw, normalize(raw, language), language)] == reasons


@given(st.text(), st.sampled_from(list(LANGUAGES)))
def test_any_transcript_has_findings_of_known_kinds(raw: str, language: str) -> None:
    for reason, detail in text_findings(raw, normalize(raw, language), language):
        assert reason in REASONS and detail


def test_usual_seconds_survive_wrong_pairs() -> None:
    """Each text has 0.4 s of silence and 0.07 s a character; 15 % of the durations are wrong."""
    rng = np.random.default_rng(0)
    characters = rng.integers(5, 100, 400).astype(float)
    seconds = (0.4 + 0.07 * characters) * np.exp(0.1 * rng.standard_normal(400))
    seconds[:60] = rng.uniform(0.5, 20.0, 60)
    usual = usual_duration(characters, seconds)
    np.testing.assert_allclose(
        usual.seconds(characters), 0.4 + 0.07 * characters, rtol=0.15
    )  # a deviation and a half
    assert 0.1 < usual.spread < 0.2


@pytest.mark.parametrize("characters", [np.full(60, 5.0), np.tile([3.0, 4.0, 5.0], 20)])
def test_usual_seconds_of_texts_of_equal_length(characters: np.ndarray) -> None:
    seconds = np.random.default_rng(1).uniform(0.5, 0.8, 60)
    fit = usual_duration(characters, seconds)
    usual = fit.seconds(characters)
    assert (usual > 0.3).all() and (usual < 1.2).all() and fit.spread < 0.5


def test_unusual_speaking_rates_are_flagged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    usual = [
        utterance(f"u{i}", "ab " * n, 0.3 + 0.2 * n + 0.02 * rng.standard_normal(), speaker=f"s{i}")
        for i, n in enumerate(rng.integers(3, 30, 80))
    ]
    odd = [utterance("short", "ab " * 25, 0.6, speaker="x"), utterance("long", "ab cd ef", 14.0, speaker="x")]
    flagged = {flag.id: flag.reason for flag in checked(tmp_path / "all", usual + odd, NO_AUDIO).flags}
    assert flagged == {"short": "too_little_audio", "long": "too_little_text"}
    few = checked(tmp_path / "few", [*usual[:20], *odd], NO_AUDIO)
    assert not few.flags, "22 utterances are too few to estimate the usual rate"


def test_repeated_sentences_of_one_speaker(tmp_path: Path) -> None:
    entries = [
        utterance("a", "one two three"),
        utterance("b", "One, two: three!"),
        utterance("c", "one two three", speaker="other"),
        utterance("d", "five"),
        utterance("e", "five"),
    ]
    (flag,) = checked(tmp_path / "one", entries, NO_AUDIO).flags
    assert (flag.id, flag.reason, flag.where) == ("b", "repeated_text", "m:1") and "'a'" in flag.detail
    words = TextCheckConfig(compare_audio=False, repeat_min_words=1)
    assert [flag.id for flag in checked(tmp_path / "two", entries, words).flags] == ["b", "e"]


def audio(folder: Path) -> list[Entry]:
    """a and b have equal bytes and texts, c and d equal bytes. e has their size. f copies a in a tar."""
    blocks = {"a": b"x" * 200_000, "b": b"x" * 200_000, "c": b"y" * 90, "d": b"y" * 90}
    blocks["e"] = blocks["a"][:-1] + b"!"
    for name, data in blocks.items():
        (folder / name).write_bytes(data)
    write_tar(folder / "t.tar", {"f": blocks["a"]})
    entries = [utterance(n, "ok" if n in "abe" else n, path=folder / n, speaker=n) for n in blocks]
    return [
        *entries,
        utterance("f", "ok", path=folder / "t.tar", speaker="f", member="f", offset=512, size=200_000),
    ]


def test_equal_audio_bytes_are_flagged(tmp_path: Path) -> None:
    entries = audio(tmp_path)
    assert same_audio(entries) == {"a": "a", "b": "a", "f": "a", "c": "c", "d": "c"}
    flagged = [(flag.id, flag.reason) for flag in checked(tmp_path / "one", entries, TextCheckConfig()).flags]
    both = [("c", "conflicting_audio"), ("d", "conflicting_audio")]
    assert flagged == [("b", "duplicate_audio"), *both, ("f", "duplicate_audio")]
    assert not checked(tmp_path / "two", entries, NO_AUDIO).flags
    (tmp_path / "c").unlink()
    with pytest.raises(MayaError, match=f"{tmp_path / 'c'}"):
        same_audio(entries)


def test_utterances_are_dropped_for_chosen_reasons(tmp_path: Path) -> None:
    entries = audio(tmp_path)
    cfg = TextCheckConfig(drop=("conflicting_audio",))
    result = checked(tmp_path / "one", entries, cfg)
    assert [entry.id for entry in result.kept] == ["a", "b", "e", "f"]
    assert [(entry.id, entry.reason) for entry in result.dropped] == [
        ("c", "conflicting_audio"),
        ("d", "conflicting_audio"),
    ]
    assert [flag.id for flag in result.flags] == ["b", "f"]
    wrong = PrepareConfig(text_checks=TextCheckConfig(drop=("noisy",)))
    with pytest.raises(MayaError, match="no reason 'noisy'; expected some of wrong_script"):
        prepare_corpus(tmp_path, tmp_path / "out", languages=(), cfg=wrong)


def test_leaks_from_training(tmp_path: Path) -> None:
    entries = [
        utterance("a", "one", speaker="x"),
        utterance("b", "one", speaker="y"),
        utterance("c", "two", speaker="x"),
        utterance("d", "three", speaker="z"),
        utterance("e", "एक", language="hi", speaker="w"),
    ]
    parts = {"a": "train", "b": "test", "c": "dev", "d": "test", "e": "train"}
    entries.append(utterance("f", "four", speaker="v"))
    parts["f"] = "dev"
    shards = shards_of(tmp_path, entries)
    numbers = np.array([PARTS.index(parts[entry.id]) for entry in entries], np.int8)
    audio = np.array([0, 1, 2, 0, 4, 5])  # d has the audio of a
    leaks = find_leaks(shards, numbers, audio, {5: "0.50 s ...", 3: "0.50 s ..."})
    flagged = [(flag.id, flag.reason) for flag in leaks.problems(shards, numbers)]
    assert flagged == [
        ("b", "text_in_training"),
        ("c", "speaker_in_training"),
        ("d", "audio_in_training"),
        ("f", "overlap_in_other_part"),
    ]
    assert {reason for _, reason in flagged} == set(LEAKS)


def test_prepare_writes_flags(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    rows[3]["text"] = "one 2"
    rows[25]["text"] = "एक two"
    rows[7]["audio"] = rows[2]["audio"]
    write_manifest(tmp_path / "c", rows)
    report = prepare_corpus(tmp_path / "c", tmp_path / "out", languages=(), cfg=PrepareConfig())
    lines = (tmp_path / "out/flagged.jsonl").read_text(encoding="utf-8").splitlines()
    flagged = {(row["id"], row["reason"]) for row in map(json.loads, lines)}
    assert flagged >= {
        ("en-003", "digits"),
        ("hi-005", "wrong_script"),
        ("en-002", "conflicting_audio"),
        ("en-007", "conflicting_audio"),
    }
    assert report.flagged["digits"] == {"en": 1} and report.flagged["wrong_script"] == {"hi": 1}
    assert not report.dropped and "digits: en 1" in report.table()
    cfg = PrepareConfig(text_checks=TextCheckConfig(drop=("digits",)))
    dropping = prepare_corpus(tmp_path / "c", tmp_path / "out", languages=(), cfg=cfg)
    assert dropping.dropped == {"digits": 1} and dropping.rows == 40
    assert "digits" not in dropping.flagged
