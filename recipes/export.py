"""Maya models for other systems."""

from pathlib import Path

import maya
from maya.convert.heads import HeadName
from maya.convert.icefall.export import to_icefall
from maya.convert.nemo.export import to_nemo
from maya.convert.onnx.fastconformer import to_onnx
from maya.convert.onnx.zipformer import to_sherpa_onnx
from maya.encoders import ZipformerConfig
from maya.errors import MayaError


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
    head: HeadName | None = None,
    language: str | None = None,
    int8: bool = False,
    chunk_frames: int | None = None,
    left_frames: int = 128,
) -> None:
    """Write the folder `out` of ONNX graphs and tokens.txt, and print the files.

    `chunk_frames` and `left_frames`, in frames of 20 ms, are for Zipformers that stream.
    """
    model = maya.load(checkpoint, "cpu")
    if isinstance(model.model.cfg.encoder, ZipformerConfig):
        if language is not None:
            raise MayaError("Zipformers are exported without language embedding; leave --language out")
        written = to_sherpa_onnx(
            model, out, head=head, chunk_frames=chunk_frames, left_frames=left_frames, int8=int8
        )
    elif chunk_frames is not None:
        raise MayaError("--chunk-frames is for causal Zipformers; this model is none")
    else:
        written = to_onnx(model, out, head=head, language=language, int8=int8)
    if (rate := model.sample_rate) != 16000:
        print(f"The model takes audio at {rate} Hz: give sherpa-onnx --sample-rate={rate}, not its 16000.")
    for path in written:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
