"""Convert models of other systems to Maya checkpoints."""

import argparse
from pathlib import Path
from typing import Any, get_args

from maya.convert import (
    Conversion,
    import_conv_tasnet,
    import_ecapa,
    import_hugging_face,
    import_icefall,
    import_nemo,
    import_wespeaker,
    import_whisper,
)  # fmt: skip
from maya.convert.conv_tasnet import Mask
from maya.convert.icefall.checkpoint import Which
from maya.convert.nemo.config import FrontEnd
from maya.encoders.hugging_face.folder import folder_with, is_whisper
from maya.errors import MayaError
from maya.files import write_json
from maya.ranges import Range
from maya.recipes.arguments import COUNT, add_parser, add_set, number
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, step_checkpoints

CHECKPOINT, REPORT = "best.pt", "convert.json"


def arguments(p: argparse.ArgumentParser) -> None:
    formats = p.add_subparsers(dest="format", required=True, metavar="FORMAT")
    nemo = add_parser(formats, "nemo", "a Conformer .nemo archive (CTC, RNN-T, TDT or hybrid)")
    nemo.add_argument("source", type=Path, help="the .nemo file")
    icefall = add_parser(
        formats, "icefall", "a checkpoint of icefall's Zipformer (epoch-N.pt, pretrained.pt ...)"
    )
    icefall.add_argument("source", type=Path, help="the .pt file")
    folder = add_parser(formats, "hf", "a Parakeet folder of Hugging Face (CTC, RNN-T or TDT)")
    folder.add_argument("source", help="the folder, or hf:owner/name")
    ecapa = add_parser(
        formats, "ecapa", "weights of SpeechBrain's or wespeaker's ECAPA-TDNN, for maya verify"
    )
    ecapa.add_argument("source", type=Path, help="embedding_model.ckpt or avg_model.pt")
    wespeaker = add_parser(formats, "wespeaker", "weights of wespeaker's ResNet34 or CAM++, for maya verify")
    wespeaker.add_argument("source", type=Path, help="avg_model.pt")
    tasnet = add_parser(formats, "conv-tasnet", "a Conv-TasNet of torchaudio or asteroid, for maya separate")
    tasnet.add_argument("source", type=Path, help="torchaudio's state dict, or a model that asteroid saved")
    whisper = add_parser(formats, "whisper", "a Whisper model of OpenAI, Hugging Face or CTranslate2")
    whisper.add_argument("source", help="OpenAI's .pt, a folder, or hf:owner/name")
    text = "the model's tokenizer.json, where it does not lie beside the weights"
    whisper.add_argument("--tokenizer", type=Path, metavar="FILE", help=text)
    for each in (nemo, icefall, folder, ecapa, wespeaker, tasnet, whisper):
        each.add_argument("out", type=Path, help="folder for the checkpoint; use it like a run folder")

    text = "the sample rate of torchaudio's model, which its file does not say: %(default)s"
    tasnet.add_argument(
        "--sample-rate", type=number(int, Range(min=1000)), default=8000, metavar="HZ", help=text
    )
    tasnet.add_argument("--mask", choices=get_args(Mask), default="sigmoid", help="activation of its masks")
    tasnet.add_argument("--layers", type=COUNT, default=8, metavar="X", help="blocks in one of its stacks")

    text = "NeMo 2.5 changed the features; auto uses those of the version that saved the model"
    nemo.add_argument("--front-end", default="auto", choices=get_args(FrontEnd), help=text)
    text = "keep one language of a model with an output layer for each (IndicConformer) or with prompts"
    nemo.add_argument("--language", metavar="CODE", help=text)
    text = "keep the encoder, of any class of model, and make new heads; see train.init_from"
    nemo.add_argument("--encoder-only", action="store_true", help=text)
    text = "with --encoder-only: the tokenizer.model of the new heads"
    nemo.add_argument("--tokenizer", type=Path, help=text)
    text = "ignore an unknown key of the YAML that does not change the network; repeatable"
    nemo.add_argument("--ignore", action="append", default=[], metavar="KEY", help=text)

    pieces = icefall.add_mutually_exclusive_group(required=True)
    pieces.add_argument("--bpe-model", type=Path, metavar="FILE", help="the bpe.model it was trained with")
    pieces.add_argument("--tokens", type=Path, metavar="FILE", help="tokens.txt; enough to transcribe")
    text = "average the weights from an earlier epoch-N.pt to this one: E - A for --epoch E --avg A"
    icefall.add_argument("--avg-with", type=Path, metavar="FIRST", help=text)
    text = "without --avg-with: the last weights, or model_avg, their mean since the start of training"
    icefall.add_argument("--which", default="model", choices=get_args(Which), help=text)
    add_set(
        icefall, "a field of the model that is not in the file, such as encoder.heads=4,4,8,4; repeatable"
    )


def run(args: argparse.Namespace) -> None:
    if args.format == "nemo":
        convert_nemo(args.source, args.out, front_end=args.front_end, encoder_only=args.encoder_only,
                     tokenizer=args.tokenizer, language=args.language, ignore=args.ignore)  # fmt: skip
    elif args.format == "hf":
        convert_hugging_face(args.source, args.out)
    elif args.format in ("ecapa", "wespeaker"):
        _check_free(args.out)
        _written(args.out, (import_ecapa if args.format == "ecapa" else import_wespeaker)(args.source))
    elif args.format == "conv-tasnet":
        _check_free(args.out)
        options = {"sample_rate": args.sample_rate, "mask": args.mask, "layers": args.layers}
        _written(args.out, import_conv_tasnet(args.source, **options))
    elif args.format == "whisper":
        convert_whisper(args.source, args.out, tokenizer=args.tokenizer)
    else:
        convert_icefall(args.source, args.out, args.bpe_model or args.tokens, average_with=args.avg_with,
                        which=args.which, overrides=args.overrides)  # fmt: skip


def open_checkpoint(path: Path) -> Checkpoint:
    """A Maya checkpoint or run folder, or a `.nemo` archive or a Parakeet or Whisper folder, which is
    converted in memory.

    Raises MayaError for an unrecognised file, and for an archive that cannot be converted.
    """
    if is_whisper(path):
        return import_whisper(path).checkpoint
    if (folder := folder_with(path)) is not None:
        return import_hugging_face(folder).checkpoint
    return import_nemo(path).checkpoint if path.suffix == ".nemo" else load_checkpoint(path)


def convert_nemo(source: Path, out: Path, *, tokenizer: Path | None = None, **options: Any) -> Path:
    """Write `out`/best.pt and `out`/convert.json from a `.nemo` archive, print the report, return the path.

    The folder can be used like that of a run: transcribe, info, export, train.init_from. See
    `maya.convert.import_nemo` for the options and errors.
    """
    _check_free(out)
    pieces = load_tokenizer(tokenizer) if tokenizer is not None else None
    return _written(out, import_nemo(source, tokenizer=pieces, **options))


def convert_hugging_face(source: str, out: Path) -> Path:
    """The same for a Parakeet folder of Hugging Face. See `maya.convert.import_hugging_face`."""
    _check_free(out)
    return _written(out, import_hugging_face(source))


def convert_whisper(source: str, out: Path, *, tokenizer: Path | None = None) -> Path:
    """The same for a Whisper model. See `maya.convert.import_whisper`."""
    _check_free(out)
    return _written(out, import_whisper(source, tokenizer=tokenizer))


def convert_icefall(source: Path, out: Path, tokenizer: Path, **options: Any) -> Path:
    """The same for a checkpoint of icefall's Zipformer recipe. See `maya.convert.import_icefall` for the
    options and errors."""
    _check_free(out)
    return _written(out, import_icefall(source, tokenizer, **options))


def _written(out: Path, made: Conversion) -> Path:
    path = out / CHECKPOINT
    save_checkpoint(path, made.checkpoint)
    write_json(out / REPORT, made.report.to_dict())
    print(made.report.text())
    print(f"checkpoint  {path}")
    return path


def _check_free(out: Path) -> None:
    """Refuse a folder that holds a run, whose checkpoints must not be replaced."""
    if out.is_file():
        raise MayaError(f"{out} is a file; give a folder for the converted model")
    trained = step_checkpoints(out) or (out / "averaged.pt").exists()
    if trained or ((out / CHECKPOINT).exists() and not (out / REPORT).exists()):
        raise MayaError(f"{out} holds a training run; give another folder for the converted model")
