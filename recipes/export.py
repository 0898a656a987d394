"""Maya models for other systems."""

import argparse
from pathlib import Path
from typing import get_args

import maya
from maya.convert.export_head import Head
from maya.convert.icefall_export import to_icefall
from maya.convert.nemo_export import to_nemo
from maya.convert.onnx import to_onnx
from maya.convert.sherpa_onnx import to_sherpa_onnx
from maya.encoders import ZipformerConfig
from maya.errors import MayaError
from maya.recipes.arguments import COUNT, POSITIVE, add_checkpoint, add_parser
from maya.recipes.experiment_file import import_recorded


def arguments(p: argparse.ArgumentParser) -> None:
    formats = p.add_subparsers(dest="format", required=True, metavar="FORMAT")
    nemo = add_parser(formats, "nemo", "a .nemo archive that NeMo restores")
    icefall = add_parser(formats, "icefall", "a Zipformer's pretrained.pt that icefall loads")
    onnx = add_parser(formats, "onnx", "a folder of ONNX graphs that sherpa-onnx loads")
    outputs = {nemo: "the archive to write", onnx: "the folder to write",
               icefall: "folder for pretrained.pt, bpe.model and tokens.txt"}  # fmt: skip
    for each, text in outputs.items():
        add_checkpoint(each)
        each.add_argument("out", type=Path, help=text)
    for each in (nemo, onnx):
        text = "keep one language of a model with a language embedding, or `unknown`"
        each.add_argument("--language", help=text)
    text = "default: the transducer if it was trained, else CTC"
    onnx.add_argument("--head", choices=get_args(Head), help=text)
    onnx.add_argument("--int8", action="store_true", help="also write graphs with 8-bit weights")
    text = "for a causal Zipformer: stream in chunks of N frames of 20 ms"
    onnx.add_argument("--chunk-frames", type=POSITIVE, metavar="N", help=text)
    text = "with --chunk-frames: frames of left context (default: 128)"
    onnx.add_argument("--left-frames", type=COUNT, default=128, metavar="N", help=text)


def run(args: argparse.Namespace) -> None:
    import_recorded(args.checkpoint, args.experiment)
    if args.format == "nemo":
        export_nemo(args.checkpoint, args.out, language=args.language)
    elif args.format == "icefall":
        export_icefall(args.checkpoint, args.out)
    else:
        export_onnx(
            args.checkpoint, args.out, head=args.head, language=args.language, int8=args.int8,
            chunk_frames=args.chunk_frames, left_frames=args.left_frames,
        )  # fmt: skip


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
