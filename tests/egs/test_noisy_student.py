"""Noisy student: texts that a teacher wrote are filtered, balanced, mixed in, and never measured on."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from egs.noisy_student import data, digits
from egs.noisy_student.mix import main as mix
from maya.data.table.labels import PSEUDO
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.recipes.average import average
from maya.recipes.decode import decode
from maya.recipes.finetuning.label import TableRow, balanced, label, read_rows, take
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from tests import tiny, tones


def row(language: str, seconds: float, confidence: float, checked: str = "") -> TableRow:
    return TableRow(
        audio=f"{language}{seconds}{confidence}", start=0.0, seconds=seconds, text="a", language=language,
        confidence=confidence, checked=checked,
    )  # fmt: skip


def test_no_language_and_no_length_prevails() -> None:
    """Short English rows are sure, others rarely: all kinds keep the share of rows that is kept at all."""
    rows = [row("en", s, 0.95 + 0.0001 * i) for i in range(20) for s in (1.0, 2.0, 4.0)]
    rows += [row("gu", s, 0.99 if i < 5 else 0.2) for i in range(20) for s in (1.0, 2.0, 4.0)]
    sure = [r for r in rows if r.confidence > 0.9]
    kept = balanced(sure, rows)
    counts = Counter((r.language, r.seconds) for r in kept)
    assert len(sure) == 75 and counts == {
        **{("en", s): 13 for s in (1.0, 2.0, 4.0)},
        **{("gu", s): 5 for s in (1.0, 2.0, 4.0)},
    }
    assert min(r.confidence for r in kept if r.language == "en") > 0.95  # the surest of each


def test_a_generation_from_speech_without_texts_to_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    exp = tiny.experiment()
    tiny.prepare_run(exp, tmp_path)
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    tones.make_corpus(tmp_path / "more", utterances=8, languages=("en",), seed=9)
    audio = sorted((tmp_path / "more").glob("*.wav"))
    lines = [json.dumps({"audio_filepath": str(path), "lang": "en"}) for path in audio]
    (tmp_path / "more.jsonl").write_text("\n".join(lines) + "\n")
    table = tmp_path / "labels.jsonl"
    assert label(tmp_path / "run", [str(tmp_path / "more.jsonl")], table) == 8
    given = [json.loads(line) | {"text": "bad cab"} for line in table.read_text().splitlines()]
    given[0] |= {"checked": "x", "text": "fed"}
    table.write_text("".join(json.dumps(values) + "\n" for values in given))
    take(table, tmp_path / "taken", min_confidence=0.0, balance=True)
    assert {r.language for r in read_rows(table)} == {"en"}

    exp.prepare.split.dev, exp.prepare.split.test = 0.4, 0.0
    prepare(exp, tmp_path / "taken", tmp_path / "pseudo")
    written = {
        part: [*Table.open(part_path(tmp_path / "pseudo", part)).entries()] for part in ("train", "dev")
    }
    assert sum(PSEUDO in entry.labels for entry in written["train"]) == 7
    assert not any(PSEUDO in entry.labels for entry in written["dev"])

    argv = ["mix", "--labelled", "data", "--pseudo", "pseudo", "--share", "0.5", "--out", "mixed"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", argv)
    mix()
    mixed = Table.open(part_path(tmp_path / "mixed", "train"))
    assert {PSEUDO} <= set(mixed.label_names)
    tokenizer(exp, tmp_path / "mixed", tmp_path / "student")
    train(exp, tmp_path / "mixed", tmp_path / "student", cpu=True)
    average(exp, tmp_path / "mixed", tmp_path / "student")
    decode(exp, tmp_path / "data", tmp_path / "student")
    with pytest.raises(
        MayaError, match=rf"train.parquet: \d+ utterances have texts that a model wrote \(label {PSEUDO}\)"
    ):
        decode(exp, tmp_path / "mixed", tmp_path / "student", split="train")
    part_path(tmp_path / "mixed", "train").rename(part_path(tmp_path / "mixed", "dev"))
    with pytest.raises(MayaError, match="nothing can be measured on them"):
        average(exp, tmp_path / "mixed", tmp_path / "student", force=True)

    manifest = tmp_path / "taken" / "manifest.json"
    rows = [json.loads(line) | {"split": "test"} for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(values) + "\n" for values in rows))
    with pytest.raises(MayaError, match="7 utterances of dev or test have texts that a model wrote"):
        prepare(exp, tmp_path / "taken", tmp_path / "refused")


def test_a_recording_of_digits_is_in_one_set() -> None:
    rows = [
        {"id": f"{s}-{d}-{n}", "language": "en", "speaker": f"s{s}", "text": str(d)}
        for s in range(6) for d in range(5) for n in range(4)
    ]  # fmt: skip
    plans = data.plan(rows, 0.2, 1)
    sets = {name: {r for item in items for r in item["recordings"]} for name, items in plans.items()}
    assert sum(map(len, sets.values())) == len(set.union(*sets.values())) == 120
    assert len(sets["labelled"]) * 4 == len(sets["unlabelled"])
    assert plans == data.plan(rows, 0.2, 1) != data.plan(rows, 0.2, 2)
    assert {item["split"] for item in plans["unlabelled"]} == {"train"}
    assert digits.student().data.augment.on and not digits.experiment().data.augment.on
