"""egs/heads: splits and joined sentences of the corpus for punctuation, phonemes, counts of marks."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egs.heads import heads, sounds, written
from egs.heads.measures import mark_counts
from egs.heads.recognised import carried
from maya.heads import HeadContext, UnitCTCConfig
from maya.text.phonemes import is_installed, pronounce


def rows(texts: int, speakers: int, readings: int = 1) -> list[dict[str, Any]]:
    return [
        {"id": f"{t}-{r}", "text": f"sentence {t}.", "speaker": f"s{(t + r) % speakers}", "language": "en"}
        for t in range(texts)
        for r in range(readings)
    ]


@pytest.mark.parametrize(("speakers", "readings"), [(1, 1), (8, 1), (8, 4)])
def test_no_text_and_no_speaker_is_in_two_parts(speakers: int, readings: int) -> None:
    splits = written.divided(rows(80, speakers, readings), random.Random(1))
    texts = {name: {row["text"] for row in own} for name, own in splits.items()}
    people = {name: {row["speaker"] for row in own} for name, own in splits.items()}
    assert all(len(own) >= 3 for own in splits.values()) and not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"] and not texts["dev"] & texts["test"]
    assert speakers == 1 or not people["test"] & (people["train"] | people["dev"])


def test_sentences_are_joined_of_one_speaker() -> None:
    plan = list(written.joined("en", "train", rows(40, 2), random.Random(1)))
    assert {len(item["rows"]) for item in plan} == {1, 2, 3} and len(plan) == 40
    for item in plan:
        assert len({row["speaker"] for row in item["rows"]}) == 1
        assert len({row["text"] for row in item["rows"]}) == len(item["rows"])


def test_marks_are_counted() -> None:
    counts = mark_counts(["", ",", ".", "?", ","], [",", ",", "?", "", ","], (",", ".", "?"))
    assert np.array_equal(counts, [[2, 0, 1], [0, 1, 0], [0, 1, 1]])


def test_marks_are_carried_to_recognised_words() -> None:
    words, marks, cases = ["well", "yes", "it", "is", "so"], [",", "", "", ".", "?"], [1, 0, 0, 0, -1]
    assert carried(words, marks, cases, words) == (marks, cases, [])
    # A wrong word stands for the right one, an inserted word has nothing.
    assert carried(words, marks, cases, ["wall", "yes", "oh", "it", "is", "so"]) == (
        [",", "", "", "", ".", "?"], [1, 0, -1, 0, 0, -1], []
    )  # fmt: skip
    # The mark of a word that was left out moves to the word before it, where that has none.
    assert carried(words, marks, cases, ["well", "yes", "it", "so"])[::2] == ([",", "", ".", "?"], [])
    assert carried(words, marks, cases, ["well", "yes", "it", "is"])[::2] == ([",", "", "", "."], ["?"])
    assert carried(words, marks, cases, []) == ([], [], [",", ".", "?"])


def test_a_recogniser_has_heard_no_test_speaker() -> None:
    """Nor a test text, where there are few speakers; phrases without a mark are for training."""
    for speakers in (1, 8):
        own = rows(80, speakers, 4) + [
            row | {"id": f"p{row['id']}", "text": row["text"][:-1]} for row in rows(80, speakers)
        ]
        splits = written.divided([row for row in own if row["text"][-1] == "."], random.Random("1 en"))
        kept = written.transcripts(own, 1)
        by_split = {name: [row for row in kept if row["split"] == name] for name in splits}
        assert {row["id"] for row in by_split["test"]} == {row["id"] for row in splits["test"]}
        key = "speaker" if speakers > 1 else "text"
        assert not {row[key] for row in by_split["test"]} & {row[key] for row in by_split["train"]}
        assert any(row["id"].startswith("p") for row in by_split["train"])


def test_sounds_in_which_nobody_says_the_text() -> None:
    voices = [torch.sin(torch.arange(4000) * 0.01 * n) for n in range(1, 10)]
    own = [list(sounds.sounds(8000, np.random.default_rng(seed), voices)) for seed in (1, 1, 2)]
    assert [kind for kind, _ in own[0]].count("babble") == sounds.COUNT == 60
    assert {kind for kind, _ in own[0]} == set(sounds.KINDS)
    for (kind, first), (_, again), (_, other) in zip(*own, strict=True):
        assert torch.equal(first, again) and not torch.equal(first[:8000], other[:8000])
        assert 8000 <= len(first) <= 32_000 and first.isfinite().all()
        level = 20 * float(first.std().log10())
        assert level < -90 if kind == "silence" else -51 < level < -19


@pytest.mark.skipif(not is_installed(), reason="eSpeak NG is not installed")
def test_the_smallest_task_runs_through_run_sh(repo: Path, shared: Path, tmp_path: Path) -> None:
    """Digit words: corpus, table, tokenizer, three steps, average and F1."""
    source, numbers = shared / "corpora" / "digits", dict[tuple[str, str], int]()
    (tmp_path / "source").mkdir()
    chosen = []
    for line in (source / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        key = row["speaker"], row["text"]
        numbers[key] = numbers.get(key, 0) + 1
        if numbers[key] <= 2:
            chosen.append(row | {"audio": str(source / row["audio"])})
    (tmp_path / "source" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    options = {
        "--train.steps": 3, "--train.valid_every": 3, "--train.save_every": 3, "--data.valid_utterances": 4,
        "--tokenizer.vocab_size": 48, "--strings": 20, "--source": tmp_path / "source",
        "--work": tmp_path / "work",
    }  # fmt: skip
    command = ["bash", str(repo / "egs/heads/run.sh"), "--task", "words", "--cpu", "true"]
    command += [str(part) for pair in options.items() for part in pair]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "work" / "heads_words" / "heads.json").read_text())
    assert set(result) >= {"f1", "precision", "recall"}


def test_experiments_of_one_encoder_fit_one_another() -> None:
    first, then, check = heads.phonemes(), heads.punctuation(), heads.check()
    assert first.model.encoder == then.model.encoder and first.model.features == then.model.features
    assert check.train.freeze == ("encoder", "transducer", "ctc") and check.model.heads["ctc"].weight == 0
    first, then = heads.transcripts(), heads.written()
    assert first.model.encoder == then.model.encoder and first.model.features == then.model.features
    assert then.train.freeze == then.train.init_modules == ("encoder", "phonemes", "ctc")
    assert {*then.model.heads} == {*first.model.heads, "punctuation"}


@pytest.mark.skipif(not is_installed(), reason="eSpeak NG is not installed")
@pytest.mark.parametrize(
    "text", ["zero one two three four five six seven eight nine", "The quick brown fox!"]
)
def test_english_is_made_of_the_units(text: str) -> None:
    units = UnitCTCConfig(units=heads.PHONEMES)
    head = units.build(HeadContext(dim=4, labels=3, blank=3))
    assert len(head.ids(pronounce(text, "en"))) >= len(pronounce(text, "en").split())
