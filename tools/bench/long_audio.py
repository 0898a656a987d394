"""Measure the recognition of long recordings: words at borders, memory, and words where nobody speaks.

    python -m tools.bench.long_audio spliced --run RUN --language hi --minutes 180 --strategy vad overlap
    python -m tools.bench.long_audio sounds --run RUN --language hi --minutes 10
    python -m tools.bench.long_audio lost --run RUN --data DATA --language en --utterances 400

`spliced` joins utterances of the run's test part, again and again in random order, with pauses of faint
noise, into a file of so many minutes. Errors are counted against the texts, and against what the same model
gives for each utterance alone. The latter are what the length costs, most of it because the model was trained
on short utterances: so words near a border, right or wrong alone and in the recording, are compared with
words elsewhere. Memory is the peak of this process's resident size in each tenth of the recording, and after
it. `sounds` counts words in sounds that are not speech, with voice activity detection and without. `lost`
compares the utterances as voice activity detection cuts them with the utterances whole.
"""

import argparse
import bisect
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

import maya
from maya.audio.blocks import audio_blocks
from maya.data.table.table import Table, part_path
from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.long.buffered import BufferConfig
from maya.decode.long.long_audio import LongAudioConfig, pieces, speech_defaults, transcribe_long
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import TranscriptionConfig
from maya.decode.words import split_words
from maya.kernels.bench.peak import CLEAR, forget_the_peak, resident
from maya.score.measures.significance import errors_at
from maya.score.wer import MISSING, ErrorStats, align, compare, wer
from maya.text.tokenizer import Tokenizer
from tools.bench.common import command_of, finish, parser_of
from tools.bench.not_speech import NOT_SPEECH

RATE = 16000
"""Hz, of the recording that is written."""
NEAR_SECONDS = 1.0
"""From a border to the middle of a word."""


def utterances_of(args: argparse.Namespace) -> list[tuple[Tensor, str]]:
    """The audio and the text of the test utterances in the language."""
    data = args.data or args.run.parent / "data"
    table = Table.open(part_path(data, args.split))
    entries = [entry for entry in table.entries() if entry.language == args.language]
    if not entries:
        sys.exit(f"{data} holds no test utterances in {args.language!r}")
    return [(entry.load_audio(RATE), entry.text) for entry in entries[: args.utterances]]


def splice(
    path: Path, utterances: Sequence[tuple[Tensor, str]], args: argparse.Namespace
) -> tuple[list[int], list[float]]:
    """Write a recording of --minutes. Returns the numbers of its utterances, and the seconds at which each
    begins, with the end of the recording."""
    rng, total = np.random.default_rng(args.seed), 0
    order: list[int] = []
    starts: list[float] = []
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while total < args.minutes * 60 * RATE:
            number = int(rng.integers(len(utterances)))
            pause = 3e-4 * rng.standard_normal(int(rng.uniform(*args.pause) * RATE))
            block = np.concatenate([utterances[number][0].numpy(), pause]).astype(np.float32)
            file.write(block)
            order.append(number)
            starts.append(total / RATE)
            total += len(block)
    return order, [*starts, total / RATE]


def watched(blocks: Iterator[Tensor], samples: int, memory: list[int]) -> Iterator[Tensor]:
    """The blocks; the peak of the resident size, in MB, is noted for each tenth of the samples."""
    total = 0
    for block in blocks:
        yield block
        total += len(block)
        if total * 10 >= (len(memory) + 1) * samples:
            memory.append(resident("VmHWM") >> 20)
            with contextlib.suppress(OSError):
                CLEAR.write_text("5")  # a new peak; memory stays as it is


def spliced(args: argparse.Namespace) -> dict[str, Any]:
    recognizer: Recognizer = maya.load(args.run)
    utterances = utterances_of(args)
    alone = recognizer.transcribe([u[0] for u in utterances], args.language, method=args.method)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spliced.wav"
        order, starts = splice(path, utterances, args)
        texts = [utterances[n][1] for n in order]
        text = " ".join(texts)
        own = " ".join(alone[n].text for n in order)
        joined = Splice(texts, [alone[n] for n in order], starts)
        samples = soundfile.info(path).frames
        for strategy in args.strategy:
            memory: list[int] = []
            forget_the_peak()
            begin = time.perf_counter()
            blocks, cfg = watched(audio_blocks(path), samples, memory), config(args, strategy)
            hyp = transcribe_long(recognizer, args.method, blocks, args.language, cfg)
            seconds = time.perf_counter() - begin
            memory.append(resident("VmHWM") >> 20)  # the last batch and the join
            rows[strategy] = {
                "seconds": round(seconds, 1),
                "words": len(hyp.text.split()),
                "segments": len(hyp.segments),
                "errors": errors(text, hyp.text),
                "errors against utterances alone": errors(own, hyp.text),
                "peak MB of each tenth": memory,
                **at_borders(joined, hyp, borders(path, recognizer, cfg), recognizer.tokenizer),
            }
            print(strategy, rows[strategy], flush=True)
    return {
        "minutes": round(samples / RATE / 60, 1),
        "utterances": len(order),
        "words": len(text.split()),
        "errors of utterances alone": errors(text, own),
        "window seconds": args.window,
        "strategies": rows,
    }


def borders(path: Path, recognizer: Recognizer, cfg: LongAudioConfig) -> list[float]:
    """Seconds at which the recording passes from a piece, or a chunk, to the next."""
    if cfg.strategy == "buffered":
        count = int(soundfile.info(path).duration / cfg.buffer.chunk_seconds)
        return [i * cfg.buffer.chunk_seconds for i in range(1, count + 1)]
    spans = [
        (piece.first_frame * piece.frame_samples, len(piece.samples))
        for piece in pieces(recognizer, path, cfg)
    ]
    ends = [begin + length for begin, length in spans]
    return [(end + begin) / 2 / RATE for end, (begin, _) in zip(ends, spans[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Splice:
    """The utterances of the recording in order: texts, what the model gives for each alone, and the seconds
    at which each begins, with the end of the recording."""

    texts: list[str]
    alone: list[Hypothesis]
    starts: list[float]


def at_borders(
    splice: Splice, hyp: Hypothesis, cuts: Sequence[float], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Each reference word, right or wrong alone and in the recording, near a border (a second at most) and
    elsewhere, with the exact test of McNemar; and the words that are inserted. A token belongs to the
    utterance within which it begins."""
    begins = np.array([start for start, _ in hyp.times])
    slots = np.searchsorted(begins, splice.starts)
    near, alone_right, right, deleted, inserted = [], [], [], [], []
    for i, (text, alone) in enumerate(zip(splice.texts, splice.alone, strict=True)):
        words, start = text.split(), splice.starts[i]
        own = tokenizer.decode(hyp.tokens[slots[i] : slots[i + 1]])
        times = [start + at for at in word_times(words, alone.words, splice.starts[i + 1] - start)]
        close = [_distance(time, cuts) <= NEAR_SECONDS for time in times]
        alone_errors, errors = (errors_at(words, split_words(x)) for x in (alone.text, own))
        # An inserted word counts at the reference word after it, see `errors_at`.
        hits = [[a == b for a, b in align(words, split_words(x)) if a] for x in (alone.text, own)]
        near += close
        alone_right += hits[0]
        right += hits[1]
        deleted += [b == MISSING for a, b in align(words, split_words(own)) if a]
        for place, is_near in enumerate([*close, close[-1]]):
            wrong = [0 if place == len(words) else not of[place] for of in hits]
            inserted.append((is_near, alone_errors[place] - wrong[0], errors[place] - wrong[1]))
    table: dict[str, Any] = {"borders": len(cuts)}
    for title, place in (("near", True), ("elsewhere", False)):
        pairs = [(a, b) for n, a, b in zip(near, alone_right, right, strict=True) if n == place]
        gone = [d and a for n, a, d in zip(near, alone_right, deleted, strict=True) if n == place]
        lost, won = pairs.count((True, False)), pairs.count((False, True))
        table[title] = {
            "words": len(pairs), "right alone, wrong here": lost, "of these deleted": sum(gone),
            "wrong alone, right here": won,
            "p": round(mcnemar(lost, won), 4),
            "inserted alone": sum(a for n, a, _ in inserted if n == place),
            "inserted here": sum(b for n, _, b in inserted if n == place),
        }  # fmt: skip
    return table


def word_times(words: Sequence[str], decoded: Sequence[Word], seconds: float) -> list[float]:
    """The middle of each reference word: that of the decoded word it is aligned with, or between these."""
    middles, place, at = {-1: 0.0, len(words): seconds}, 0, 0
    for ref, own in align(words, [word.text for word in decoded]):
        if ref and own and (word := decoded[at]).start is not None and word.end is not None:
            middles[place] = (word.start + word.end) / 2
        place, at = place + bool(ref), at + bool(own)
    return np.interp(range(len(words)), sorted(middles), [middles[i] for i in sorted(middles)]).tolist()


def _distance(time: float, cuts: Sequence[float]) -> float:
    place = bisect.bisect(cuts, time)
    return min((abs(time - cut) for cut in cuts[max(0, place - 1) : place + 1]), default=math.inf)


def mcnemar(lost: int, won: int) -> float:
    """The two-sided exact p of `lost` against `won` under equal chances."""
    n, k = lost + won, min(lost, won)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def errors(reference: str, text: str) -> dict[str, int]:
    stats = wer([reference], [text])
    return {
        "substituted": stats.substitutions,
        "inserted": stats.insertions,
        "deleted": stats.deletions,
    }


def config(args: argparse.Namespace, strategy: str) -> LongAudioConfig:
    chunk, after = args.window * 0.4, args.window * 0.2
    vad = speech_defaults()
    vad.detector, vad.weights = args.detector, args.weights
    options: Any = {"strategy": strategy, "window_seconds": args.window, "overlap_seconds": args.overlap}
    buffer = BufferConfig(left_seconds=chunk, chunk_seconds=chunk, right_seconds=after)
    return LongAudioConfig(**options, buffer=buffer, vad=vad)


def sounds(args: argparse.Namespace) -> dict[str, Any]:
    recognizer: Recognizer = maya.load(args.run)
    table: dict[str, dict[str, int]] = {}
    for name, sound in NOT_SPEECH.items():
        blocks = torch.from_numpy(sound(60.0 * args.minutes)).split(30 * RATE)
        table[name] = {}
        for title, strategy, detector in (
            ("without", "overlap", "auto"),
            ("silero", "vad", "silero"),
            ("energy", "vad", "energy"),
        ):
            args.detector = detector
            cfg = config(args, strategy)
            hyp = transcribe_long(recognizer, args.method, iter(blocks), args.language, cfg)
            table[name][title] = len(hyp.text.split())
        print(name, table[name], flush=True)
    return {"minutes of each": args.minutes, "words": table}


def lost(args: argparse.Namespace) -> dict[str, Any]:
    """Word errors of the utterances whole, and of the speech that detection finds in them."""
    recognizer: Recognizer = maya.load(args.run)
    decoder = recognizer.make_method(recognizer.choose_method(args.method))
    utterances = utterances_of(args)
    texts = [text for _, text in utterances]

    def decoded(cfg: LongAudioConfig) -> ErrorStats:
        each = recognizer.transcribe_each(
            [audio.numpy() for audio, _ in utterances], args.language, decoder=decoder,
            cfg=TranscriptionConfig(long_audio=cfg),
        )  # fmt: skip
        own = {t.place: t.hypothesis.text for t in each if t.hypothesis is not None}
        return wer(texts, [own[i] for i in range(len(texts))])

    whole = decoded(LongAudioConfig(strategy="whole"))
    table = {"whole": {"WER": whole.rate, "deleted": whole.deletions}}
    usual = speech_defaults()
    for vad in (usual, replace(usual, threshold=0.5, exit_threshold=None), replace(usual, detector="energy")):
        stats = decoded(LongAudioConfig(vad=vad))
        difference = compare(whole, stats)
        name = f"{vad.detector} {vad.threshold:g}, {vad.exit:g}"
        table[name] = {
            "WER": stats.rate, "deleted": stats.deletions, "more than whole": difference.difference,
            "from": difference.interval.low, "to": difference.interval.high,
        }  # fmt: skip
        print(name, table[name], flush=True)
    return {"words": whole.ref_length, "table": table}


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=("spliced", "sounds", "lost"))
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--data", type=Path, help="its prepared data; default: `data` beside the run")
    parser.add_argument("--split", default="test", help="dev or test")
    parser.add_argument("--language", default="hi")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--utterances", type=int, default=200, help="of the test part, at most")
    parser.add_argument("--pause", type=float, nargs=2, default=(0.4, 1.5), help="seconds between utterances")
    parser.add_argument("--strategy", nargs="+", default=["vad", "overlap", "buffered"])
    parser.add_argument("--window", type=float, default=15.0, help="seconds")
    parser.add_argument("--overlap", type=float, default=4.0, help="seconds")
    parser.add_argument("--detector", default="auto", help="auto, silero or energy")
    parser.add_argument("--weights", default="", help="silero's, if its package is not installed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    args = parser.parse_args(argv)
    result = {"spliced": spliced, "sounds": sounds, "lost": lost}[args.what](args)
    finish(result, f"long_audio {args.what}", command_of("long_audio", argv), args.out)


if __name__ == "__main__":
    main()
