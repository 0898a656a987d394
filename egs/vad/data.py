"""A corpus for voice detection, in the manner of LibriVAD (2025, arXiv:2512.17281): utterances in a row with
silence between them, and the label `speech`, the times of the words by forced alignment.

    python -m egs.vad.data --data exp/digits/digits/data --init exp/digits/digits/digits --out exp/vad/corpus

The utterances are those of a prepared table, whose splits stay: no speaker is in two. The recogniser `--init`
aligns each with its text. Training adds noise (egs/vad/vad.py), and so does tools/bench/vad.py.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import maya
from maya.align.aligner import AlignOptions, align
from maya.audio.noises import white_noise
from maya.data.measure.entry import Entry
from maya.data.table.table import Table, part_path
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.recipes.arguments import COUNT, POSITIVE
from maya.recipes.corpus_writer import (
    SAMPLE_RATE,
    CorpusUtterance,
    finished,
    shuffled_rounds,
    write_corpus,
)

_SECONDS = 9.0  # of a row of utterances, at least
_PAUSE = (0.2, 2.5)  # seconds of silence before, between and after
_BRIDGED = 0.15  # seconds: a shorter pause between two words counts as speech
_FLOOR = (-80.0, -50.0)  # dBFS of the noise in the silence, so that it is not digital zero
_LEVEL = (-12.0, 0.0)  # dB that an utterance is made quieter by


def word_spans(recognizer: Recognizer, entry: Entry) -> list[tuple[float, float]]:
    """(start, end) in seconds of the speech of an utterance, by forced alignment. Empty where its text is not
    found in it."""
    audio = entry.load_audio(recognizer.sample_rate)
    options = AlignOptions(costs=None)
    try:
        words = align(recognizer, audio, entry.text, entry.language, options=options).words
    except MayaError:  # too short for its text
        return []
    spans: list[tuple[float, float]] = []
    for word in words:
        if word.start is None or word.end is None:
            return []
        if spans and word.start - spans[-1][1] < _BRIDGED:
            spans[-1] = (spans[-1][0], max(word.end, spans[-1][1]))
        else:
            spans.append((word.start, word.end))
    return spans


def rows(
    recognizer: Recognizer, entries: Sequence[Entry], split: str, count: int, seed: int
) -> Iterator[CorpusUtterance]:
    """`count` rows of utterances. Raises MayaError where no utterance can be aligned."""
    rng, order = (
        random.Random(f"{seed} {split}"),
        shuffled_rounds(entries, random.Random(f"{seed} {split} order")),
    )
    failed = 0
    for number in range(count):
        parts, spans, used, seconds = [_silence(rng)], list[tuple[float, float]](), list[Entry](), 0.0
        while seconds < _SECONDS:
            entry = next(order)
            own = word_spans(recognizer, entry)
            if not own:
                failed += 1
                if failed > len(entries):
                    raise MayaError(f"the recogniser aligns no utterance of {split} with its text")
                continue
            begin = sum(map(len, parts)) / SAMPLE_RATE
            gain = 10 ** (rng.uniform(*_LEVEL) / 20)
            parts += [gain * entry.load_audio(SAMPLE_RATE).numpy(), _silence(rng)]
            spans += [(begin + start, begin + end) for start, end in own]
            used.append(entry)
            seconds = sum(map(len, parts)) / SAMPLE_RATE
        audio = np.concatenate(parts)
        floor = 10 ** (rng.uniform(*_FLOOR) / 20) * white_noise(len(audio), rng.randrange(2**31)).numpy()
        samples = np.clip(audio + floor, -1, 1) * 32767
        yield CorpusUtterance(
            id=f"{split}-{number:05d}", language=used[0].language, text=" ".join(e.text for e in used),
            speaker="+".join(sorted({e.speaker for e in used})), split=split, kind="concatenated",
            source=used[0].source or "", licence=used[0].licence or "", audio=samples.astype(np.int16),
            labels={"speech": "; ".join(f"{a:.3f}-{b:.3f} speech" for a, b in spans)},
        )  # fmt: skip


def _silence(rng: random.Random) -> np.ndarray:
    return np.zeros(int(rng.uniform(*_PAUSE) * SAMPLE_RATE), np.float32)


def make_corpus(data: Path, init: Path, out: Path, sizes: dict[str, int], seed: int) -> None:
    """Make the corpus unless it is there. Raises MayaError as `rows` and `write_corpus`."""
    settings = {"corpus": "vad", "version": 1, "data": str(data.resolve()), "init": str(init.resolve())}
    settings |= {"sizes": sizes, "seed": seed}
    if finished(out, settings):
        return
    recognizer = maya.load(init, "cpu")
    tables = {split: list(Table.open(part_path(data, split)).entries()) for split in sizes}
    utterances = (
        row for split, count in sizes.items() for row in rows(recognizer, tables[split], split, count, seed)
    )
    with torch.inference_mode():
        write_corpus(out, utterances, settings, total=sum(sizes.values()))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.vad.data", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="prepared data with texts, such as exp/digits/digits/data")
    add("--init", type=Path, required=True, help="a run whose CTC or transducer head aligns the texts")
    add("--out", type=Path, required=True, help="corpus folder to make")
    add("--rows", type=POSITIVE, default=400, help="training recordings, of 11 s on average; default: 400")
    add("--heldout", type=POSITIVE, default=40, help="recordings of dev, and of test; default: 40")
    add("--seed", type=COUNT, default=1)
    args = parser.parse_args(argv)
    try:
        sizes = {"train": args.rows, "dev": args.heldout, "test": args.heldout}
        make_corpus(args.data, args.init, args.out, sizes, args.seed)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
