"""Export Maya models for other systems."""

from pathlib import Path
from typing import Any

import maya
from maya.convert import to_icefall, to_nemo
from maya.convert.onnx.export import export_onnx as write_onnx


def export_nemo(checkpoint: Path, out: Path, *, language: str | None = None) -> None:
    """Write a `.nemo` archive that NeMo restores, and print the report."""
    print(to_nemo(maya.load(checkpoint, "cpu"), out, language=language).text())


def export_icefall(checkpoint: Path, out: Path) -> None:
    """Write the folder `out` with a pretrained.pt that icefall loads, and print the report."""
    print(to_icefall(maya.load(checkpoint, "cpu"), out).text())


def export_onnx(checkpoint: Path, out: Path, **options: Any) -> None:
    """Write the folder `out` of ONNX graphs and tokens.txt, and print the files. options: see
    `maya.convert.onnx.export`."""
    model = maya.load(checkpoint, "cpu")
    written = write_onnx(model, out, **options)
    if (rate := model.sample_rate) != 16000:
        print(f"The model takes audio at {rate} Hz: give sherpa-onnx --sample-rate={rate}, not its 16000.")
    for path in written:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
