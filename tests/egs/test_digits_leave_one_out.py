"""Leave-one-speaker-out: every speaker is tested once and never trained on, by the folds that test it."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egs.digits import leave_one_out as loo
from egs.digits import singles, start
from egs.digits.data import read_source
from egs.digits.voices import ACCENTS, DIGITS, synthetic_corpus, synthetic_digits, trimmed
from maya.errors import MayaError
from maya.recipes.experiment import load_experiment
from tests.egs.test_digits_data import source, write_manifest  # noqa: F401  (a fixture)


@pytest.fixture
def rows(source: Path) -> list[dict[str, Any]]:  # noqa: F811
    """Six speakers of English and six of Gujarati."""
    rows = read_source(source)
    again = [r | {"id": "gu" + r["id"][2:], "language": "gu", "speaker": "g" + r["speaker"]} for r in rows]
    write_manifest(source, rows + again)
    return read_source(source)


def options(**changes: Any) -> argparse.Namespace:
    values = {"strings_per_language": 30, "single_takes": 2, "varied": True, "mixed": 0.5, "voice_strings": 5}
    return argparse.Namespace(**(values | changes))


@pytest.mark.parametrize("count", [3, 5, 12])
def test_folds_share_out_all_speakers(rows: list[dict[str, Any]], count: int) -> None:
    folds = loo.speakers_left_out(rows, count)
    assert sorted(sum(folds, [])) == sorted({r["speaker"] for r in rows})
    assert folds == loo.speakers_left_out(rows[::-1], count), "the order of the rows does not matter"
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


def test_too_many_folds_are_refused(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(MayaError, match="there are 12 speakers"):
        loo.speakers_left_out(rows, 13)


def test_no_speaker_is_trained_on_and_tested(rows: list[dict[str, Any]]) -> None:
    speaker_of = {r["id"]: r["speaker"] for r in rows}
    out = loo.speakers_left_out(rows, 4)[0]
    plan = loo.fold_plan(rows, [], out, options())
    speakers: dict[str, set[str]] = {"train": set(), "test": set()}
    for item in plan:
        speakers[item["split"]] |= {speaker_of[i] for i in item["recordings"]}
    assert speakers["test"] == set(out) and not speakers["train"] & set(out)
    assert speakers["train"] | set(out) == set(speaker_of.values())
    assert len({item["id"] for item in plan}) == len(plan)


def test_a_speaker_is_tested_on_the_same_utterances_in_every_grouping(rows: list[dict[str, Any]]) -> None:
    tests = {}
    for count in (4, 12):
        for out in loo.speakers_left_out(rows, count):
            plan = loo.fold_plan(rows, [], out, options(varied=count == 4))
            tests.setdefault(count, []).extend(item for item in plan if item["split"] == "test")
    assert sorted(tests[4], key=str) == sorted(tests[12], key=str)
    raw = [item for item in tests[4] if "-raw-" in item["id"]]
    singles = [item for item in tests[4] if "-single-" in item["id"]]
    assert [i["recordings"] for i in raw] == [i["recordings"] for i in singles]
    assert all(i["silences"] == [0, 0] and i["noise"] == 0 for i in raw)


def test_report_has_rates_by_speaker_and_paired_ratios(tmp_path: Path) -> None:
    """The macro average weights languages alike, and speakers within a language."""
    for fold in range(2):
        for name, errors in (("before", 40), ("after", 20)):
            of = {"en a": [errors, 100], "gu b": [0, 50]} if fold else {"en c": [0, 10], "gu d": [5, 50]}
            counts = {mode: dict.fromkeys(loo.KINDS, of) for mode in loo.MODES}
            folder = tmp_path / "2-folds" / f"{fold:02d}" / name
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps({"speakers": [str(fold)], "errors": counts}))
    mean, draws = loo.macro_rates(loo.pooled(loo.read_results(tmp_path, 2, "before"), "known", "single"))
    assert mean == pytest.approx((0.2 + 0.05) / 2)
    assert draws.min() == pytest.approx(0.0) and draws.max() == pytest.approx((0.4 + 0.1) / 2)
    lines = loo.report(tmp_path, 2, ["before", "after"]).splitlines()
    assert lines[1].split()[:5] == ["before", "2", "known", "single", "12.5"]
    after = next(line.split() for line in lines if line.startswith("after"))
    assert after[4] == "7.5" and "0.60" in after, "7.5 / 12.5"
    with pytest.raises(MayaError, match="no result of 'other'"):
        loo.report(tmp_path, 2, ["other"])


def test_errors_are_counted_by_kind_and_speaker(tmp_path: Path) -> None:
    rows = [
        {"id": "en-single-a-000", "language": "en", "speaker": "a", "ref": "one", "text": "two"},
        {"id": "en-single-a-001", "language": "en", "speaker": "a", "ref": "one", "text": "one"},
        {
            "id": "en-string-b-000",
            "language": "en",
            "speaker": "b",
            "ref": "one two six",
            "text": "one six",
        },
    ]
    (tmp_path / "hyps.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    counts = loo.count_errors(tmp_path / "hyps.jsonl")
    assert counts == {"single": {"en a": [1, 2]}, "string": {"en b": [1, 3]}}


def test_singles_weigh_languages_alike() -> None:
    line = singles.error_rate({"en": [True, False], "gu": [False] * 4})
    assert line.startswith("25.0 [0.0, 50.0]") and line.endswith("en 50.0 gu 0.0")


def test_every_accent_spells_ten_digits() -> None:
    for language, accents in ACCENTS.items():
        assert {len(text.split()) for text in accents.values()} == {10}
        assert accents[language] == DIGITS[language]


def test_synthetic_speakers_say_each_digit_once() -> None:
    pytest.importorskip("espeakng_loader")
    rows, audio = synthetic_digits(("gu", "en"), 2, seed=3, workers=1)
    assert [r["text"] for r in rows[:10]] == DIGITS["en"].split()
    assert len(rows) == len(audio) == 40 and len({r["speaker"] for r in rows}) == 4
    assert all(0.05 < len(samples) / 16000 < 2 for samples in audio.values())
    again, same = synthetic_digits(("en", "gu"), 2, seed=3, workers=2)
    assert again == rows and all(np.array_equal(audio[i], same[i]) for i in audio)


def test_a_start_model_hears_synthetic_speakers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of the later training do not change it, but for those of the model and the data."""
    pytest.importorskip("espeakng_loader")
    trained: list[tuple[Path, int, float]] = []
    for stage in ("prepare", "tokenizer"):
        monkeypatch.setattr(start, stage, lambda *_: None)
    note = lambda e, data, run, cpu: trained.append((run, e.train.steps, e.model.encoder.dropout))  # noqa: E731
    monkeypatch.setattr(start, "train", note)
    monkeypatch.setattr(start, "synthetic_corpus", partial(synthetic_corpus, strings=20))
    sets = ["--set", "train.steps=5", "--set", "model.encoder.dropout=0.2"]
    assert start.main(["--out", str(tmp_path), "--voices", "2", "--steps", "7", *sets]) == 0
    assert trained == [(tmp_path / "run", 7, 0.2)]
    overrides = capsys.readouterr().out.strip().split("\n")[-4:]
    exp = load_experiment("egs.digits.digits", overrides)
    assert exp.train.init_from == str(tmp_path / "run") and exp.train.init_modules[1:] == (
        "ctc",
        "language_embedding",
    )
    lines = (tmp_path / "corpus" / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["source"] for row in rows} == {"espeak-ng"} and len(rows) == 2 * (2 * 10 + 20)
    assert not {row["speaker"] for row in rows if "mixed" not in row["speaker"]} & {"theo", "jackson"}


def test_silence_at_the_ends_is_cut_off() -> None:
    samples = np.array([0, 3, 0, 500, -32768, 0, 400, 2, 0], np.int16)
    assert trimmed(samples).tolist() == [500, -32768, 0, 400]
