"""Export Maya models for other systems."""

import argparse
from pathlib import Path
from typing import Any, get_args

import maya
from maya.convert import to_ctranslate2, to_ggml, to_hugging_face, to_icefall, to_nemo
from maya.convert.heads import HeadName
from maya.convert.onnx.export import export_onnx as write_onnx
from maya.convert.whisper.ctranslate2 import Precision
from maya.recipes.arguments import COUNT, POSITIVE, add_checkpoint, add_parser
from maya.recipes.experiment_file import import_recorded


def arguments(p: argparse.ArgumentParser) -> None:
    formats = p.add_subparsers(dest="format", required=True, metavar="FORMAT")
    nemo = add_parser(formats, "nemo", "a .nemo archive that NeMo restores")
    icefall = add_parser(formats, "icefall", "a Zipformer's pretrained.pt that icefall loads")
    onnx = add_parser(formats, "onnx", "a folder of ONNX graphs that sherpa-onnx loads")
    folder = add_parser(formats, "hf", "a Parakeet or Whisper folder that Hugging Face's transformers loads")
    ctranslate2 = add_parser(formats, "ctranslate2", "a Whisper folder that faster-whisper opens")
    ggml = add_parser(formats, "ggml", "a Whisper file that whisper.cpp reads")
    outputs = {ctranslate2: "the folder to write", ggml: "the file to write, such as ggml-tiny.bin",
               nemo: "the archive to write", onnx: "the folder to write", folder: "the folder to write",
               icefall: "folder for pretrained.pt, bpe.model and tokens.txt"}  # fmt: skip
    for each, text in outputs.items():
        add_checkpoint(each)
        each.add_argument("out", type=Path, help=text)
    text = "kind of number of the weights; int8 takes a quarter of the space"
    ctranslate2.add_argument("--precision", choices=get_args(Precision), default="float32", help=text)
    for each in (nemo, onnx, folder):
        text = "keep one language of a model with a language embedding, or `unknown`"
        each.add_argument("--language", help=text)
    text = "default: the transducer if it was trained, else CTC"
    for each in (onnx, folder):
        each.add_argument("--head", choices=get_args(HeadName), help=text)
    onnx.add_argument("--int8", action="store_true", help="also write graphs with 8-bit weights")
    text = "for a causal Zipformer: stream in chunks of N frames of 20 ms"
    onnx.add_argument("--chunk-frames", type=POSITIVE, metavar="N", help=text)
    text = "for a FastConformer with an RNN-T: stream in the chunks of its first context"
    onnx.add_argument("--stream", action="store_true", help=text)
    text = "with --chunk-frames: frames of left context (default: 128)"
    onnx.add_argument("--left-frames", type=COUNT, default=128, metavar="N", help=text)


def run(args: argparse.Namespace) -> None:
    import_recorded(args.checkpoint, args.experiment)
    if args.format == "nemo":
        export_nemo(args.checkpoint, args.out, language=args.language)
    elif args.format == "hf":
        export_hugging_face(args.checkpoint, args.out, head=args.head, language=args.language)
    elif args.format == "ctranslate2":
        print(to_ctranslate2(maya.load(args.checkpoint, "cpu"), args.out, precision=args.precision).text())
    elif args.format == "ggml":
        print(to_ggml(maya.load(args.checkpoint, "cpu"), args.out).text())
    elif args.format == "icefall":
        export_icefall(args.checkpoint, args.out)
    else:
        export_onnx(
            args.checkpoint, args.out, head=args.head, language=args.language, int8=args.int8,
            chunk_frames=args.chunk_frames, left_frames=args.left_frames, stream=args.stream,
        )  # fmt: skip


def export_nemo(checkpoint: Path, out: Path, *, language: str | None = None) -> None:
    """Write a `.nemo` archive that NeMo restores, and print the report."""
    print(to_nemo(maya.load(checkpoint, "cpu"), out, language=language).text())


def export_hugging_face(checkpoint: Path, out: Path, **options: Any) -> None:
    """Write the folder `out` for Hugging Face's transformers, and print the report. The scores of a run
    become the table of its card. options: see `maya.convert.to_hugging_face`."""
    run = checkpoint if checkpoint.is_dir() else checkpoint.parent
    results = run / "decode" if (run / "decode").is_dir() else None
    print(to_hugging_face(maya.load(checkpoint, "cpu"), out, results=results, **options).text())


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
