"""Every recording of the test speakers alone: as it was cut, and with silence around it.

    python -m egs.digits.singles exp/digits/digits/digits exp/digits/digits/other

The runs are of egs/digits/run.sh with its usual seed of the speakers. Intervals are over recordings.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import maya
from maya.errors import MayaError
from maya.pages import columns

from .data import assign, read_digit, read_source

SILENCES = (0, 1600, 6400)  # samples before and after: 0, 100 and 400 ms
_DRAWS = 4000


def error_rate(errors: dict[str, list[bool]]) -> str:
    """Macro average over languages of wrong recordings in %, its 95 % interval, and each language's."""
    rng = np.random.default_rng(1)
    of = {code: np.array(wrong, float) for code, wrong in errors.items()}
    draws = [w[rng.integers(len(w), size=(_DRAWS, len(w)))].mean(1) for w in of.values()]
    low, high = 100 * np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    mean = 100 * np.mean([w.mean() for w in of.values()])
    return f"{mean:.1f} [{low:.1f}, {high:.1f}] " + " ".join(
        f"{c} {100 * w.mean():.1f}" for c, w in of.items()
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m egs.digits.singles", description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", type=Path, nargs="+", help="run folders or checkpoints")
    parser.add_argument("--source", type=Path, default=Path("../shared/corpora/digits"), help="the digits")
    parser.add_argument("--method", default="ctc", help="of decoding")
    args = parser.parse_args(argv)
    lines = [["run", "language", *(f"{1000 * n // 16000} ms of silence" for n in SILENCES)]]
    try:
        rows = read_source(args.source)
        spoken = {
            code: assign([r for r in rows if r["language"] == code], random.Random(f"1 {code} speakers"))[
                "test"
            ]
            for code in sorted({r["language"] for r in rows})
        }
        for run in args.runs:
            recognizer = maya.load(run)
            for is_told in (True, False):
                line = [run.name, "told" if is_told else "not told"]
                for silence in SILENCES:
                    errors: dict[str, list[bool]] = {}
                    for code, digits in spoken.items():
                        audio = [np.pad(read_digit(args.source, row), silence) for row in digits]
                        hypotheses = recognizer.transcribe(
                            audio, code if is_told else None, method=args.method
                        )
                        errors[code] = [h.text != r["text"] for h, r in zip(hypotheses, digits, strict=True)]
                    line.append(error_rate(errors))
                lines.append(line)
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(columns(lines)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
