"""Transcribe audio files with a trained model."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import maya
from maya.decode.methods import AUTO
from maya.errors import MayaError
from maya.ranges import Range
from maya.recipes.arguments import add_checkpoint, add_device, number
from maya.recipes.experiment_file import import_recorded


def arguments(p: argparse.ArgumentParser) -> None:
    add_checkpoint(p)
    p.add_argument("audio", type=Path, nargs="+", help="audio files")
    text = "code of the spoken language, such as hi; auto: identify it; default: not given"
    p.add_argument("--language", help=text)
    text = "auto (the default: the best trained head on dev), ctc, modified_beam ...; see decode.method"
    p.add_argument("--method", default=AUTO, help=text)
    text = "json adds tokens, frames and scores"
    p.add_argument("--output", default="text", choices=("text", "json"), help=text)
    add_device(p)
    text = "attend to so many encoder frames on each side (-1: all), such as 128 128 for hours of audio"
    frames = number(int, Range(min=0, also=(-1,)))
    p.add_argument("--context", type=frames, nargs=2, metavar=("LEFT", "RIGHT"), help=text)


def run(args: argparse.Namespace) -> None:
    import_recorded(args.checkpoint, args.experiment)
    transcribe(
        args.checkpoint, args.audio, language=args.language, method=args.method, output=args.output,
        device=args.device, context=tuple(args.context) if args.context else None,
    )  # fmt: skip


def transcribe(
    checkpoint: Path,
    audio: list[Path],
    *,
    language: str | None = None,
    method: str = AUTO,
    output: str = "text",
    device: str = "auto",
    context: tuple[int, int] | None = None,
) -> None:
    """Print a line for each file: its text, or with output "json" the hypothesis with token times.

    context: encoder frames that a FastConformer's frame attends to on its left and right, for hours of audio.
    Raises MayaError for a file that is missing, and for `context` with another encoder.
    """
    missing = [p for p in audio if not p.is_file()]
    if missing:
        raise MayaError(f"{missing[0]} is not a file")
    recognizer = maya.load(checkpoint, device)
    if context is not None:
        encoder: Any = recognizer.model.encoder
        if not hasattr(encoder, "context"):
            raise MayaError(f"{checkpoint}: --context is for FastConformer, and this is another encoder")
        encoder.context = context
    for hyp in recognizer.transcribe(audio, language, method=method):
        print(
            json.dumps(asdict(hyp), ensure_ascii=False) if output == "json" else f"{hyp.id}\t{hyp.text}",
            flush=True,
        )
