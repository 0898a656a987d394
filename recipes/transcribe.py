"""Transcribe audio files with a trained model."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import maya
from maya.decode.methods import AUTO
from maya.errors import MayaError


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
