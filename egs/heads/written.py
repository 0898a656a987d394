"""A corpus for punctuation: sentences of one speaker in a row, with the label written, which holds their
words with punctuation and the times of the words.

The times are those of forced alignment with the pronunciations, by a run of the task phonemes. Only texts
that end with a mark count, because others are phrases, or have lost their punctuation.
"""

import random
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import maya
from maya.align.phonemes import PhonemeAligner
from maya.audio.load import load_audio
from maya.heads.punctuation import SpokenWord
from maya.recipes.corpus_writer import SAMPLE_RATE, CorpusUtterance, describe, finished, write_corpus
from maya.text.punctuation import split_written

_FEWEST_SENTENCES = 40  # of a language
_MOST_SECONDS = 0.3  # of silence between two sentences, besides that of the recordings
Rows = Sequence[dict[str, Any]]


def prepare(rows: Rows, out: Path, seed: int, init: Path) -> None:
    """Make the corpus in `out`. init: the run that aligns. No text of the test set, and no speaker of a
    language with four or more, is in training."""
    plan: list[dict[str, Any]] = []
    for code, own in marked_rows(rows).items():
        for split, part in divided(own, random.Random(f"{seed} {code}")).items():
            plan += joined(code, split, part, random.Random(f"{seed} {code} {split}"))
    settings = {"corpus": "punctuation", "init": str(init), "seed": seed}
    if not finished(out, settings):
        print(
            describe(
                write_corpus(
                    out, utterances(plan, PhonemeAligner(maya.load(init))), settings, total=len(plan)
                )
            )
        )


def transcripts(rows: Rows, seed: int) -> list[dict[str, Any]]:
    """The rows of these languages for a recogniser, each with its split. dev and test are those of `prepare`;
    no test speaker of a language with four or more is in training, elsewhere no test text. Test texts that
    others read are in training, which keeps the word errors of so small a recogniser low."""
    marked, kept = marked_rows(rows), list[dict[str, Any]]()
    for code, own in marked.items():
        splits = divided(own, random.Random(f"{seed} {code}"))
        split_of = {row["id"]: split for split in ("dev", "test") for row in splits[split]}
        key = "speaker" if len({row["speaker"] for row in own}) >= 4 else "text"
        tested = {row[key] for row in splits["test"]}
        for row in rows:
            split = split_of.get(row["id"], "train")
            if row["language"] == code and (split == "test" or row[key] not in tested):
                kept.append(row | {"split": split})
    return kept


def marked_rows(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """By language the rows whose text ends with a mark, of languages that have enough of them."""
    by_language: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if split_written(row["text"].split()[-1])[1] in (".", "?", "!"):
            by_language[row["language"]].append(row)
    return {code: own for code, own in sorted(by_language.items()) if len(own) >= _FEWEST_SENTENCES}


def divided(rows: Rows, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """The rows of one language by split. A quarter of the speakers is for the test, if there are four or
    more; where texts repeat, or speakers are few, a quarter of the texts as well. A twelfth of the texts that
    are left is for dev."""
    texts, speakers = sorted({row["text"] for row in rows}), sorted({row["speaker"] for row in rows})
    rng.shuffle(texts)
    rng.shuffle(speakers)
    by_speaker = len(speakers) >= 4
    by_text = not by_speaker or len(texts) < len(rows)
    test_speakers = set(speakers[: len(speakers) // 4])
    test_texts = set(texts[: len(texts) // 4])
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
    for row in rows:
        text, speaker = row["text"] in test_texts, row["speaker"] in test_speakers
        if (text or not by_text) and (speaker or not by_speaker):
            splits["test"].append(row)
        elif not (text and by_text) and not (speaker and by_speaker):
            is_dev = zlib.crc32(row["text"].encode()) % 12 == 0
            splits["dev" if is_dev else "train"].append(row)
    return splits


def joined(code: str, split: str, rows: Rows, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Each row as the first of one to three of its speaker in training, of two elsewhere."""
    by_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_speaker[row["speaker"]].append(row)
    for row in rows:
        others = [other for other in by_speaker[row["speaker"]] if other["text"] != row["text"]]
        followers = rng.randrange(3) if split == "train" else 1
        parts = [row, *rng.sample(others, min(followers, len(others)))]
        gaps = [rng.uniform(0, _MOST_SECONDS) for _ in parts]
        yield {"language": code, "split": split, "rows": parts, "gaps": gaps}


def utterances(plan: Sequence[dict[str, Any]], aligner: PhonemeAligner) -> Iterator[CorpusUtterance]:
    """The utterances of a plan with their labels."""
    aligned: dict[str, tuple[Tensor, list[SpokenWord]]] = {}
    for number, item in enumerate(plan):
        pieces, label, place = list[Tensor](), list[str](), 0.0
        for row, gap in zip(item["rows"], item["gaps"], strict=True):
            if row["id"] not in aligned:
                audio = load_audio(row["audio"], SAMPLE_RATE)
                aligned[row["id"]] = audio, aligner(audio, row["text"], row["language"])
            audio, words = aligned[row["id"]]
            label += [f"{place + w.start:.2f} {place + w.end:.2f} {w.text}" for w in words]
            pieces += [audio, torch.zeros(round(gap * SAMPLE_RATE))]
            place += sum(map(len, pieces[-2:])) / SAMPLE_RATE
        first = item["rows"][0]
        samples = torch.cat(pieces).clamp(-1, 1).mul(32767).round().to(torch.int16).numpy()
        yield CorpusUtterance(
            id=f"{first['id']}-{number}", language=item["language"], speaker=first["speaker"],
            text=" ".join(row["text"] for row in item["rows"]), split=item["split"], kind="sentences",
            source=first["source"], licence=first["licence"], audio=samples,
            labels={"written": " ".join(label)},
        )  # fmt: skip
