"""Compare the speed of two checkouts: a training step of small models, and transcription from files.

    git worktree add ../old bf54402
    python -m tools.bench.step ../old .                 # ratios of the second to the first

Both checkouts run the same models (`tools.bench.checkout`) with the same random weights, in a process each,
and take turns. Times are CPU time of the process on one thread; the ratio is of medians over the rounds.
"Equal" says whether both computed the same: the weights after the steps, or the texts.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tools.bench.checkout import MODELS, Checkout
from tools.bench.common import markdown, medians, parser_of
from tools.bench.transcribe import MANIFEST, speech, written

WHAT = [*MODELS, "transducer", "ctc"]
STEP = {"size": [8, 6.0, 20], "repeat": 4}  # utterances, seconds, tokens; steps in a round


def compare(
    checkouts: dict[str, Checkout], do: str, arguments: dict[str, Any], rounds: int
) -> tuple[dict[str, float], bool]:
    """Median seconds of each checkout, and whether their last results are equal. The first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    digests = {}
    for number in range(rounds + 1):
        for name, checkout in checkouts.items():
            answer = checkout.ask(do, **arguments)
            digests[name] = answer["digest"]
            if number:
                seconds[name].append(answer["seconds"])
    first, second = digests.values()
    return medians(seconds), first == second


def transcription(args: argparse.Namespace, folder: Path, method: str) -> dict[str, Any]:
    """Arguments of `Worker.transcribe`."""
    texts = [json.loads(line)["text"] for line in args.manifest.read_text().removesuffix("\n").split("\n")]
    options = {"layers": args.layers, "width": args.width, "vocab": 1024, "rate": 4.0, "texts": texts}
    paths = written(args, speech(args), folder)
    return {"files": [str(path) for path in paths], "method": method, "options": options}


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("checkouts", type=Path, nargs=2, help="the old and the new checkout")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="lines of audio, text and duration")
    parser.add_argument("--files", type=int, default=20, help="files to transcribe")
    parser.add_argument("--min-seconds", type=float, default=4.0)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    args = parser.parse_args(argv)
    old, new = args.checkouts
    rows: list[list[str]] = []
    with Checkout(old) as first, Checkout(new) as second, tempfile.TemporaryDirectory() as name:
        for what in args.what:
            if what in MODELS:
                do, arguments = "step", {"model": what} | STEP
            else:
                do, arguments = "transcribe", transcription(args, Path(name), what)
            seconds, equal = compare({"old": first, "new": second}, do, arguments, args.rounds)
            ratio = seconds["new"] / seconds["old"]
            row = [f"{do}, {what}", f"{seconds['old']:.3f}", f"{seconds['new']:.3f}", f"{ratio:.3f}"]
            rows.append([*row, "yes" if equal else "no"])
            print(" ".join(rows[-1]), flush=True)
    print("\n".join(markdown(("what", "old, s", "new, s", "ratio", "equal"), rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
