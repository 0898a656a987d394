"""Why words near the borders of a long recording's pieces are wrong.

    python -m tools.bench.joins --run RUN --data DATA --language en --minutes 220 --strategy overlap vad

The recording is that of `tools.bench.long_audio spliced`. Where two pieces overlap, each reference word whose
middle is at most a second from the join is right or wrong in the piece before, in the piece after, in the
joined text, and in a window of the same length with the join in its middle, which has no border there: the
last is the offline model's own answer. A word that both pieces have right and the joined text has not is lost
by the join, and a word that only the joined text inserts is doubled by it. The others are the model's: it
hears other audio around the word, and decides otherwise.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import maya
from maya.decode.hypothesis import Hypothesis
from maya.decode.long.long_audio import make_joiner, pieces
from maya.decode.recognizer import Recognizer
from maya.decode.words import split_words
from maya.score.measures.significance import errors_at
from maya.score.wer import align
from tools.bench.common import command_of, finish, parser_of
from tools.bench.long_audio import NEAR_SECONDS, RATE, config, mcnemar, splice, utterances_of, word_times

ANSWERS = ("before", "after", "joined", "centred")


class Answers:
    """Hypotheses of a recording or of parts of it; which reference words of an utterance each has right."""

    def __init__(self, recognizer: Recognizer, texts: Sequence[str], starts: Sequence[float]) -> None:
        self.tokenizer, self.texts, self.starts = recognizer.tokenizer, texts, starts

    def of(self, hyp: Hypothesis, begin: float, utterance: int) -> tuple[list[bool], list[int]]:
        """Of each reference word whether it is right; of each place, one more, the words inserted there.
        begin: seconds of the recording at which the hypothesis begins."""
        at = np.array([begin + start for start, _ in hyp.times])
        first, last = np.searchsorted(at, self.starts[utterance : utterance + 2])
        own = split_words(self.tokenizer.decode(hyp.tokens[first:last]))
        words = self.texts[utterance].split()
        right = [a == b for a, b in align(words, own) if a]
        errors = errors_at(words, own)
        return right, [e - (i < len(words) and not right[i]) for i, e in enumerate(errors)]


def measure(recognizer: Recognizer, args: argparse.Namespace, strategy: str) -> dict[str, Any]:
    """Decode the recording in pieces, and count what becomes of the words near each join."""
    cfg, utterances = config(args, strategy), utterances_of(args)
    method = recognizer.make_method(recognizer.choose_method(args.method))
    alone = recognizer.transcribe([u[0] for u in utterances], args.language, method=args.method)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spliced.wav"
        order, starts = splice(path, utterances, args)
        audio = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        parts = list(pieces(recognizer, path, cfg))
    answers = Answers(recognizer, [utterances[n][1] for n in order], starts)
    hyps = _decode(recognizer, method, [part.samples for part in parts], args.language)
    joiner = make_joiner(recognizer, cfg)
    for part, hyp in zip(parts, hyps, strict=True):
        joiner.add(part, hyp)
    whole = joiner.finish()
    begins = [part.first_frame * part.frame_samples / RATE for part in parts]
    ends = [begin + len(part.samples) / RATE for begin, part in zip(begins, parts, strict=True)]
    borders = [(i, (ends[i] + begins[i + 1]) / 2) for i in range(len(parts) - 1) if begins[i + 1] < ends[i]]
    half = args.window / 2
    cuts = [max(0, int((at - half) * RATE)) for _, at in borders]
    centred = _decode(recognizer, method, [audio[c : c + int(2 * half * RATE)] for c in cuts], args.language)
    table: Counter[tuple[bool, ...]] = Counter()
    doubled, lost = [], []
    for (i, at), cut, middle in zip(borders, cuts, centred, strict=True):
        first, last = np.searchsorted(starts, [at - NEAR_SECONDS, at + NEAR_SECONDS])
        for u in range(max(0, first - 1), min(last, len(order))):
            words = answers.texts[u].split()
            times = word_times(words, alone[order[u]].words, starts[u + 1] - starts[u])
            sources = ((hyps[i], begins[i]), (hyps[i + 1], begins[i + 1]), (whole, 0.0), (middle, cut / RATE))
            rows = [answers.of(hyp, begin, u) for hyp, begin in sources]
            for place in range(len(words)):
                if abs(starts[u] + times[place] - at) > NEAR_SECONDS:
                    continue
                key = tuple(right[place] for right, _ in rows)
                table[key] += 1
                if key[:3] == (True, True, False):
                    lost.append(f"{at:.2f} s: {words[place]}")
                inserted = [extra[place] for _, extra in rows]
                if inserted[2] > max(inserted[0], inserted[1], inserted[3]):
                    doubled.append(f"{at:.2f} s: before {words[place]}")
    return _summary(table, len(borders)) | {"lost by the join": lost, "doubled by the join": doubled}


def _decode(
    recognizer: Recognizer, method: Any, audio: Sequence[torch.Tensor], language: str
) -> list[Hypothesis]:
    hyps: list[Hypothesis] = []
    for start in range(0, len(audio), 8):
        hyps += recognizer._transcribe_batch(list(audio[start : start + 8]), language, method)
    return hyps


def _summary(table: Counter[tuple[bool, ...]], joins: int) -> dict[str, Any]:
    def count(**want: bool) -> int:
        pick = {ANSWERS.index(name): value for name, value in want.items()}
        return sum(n for key, n in table.items() if all(key[i] == value for i, value in pick.items()))

    lost, won = count(joined=False, centred=True), count(joined=True, centred=False)
    return {
        "joins": joins, "words near": table.total(), **{f"wrong {n}": count(**{n: False}) for n in ANSWERS},
        "wrong joined, right centred": lost, "right joined, wrong centred": won,
        "p": round(mcnemar(lost, won), 4),
        "both pieces right, joined wrong": count(before=True, after=True, joined=False),
        "one piece right, joined wrong": count(before=True, after=False, joined=False)
        + count(before=False, after=True, joined=False),
        "one piece right, joined right": count(before=True, after=False, joined=True)
        + count(before=False, after=True, joined=True),
        "no piece right": count(before=False, after=False),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--data", type=Path, help="its prepared data; default: `data` beside the run")
    parser.add_argument("--split", default="test", help="dev or test")
    parser.add_argument("--language", default="en")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--minutes", type=float, default=220.0)
    parser.add_argument("--utterances", type=int, default=200, help="of the test part, at most")
    parser.add_argument("--pause", type=float, nargs=2, default=(0.1, 0.6), help="seconds between utterances")
    parser.add_argument("--strategy", nargs="+", default=["overlap", "vad"], choices=("overlap", "vad"))
    parser.add_argument("--window", type=float, default=15.0, help="seconds")
    parser.add_argument("--overlap", type=float, default=4.0, help="seconds")
    parser.add_argument("--detector", default="auto", help="auto, silero or energy")
    parser.add_argument("--weights", default="", help="silero's, if its package is not installed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    args = parser.parse_args(argv)
    recognizer = maya.load(args.run)
    result = {strategy: measure(recognizer, args, strategy) for strategy in args.strategy}
    finish(result, "joins", command_of("joins", argv), args.out)


if __name__ == "__main__":
    main()
