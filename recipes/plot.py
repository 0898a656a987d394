"""Pictures: training curves, and the tokens of a recording over its spectrogram. Needs matplotlib."""

import argparse
from pathlib import Path

from maya.recipes.arguments import add_checkpoint, add_parser
from maya.recipes.experiment_file import import_recorded
from maya.recipes.plot_alignment import plot_recording
from maya.recipes.plot_curves import plot_runs


def arguments(p: argparse.ArgumentParser) -> None:
    kinds = p.add_subparsers(dest="kind", required=True, metavar="KIND")
    curves = add_parser(kinds, "curves", "the training curves of one or more runs")
    curves.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folders or metrics.jsonl files"
    )
    alignment = add_parser(kinds, "alignment", "the tokens of a recording over its spectrogram")
    add_checkpoint(alignment)
    alignment.add_argument("audio", type=Path, help="an audio file")
    alignment.add_argument("--language", help="language code such as hi; default: not given")
    text = "a decoding method that gives frames, such as ctc; auto (the default): the best head on dev"
    alignment.add_argument("--method", default="auto", help=text)
    for each, name in ((curves, "curves.png"), (alignment, "alignment.png")):
        each.add_argument("--out", type=Path, default=Path(name), help=f"the picture (default: {name})")


def run(args: argparse.Namespace) -> None:
    if args.kind == "curves":
        print(f"{args.out}: {', '.join(plot_runs(args.runs, args.out))}")
        return
    import_recorded(args.checkpoint, args.experiment)
    options = {"language": args.language, "method": args.method}
    print(f"{args.out}\t{plot_recording(args.checkpoint, args.audio, args.out, **options)}")
