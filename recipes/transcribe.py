"""Transcribe audio files with a trained model."""

import json
from dataclasses import asdict
from pathlib import Path

import maya
from maya.decode.recognizer import Method
from maya.encoders import FastConformer
from maya.errors import MayaError


def transcribe(
    checkpoint: Path,
    audio: list[Path],
    *,
    language: str | None,
    method: Method,
    output: str,
    device: str,
    context: tuple[int, int] | None = None,
) -> None:
    """Print one line a file: its text, or with output "json" the hypothesis with token times.

    context: encoder frames that a FastConformer's frame sees to its left and right, for hours of audio.
    """
    missing = [p for p in audio if not p.is_file()]
    if missing:
        raise MayaError(f"{missing[0]} is not a file")
    recognizer = maya.load(checkpoint, device)
    if context is not None:
        if not isinstance(recognizer.model.encoder, FastConformer):
            raise MayaError(f"{checkpoint}: --context is for FastConformer, and this is another encoder")
        recognizer.model.encoder.context = context
    for hyp in recognizer.transcribe(audio, language, method=method):
        print(
            json.dumps(asdict(hyp), ensure_ascii=False) if output == "json" else f"{hyp.id}\t{hyp.text}",
            flush=True,
        )
