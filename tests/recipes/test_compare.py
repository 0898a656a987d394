"""Comparison of two systems: runs of several seeds, the difference and its significance."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maya.errors import MayaError
from maya.recipes.compare import compare
from maya.score.wer import compare as compare_one
from maya.score.wer import macro_compare, wer

WORDS = "one two three four five"
Make = Callable[[str, float, int], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run whose hypotheses lack each word with some probability."""

    def made(name: str, missing: float, seed: int) -> Path:
        rng, folder = np.random.default_rng(seed), tmp_path / name / "decode" / "test"
        folder.mkdir(parents=True)
        rows = []
        for i in rng.permutation(80).tolist():  # runs need not agree in order
            kept = [w for w in WORDS.split() if rng.random() >= missing]
            row = {
                "id": f"u{i:03d}",
                "language": "en" if i % 2 else "gu",
                "ref": WORDS,
                "text": " ".join(kept),
            }
            rows.append(row | {"duration": 1.0, "speaker": "s"})
        (folder / "hyps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return made


def test_a_clear_difference_and_none(make: Make) -> None:
    bad = [make(f"bad{i}", 0.4, i) for i in range(3)]
    good = [make(f"good{i}", 0.1, 10 + i) for i in range(2)]
    text = compare(bad, good)
    assert "bad0 bad1 bad2" in text and "good0 good1" in text
    difference = text.split("second minus first: ")[1]
    assert float(difference.split()[0]) == pytest.approx(-30, abs=6) and "p = 0.001" in text
    rate = text.splitlines()[1].split()[5]  # after three names, the split and a count
    assert float(rate) == pytest.approx(40, abs=5)
    same = compare(bad[:1], [make("bad3", 0.4, 3)])
    assert float(same.rsplit("p = ", 1)[1].split()[0]) > 0.05


def test_several_runs_are_drawn_together() -> None:
    """A language that is the only one, a run each, is the plain paired comparison; a run that is there twice
    changes nothing."""
    rng = np.random.default_rng(0)
    refs = [WORDS] * 100
    first, second = (
        wer(refs, [" ".join(w for w in WORDS.split() if rng.random() > p) for _ in refs]) for p in (0.2, 0.25)
    )
    ids = [str(i) for i in range(100)]
    comparison = macro_compare({"en": first}, {"en": second}, blocks={"en": (ids, ids)})
    plain = compare_one(first, second)
    assert comparison.difference == pytest.approx(plain.difference)
    assert comparison.interval.low == pytest.approx(plain.interval.low, abs=0.01)
    assert comparison.interval.high == pytest.approx(plain.interval.high, abs=0.01)
    twice = type(second)(counts=np.concatenate([second.counts, second.counts[::-1]]))
    again = macro_compare({"en": first}, {"en": twice}, blocks={"en": (ids, [*ids, *ids[::-1]])})
    assert again == comparison


def test_different_runs_are_refused(make: Make) -> None:
    a, b = make("a", 0.2, 0), make("b", 0.2, 1)
    with pytest.raises(MayaError, match="the same runs"):
        compare([a], [a])
    shutil.copytree(a / "decode" / "test", a / "decode" / "again")
    assert "+0.00 points" in compare([a], [a], second_split="again")
    with pytest.raises(MayaError, match="decode that run first"):
        compare([a], [b], split="dev")
    path = b / "decode" / "test" / "hyps.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(MayaError, match="have different utterances"):
        compare([a], [b])
    with pytest.raises(MayaError, match="has other utterances than"):
        compare([a, b], [make("c", 0.2, 2)])
    stats = wer(["one"], ["one"])
    with pytest.raises(MayaError, match="different utterances"):
        macro_compare({"en": stats}, {"en": stats}, blocks={"en": (["a"], ["b"])})


def test_one_utterance_has_no_significance(make: Make) -> None:
    """A bootstrap of one utterance draws the same set each time; it says nothing about another utterance."""
    for language, expected in (("en", True), ("gu", False)):
        runs = [make(f"{language}{i}", missing, i) for i, missing in enumerate((0.1, 0.9))]
        for run in runs:
            file = run / "decode" / "test" / "hyps.jsonl"
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            rows = [row for row in rows if row["language"] == "en" or row["id"] == "u000"]
            kept = rows if expected else [row | {"language": "en"} for row in rows]
            file.write_text("".join(json.dumps(row) + "\n" for row in kept))
        text = compare(runs[:1], runs[1:])
        assert ("an interval needs two utterances" in text) == expected and ("p = 0.001" in text) != expected


def test_a_language_without_reference_words_has_no_rate(make: Make) -> None:
    runs = [make(f"run{i}", missing, i) for i, missing in enumerate((0.1, 0.9))]
    for run in runs:
        file = run / "decode" / "test" / "hyps.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row if row["language"] == "en" else row | {"ref": ""} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = compare(runs[:1], runs[1:])
    assert "inf" not in text and "nan" not in text and "1 language(s)" in text
    for run in runs:
        file = run / "decode" / "test" / "hyps.jsonl"
        rows = [json.loads(line) | {"ref": ""} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(MayaError, match="no reference has a word"):
        compare(runs[:1], runs[1:])
