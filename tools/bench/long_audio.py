"""Measure the recognition of long recordings: words at borders, memory, and words where nobody speaks.

    python -m tools.bench.long_audio spliced --run RUN --language hi --minutes 180 --strategy vad overlap
    python -m tools.bench.long_audio sounds --run RUN --language hi --minutes 10

`spliced` joins utterances of the run's test part, again and again in random order, with pauses of faint
noise, into a file of so many minutes. Errors are counted against the texts, and against what the same model
gives for each utterance alone. The latter are what the length costs, most of it because the model was trained
on short utterances: so the error rate of utterances through which a border goes is compared with that of the
others. Memory is the peak of this process's resident size in each tenth of the recording, and after
it. `sounds` counts words in sounds that are not speech, with voice activity detection and without.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

import maya
from maya.audio.blocks import audio_blocks
from maya.data.table.table import Table, part_path
from maya.decode.hypothesis import Hypothesis
from maya.decode.long.buffered import BufferConfig
from maya.decode.long.long_audio import LongAudioConfig, pieces, speech_defaults, transcribe_long
from maya.decode.recognizer import Recognizer
from maya.kernels.bench.peak import CLEAR, forget_the_peak, resident
from maya.score.wer import wer
from tools.bench.common import command_of, finish, parser_of
from tools.bench.not_speech import NOT_SPEECH

RATE = 16000
"""Hz, of the recording that is written."""


def utterances_of(args: argparse.Namespace) -> list[tuple[Tensor, str]]:
    """The audio and the text of the test utterances in the language."""
    data = args.data or args.run.parent / "data"
    table = Table.open(part_path(data, "test"))
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
                **at_borders(texts, starts, hyp, borders(path, recognizer, cfg), recognizer),
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


def at_borders(
    texts: Sequence[str],
    starts: Sequence[float],
    hyp: Hypothesis,
    cuts: Sequence[float],
    recognizer: Recognizer,
) -> dict[str, Any]:
    """Error rates of the utterances through which a border goes, and of the others. A token belongs to the
    utterance within which it begins."""
    begins = np.array([start for start, _ in hyp.times])
    slots = np.searchsorted(begins, starts)
    parts = zip(slots, slots[1:], strict=False)
    own = [recognizer.tokenizer.decode(hyp.tokens[a:b]) for a, b in parts]
    crossed = np.isin(np.arange(len(texts)), np.searchsorted(starts, cuts, "right") - 1)
    stats = wer(texts, own)
    rates = {}
    for title, rows in (("at borders", crossed), ("elsewhere", ~crossed)):
        words, wrong = stats.utterance_ref_lengths[rows].sum(), stats.utterance_errors[rows].sum()
        rates[f"WER {title}"] = round(100 * float(wrong) / max(1, int(words)), 2)
    return {"borders": len(cuts), "utterances at borders": int(crossed.sum())} | rates


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


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=("spliced", "sounds"))
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--data", type=Path, help="its prepared data; default: `data` beside the run")
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
    result = {"spliced": spliced, "sounds": sounds}[args.what](args)
    finish(result, f"long_audio {args.what}", command_of("long_audio", argv), args.out)


if __name__ == "__main__":
    main()
