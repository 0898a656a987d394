"""Maya models for other systems."""

from pathlib import Path

import maya
from maya.convert.icefall_export import to_icefall
from maya.convert.nemo_export import to_nemo
from maya.convert.onnx import Head, to_onnx


def export_nemo(checkpoint: Path, out: Path, *, language: str | None = None) -> None:
    """Write a `.nemo` archive that NeMo restores, and print what is in it."""
    print(to_nemo(maya.load(checkpoint, "cpu"), out, language=language).text())


def export_icefall(checkpoint: Path, out: Path) -> None:
    """Write the folder `out` with a pretrained.pt that icefall loads, and print what is in it."""
    print(to_icefall(maya.load(checkpoint, "cpu"), out).text())


def export_onnx(
    checkpoint: Path,
    out: Path,
    *,
    head: Head | None = None,
    language: str | None = None,
    int8: bool = False,
) -> None:
    """Write the folder `out` of ONNX graphs and tokens.txt, and print the files."""
    for path in to_onnx(maya.load(checkpoint, "cpu"), out, head=head, language=language, int8=int8):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
