"""The `maya` command: thin doors to the stage functions of this folder."""

import argparse
import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

from maya import __version__
from maya.errors import MayaError
from maya.ranges import Range
from maya.recipes.aliases import add_aliases
from maya.recipes.arguments import (
    Parser,
    add_command,
    add_convert_icefall,
    add_data_and_run,
    add_experiment,
    add_num_samples,
    number,
)
from maya.recipes.messages import messages_on_stderr
from maya.recipes.start import import_torch

_CHECKPOINT = "a .pt file, a run folder or a .nemo archive"
_DEVICE = "auto (the default: the first GPU, else the CPU), cpu, cuda, cuda:1 ..."
_CORPUS = (
    "a folder (manifest.jsonl, metadata.csv, Kaldi, lhotse, NeMo, Hugging Face, or wav + txt), "
    "lhotse:NAME:DIR or nemo:MANIFESTS:TARS"
)
_COUNT = Range(min=0)


def parser() -> Parser:
    top = Parser(
        prog="maya",
        description="Speech recognition training, evaluation and serving in pure PyTorch.",
        epilog="A recipe runs prepare, tokenizer, train, average, decode and score in this order: see "
        "./egs/indic12/run.sh. `maya COMMAND --help` explains a command.",
    )
    top.add_argument("--version", action="version", version=f"maya {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = add_command(commands, "prepare", "check a corpus and split it into training, dev and test data")
    add_experiment(p)
    p.add_argument("--corpus", type=Path, required=True, help=_CORPUS)
    p.add_argument("--out", type=Path, required=True, help="folder to write train, dev and test.parquet to")

    _validate(commands)

    p = add_command(commands, "tokenizer", "train a SentencePiece tokenizer on the training texts")
    add_experiment(p)
    add_data_and_run(p, cuts=True)

    _plan(commands)

    p = add_command(
        commands, "train", "train a model, or continue a run; on several GPUs through maya.recipes.launch"
    )
    add_experiment(p)
    add_aliases(p)
    add_data_and_run(p, cuts=True)
    p.add_argument("--cpu", action="store_true", help="train on the CPU, even if there is a GPU")

    _average_to_score(commands)

    _transcribe(commands)
    _evaluate(commands)
    _llm(commands)
    _convert_and_export(commands)
    p = add_command(
        commands, "info", "describe a checkpoint: sizes, vocabulary, languages, scores", force=False
    )
    p.add_argument("checkpoint", type=Path, help=_CHECKPOINT)
    p.add_argument("--all", action="store_true", help="also print every option of the model and the notes")
    p.add_argument("--json", action="store_true", help="print everything as JSON, for programs")
    return top


def _validate(commands: argparse._SubParsersAction) -> None:
    p = add_command(
        commands,
        "validate",
        "report the problems of a corpus or of prepared data; write nothing",
        force=False,
    )
    add_experiment(p, required=False)
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path, help=f"report what prepare would drop or flag: {_CORPUS}")
    source.add_argument(
        "--data", type=Path, help="the folder that `maya prepare` wrote: check its audio again"
    )
    p.add_argument(
        "--sample", type=number(int, _COUNT), default=200, metavar="N",
        help="with --data: decode N utterances of each split (default: 200)",
    )  # fmt: skip
    p.add_argument("--all", action="store_true", help="with --data: decode every utterance")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the problems as JSON, too")
    p.add_argument("--html", type=Path, metavar="FILE", help="write a report page, too")


def _transcribe(commands: argparse._SubParsersAction) -> None:
    p = add_command(commands, "transcribe", "transcribe audio files (wav, flac, ogg, opus, mp3)", force=False)
    p.add_argument("checkpoint", type=Path, help=_CHECKPOINT)
    p.add_argument("audio", type=Path, nargs="+", help="audio files")
    p.add_argument(
        "--language", help="code of the spoken language, such as hi; auto: identify it; default: not given"
    )
    p.add_argument(
        "--method", default="auto", choices=("auto", "transducer", "ctc", "attention"),
        help="the head to decode with; auto (the default): the best trained head on dev",
    )  # fmt: skip
    p.add_argument(
        "--output", default="text", choices=("text", "json"), help="json adds tokens, frames and scores"
    )
    p.add_argument("--device", default="auto", help=_DEVICE)
    p.add_argument(
        "--context", type=number(int, Range(min=0, also=(-1,))), nargs=2, metavar=("LEFT", "RIGHT"),
        help="attend to so many encoder frames on each side (-1: all), such as 128 128 for hours of audio",
    )  # fmt: skip


def _evaluate(commands: argparse._SubParsersAction) -> None:
    p = add_command(
        commands, "evaluate", "compute the error rates of a checkpoint on a manifest or on files", force=False
    )
    p.add_argument("checkpoint", type=Path, help=_CHECKPOINT)
    p.add_argument("audio", type=Path, nargs="*", help="audio files, instead of --manifest")
    p.add_argument("--manifest", type=Path, help="JSON lines (Maya, NeMo, metadata.jsonl), .csv, or a folder")
    p.add_argument("--reference", nargs="+", metavar="TEXT", help="the transcript of each audio file")
    text = "auto (the default: the best trained head on dev), ctc, modified_beam ...; see decode.method"
    p.add_argument("--method", default="auto", help=text)
    p.add_argument(
        "--language", help="language code for utterances without one in the manifest; auto: identify it"
    )
    add_num_samples(p)
    p.add_argument("--json", type=Path, metavar="FILE", help="write all results as JSON, too")
    p.add_argument("--device", default="auto", help=_DEVICE)


def _average_to_score(commands: argparse._SubParsersAction) -> None:
    p = add_command(commands, "average", "average the weights over the end of training, as dev scores best")
    add_experiment(p)
    add_data_and_run(p, cuts=True)
    p.add_argument(
        "--epoch", type=number(int, Range(min=1)), nargs="+", default=[], metavar="N",
        help="the last epoch of the average; needs a run with train.epochs",
    )  # fmt: skip
    p.add_argument(
        "--avg", type=number(int, Range(min=1)), nargs="+", default=[], metavar="N",
        help="average over N epochs, or without --epoch over N steps",
    )  # fmt: skip
    p.add_argument("--select", action="store_true", help="choose among several --epoch and --avg on dev")

    p = add_command(commands, "decode", "decode one or more splits with one or more methods")
    add_experiment(p)
    add_data_and_run(p)
    text = "train, dev, test (the default), or a set of the corpus, such as dev-clean"
    p.add_argument("--split", nargs="+", default=["test"], metavar="SPLIT", help=text)
    text = "values of decode.method, or all that trained heads allow; results go to decode/METHOD/SPLIT"
    p.add_argument("--method", nargs="+", default=[], metavar="METHOD", help=text)
    p.add_argument("--checkpoint", type=Path, help="a .pt file; default: the averaged one, else the best")
    p.add_argument(
        "--into", default="", metavar="NAME", help="write to decode/NAME/SPLIT (not with --method)"
    )

    p = add_command(commands, "score", "compute WER and CER for each language, with 95 %% intervals")
    p.add_argument("--run-dir", type=Path, required=True, help="the run folder")
    p.add_argument("--data", type=Path, help="the prepared data, for notes on the splits")
    p.add_argument("--split", default="test", help="the decoded split (default: test); all: one table of all")
    p.add_argument(
        "--by-speaker", action="store_true", help="compute the intervals over speakers, not utterances"
    )
    add_num_samples(p)

    p = add_command(commands, "compare", "test whether one of two systems is better", force=False)
    p.add_argument("first", type=Path, nargs="+", help="a run folder, or several that differ in their seeds")
    p.add_argument(
        "--with", type=Path, nargs="+", required=True, dest="second", help="run folders of the other system"
    )
    p.add_argument("--split", default="test", help="the folder under decode/, such as test or ctc/test")
    p.add_argument("--with-split", default="", help="the folder of the other system, if it is another one")


def _llm(commands: argparse._SubParsersAction) -> None:
    p = add_command(commands, "llm", "train and decode a model with a language model as decoder", force=False)
    kinds = p.add_subparsers(dest="kind", required=True, metavar="STAGE")
    train = add_command(kinds, "train", "train encoder, projector and LoRA, or continue a run")
    decode = add_command(kinds, "decode", "decode a split greedily; `maya score` then scores it")
    for p in (train, decode):
        add_experiment(p)
        add_data_and_run(p)
        p.add_argument("--cpu", action="store_true", help="use the CPU, even if there is a GPU")
    decode.add_argument("--split", default="test", choices=("train", "dev", "test"), help="default: test")
    decode.add_argument("--checkpoint", type=Path, help="a .pt file; default: the best of the run")


def _convert_and_export(commands: argparse._SubParsersAction) -> None:
    p = add_command(
        commands, "convert", "convert a model of another system to a Maya checkpoint", force=False
    )
    kinds = p.add_subparsers(dest="kind", required=True, metavar="FORMAT")
    p = add_command(kinds, "nemo", "a FastConformer .nemo archive (CTC, RNN-T, TDT or hybrid)", force=False)
    p.add_argument("source", type=Path, help="the .nemo file")
    p.add_argument("out", type=Path, help="folder for the checkpoint; use it like a run folder")
    p.add_argument(
        "--front-end", default="auto", choices=("auto", "since-2.5", "before-2.5"),
        help="NeMo 2.5 changed the features; auto uses those of the version that saved the model",
    )  # fmt: skip
    p.add_argument(
        "--encoder-only", action="store_true", help="make new heads for a new vocabulary; see train.init_from"
    )
    p.add_argument("--tokenizer", type=Path, help="with --encoder-only: the tokenizer.model of the new heads")
    p.add_argument(
        "--ignore", action="append", default=[], metavar="KEY",
        help="ignore an unknown key of the YAML that does not change the network; repeatable",
    )  # fmt: skip

    add_convert_icefall(kinds)

    p = add_command(commands, "export", "write a model for another system", force=False)
    kinds = p.add_subparsers(dest="kind", required=True, metavar="FORMAT")
    nemo = add_command(kinds, "nemo", "a .nemo archive that NeMo restores", force=False)
    icefall = add_command(kinds, "icefall", "a Zipformer's pretrained.pt that icefall loads", force=False)
    icefall.add_argument("checkpoint", type=Path, help="a .pt file or a run folder")
    icefall.add_argument("out", type=Path, help="folder for pretrained.pt, bpe.model and tokens.txt")
    onnx = add_command(kinds, "onnx", "a folder of ONNX graphs that sherpa-onnx loads", force=False)
    for p in (nemo, onnx):
        p.add_argument("checkpoint", type=Path, help=_CHECKPOINT)
        p.add_argument("out", type=Path, help="the archive to write" if p is nemo else "the folder to write")
        p.add_argument(
            "--language", help="keep one language of a model with a language embedding, or `unknown`"
        )
    onnx.add_argument(
        "--head", choices=("transducer", "ctc"), help="default: the transducer if it was trained, else CTC"
    )
    onnx.add_argument("--int8", action="store_true", help="also write graphs with 8-bit weights")
    onnx.add_argument(
        "--chunk-frames", type=number(int, Range(min=1)), metavar="N",
        help="for a causal Zipformer: stream in chunks of N frames of 20 ms",
    )  # fmt: skip
    onnx.add_argument(
        "--left-frames", type=number(int, _COUNT), default=128, metavar="N",
        help="with --chunk-frames: frames of left context (default: 128)",
    )  # fmt: skip


def _plan(commands: argparse._SubParsersAction) -> None:
    p = add_command(
        commands, "plan", "estimate parameters, memory, time and batches of a training", force=False
    )
    p.add_argument("name", nargs="?", help="name of an experiment under egs/, such as mini")
    add_experiment(p, required=False)
    p.add_argument("--gpu", default="h200", help="h200 (default), h100, a100-80, l40s, rtx4090, v100 ...")
    p.add_argument("--gpus", type=int, default=8, metavar="N", help="number of GPUs (default: 8)")
    p.add_argument("--memory-gb", type=float, metavar="GB", help="memory of each GPU, if not as published")
    p.add_argument(
        "--utilisation", type=float, default=0.4, metavar="SHARE",
        help="share of the GPU's peak rate that training reaches (default: 0.4)",
    )  # fmt: skip
    p.add_argument(
        "--seconds", type=float, default=12.0, help="without --data: length of an utterance (default: 12)"
    )
    p.add_argument(
        "--tokens-per-second", type=float, default=4.0, metavar="N",
        help="without --data: tokens in a second of speech (default: 4)",
    )  # fmt: skip
    p.add_argument("--hours", type=float, help="hours of audio, for the time of one epoch")
    p.add_argument("--data", type=Path, help="the folder that `maya prepare` wrote: plan its batches")
    p.add_argument("--run-dir", type=Path, help="the run folder: use its tokenizer")
    p.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON, too")


def dispatch(args: argparse.Namespace) -> None:
    """Call the stage function; each module is imported only for its own command."""
    # ruff: noqa: PLC0415
    if args.command == "transcribe":
        from maya.recipes.transcribe import transcribe

        how = {"language": args.language, "method": args.method, "output": args.output, "device": args.device}
        context = tuple(args.context) if args.context else None
        transcribe(args.checkpoint, args.audio, **how, context=context)
        return
    conversion = dict.fromkeys(("convert", "export"), _dispatch_conversion)
    doors = {**conversion, "plan": _dispatch_plan, "llm": _dispatch_llm, "evaluate": _dispatch_evaluate}
    if args.command in doors:
        doors[args.command](args)
        return
    if args.command == "info":
        from maya.recipes.info import info

        info(args.checkpoint, whole=args.all, as_json=args.json)
        return
    if args.command == "validate":
        from maya.recipes.validate import validate

        sample = None if args.all else args.sample
        validate(args.experiment, args.overrides, args.corpus, args.data, sample, args.json, args.html)
        return
    if args.command == "score":
        _dispatch_score(args)
        return
    if args.command == "compare":
        from maya.recipes.compare import compare

        compare(args.first, args.second, split=args.split, second_split=args.with_split)
        return

    from maya.recipes.experiment import load_experiment

    experiment = load_experiment(args.experiment, args.overrides, llm=args.command == "prepare")
    if args.command == "prepare":
        from maya.recipes.prepare import prepare

        prepare(experiment, args.corpus, args.out, force=args.force)
    elif args.command == "tokenizer":
        from maya.recipes.tokenizer import tokenizer

        tokenizer(experiment, args.data, args.run_dir, force=args.force)
    elif args.command == "train":
        from maya.recipes.train import train

        train(experiment, args.data, args.run_dir, cpu=args.cpu, force=args.force)
    elif args.command == "average":
        _dispatch_average(args, experiment)
    elif args.command == "decode":
        _dispatch_decode(args, experiment)


def _dispatch_average(args: argparse.Namespace, experiment: Any) -> None:
    from maya.recipes.average import average, select

    if args.select:
        select(experiment, args.data, args.run_dir, epochs=args.epoch, avgs=args.avg, force=args.force)
        return
    if max(len(args.epoch), len(args.avg)) > 1:
        raise MayaError("several values of --epoch or --avg are to choose from: add --select")
    epoch, avg = (next(iter(values), None) for values in (args.epoch, args.avg))
    average(experiment, args.data, args.run_dir, epoch=epoch, avg=avg, force=args.force)


def _dispatch_decode(args: argparse.Namespace, experiment: Any) -> None:
    how = {"checkpoint": args.checkpoint, "force": args.force}
    if args.method:
        if args.into:
            raise MayaError("--method has folders of its own, decode/METHOD/SPLIT: leave --into out")
        from maya.recipes.decode_all import decode_all

        more = {"splits": args.split, "methods": args.method}
        decode_all(experiment, args.data, args.run_dir, **more, **how)
        return
    from maya.recipes.decode import decode

    for split in args.split:
        decode(experiment, args.data, args.run_dir, split=split, into=args.into, **how)


def _dispatch_score(args: argparse.Namespace) -> None:
    how = {"data": args.data, "by_speaker": args.by_speaker, "force": args.force}
    if args.split == "all":
        from maya.recipes.decode_all import score_all

        if args.num_samples:
            raise MayaError("--num-samples shows utterances of one split: name it with --split")

        score_all(args.run_dir, **how)
        return
    from maya.recipes.score import score

    score(args.run_dir, split=args.split, num_samples=args.num_samples, **how)


def _dispatch_evaluate(args: argparse.Namespace) -> None:
    from maya.recipes.evaluate import METHODS, evaluate

    if args.method not in METHODS:
        raise MayaError(f"there is no method {args.method!r}: take one of {', '.join(METHODS)}")
    evaluate(
        args.checkpoint, args.audio, manifest=args.manifest, references=args.reference, method=args.method,
        language=args.language, num_samples=args.num_samples, json_file=args.json, device=args.device,
    )  # fmt: skip


def _dispatch_conversion(args: argparse.Namespace) -> None:
    if args.command == "convert" and args.kind == "icefall":
        from maya.recipes.convert import convert_icefall

        how = {"average_with": args.avg_with, "which": args.which, "overrides": args.overrides}
        convert_icefall(args.source, args.out, args.bpe_model or args.tokens, **how)
    elif args.command == "convert":
        from maya.recipes.convert import convert_nemo

        convert_nemo(
            args.source,
            args.out,
            front_end=args.front_end,
            encoder_only=args.encoder_only,
            tokenizer=args.tokenizer,
            ignore=args.ignore,
        )
    elif args.kind == "icefall":
        from maya.recipes.export import export_icefall

        export_icefall(args.checkpoint, args.out)
    elif args.kind == "nemo":
        from maya.recipes.export import export_nemo

        export_nemo(args.checkpoint, args.out, language=args.language)
    else:
        from maya.recipes.export import export_onnx

        chunks = {"chunk_frames": args.chunk_frames, "left_frames": args.left_frames}
        how = {"head": args.head, "language": args.language, "int8": args.int8, **chunks}
        export_onnx(args.checkpoint, args.out, **how)


def _dispatch_llm(args: argparse.Namespace) -> None:
    from maya.recipes import speech_llm
    from maya.recipes.experiment import load_experiment

    experiment = load_experiment(args.experiment, args.overrides, llm=True)
    if not isinstance(experiment, speech_llm.LLMExperiment):
        raise MayaError(f"{args.experiment} has no language model as decoder; use `maya {args.kind}` with it")
    how = {"cpu": args.cpu, "force": args.force}
    if args.kind == "train":
        speech_llm.train(experiment, args.data, args.run_dir, **how)
    else:
        more = {"split": args.split, "checkpoint": args.checkpoint}
        speech_llm.decode(experiment, args.data, args.run_dir, **more, **how)


def _dispatch_plan(args: argparse.Namespace) -> None:
    from maya.recipes.experiment import load_experiment
    from maya.recipes.plan import Setup, plan

    if (args.name is None) == (args.experiment is None):
        raise MayaError("name the experiment once: by its file name alone, or with --experiment")
    name = args.name or args.experiment
    setup = Setup(
        gpu=args.gpu, gpus=args.gpus, memory_gb=args.memory_gb, utilisation=args.utilisation,
        seconds=args.seconds, tokens_per_second=args.tokens_per_second, hours=args.hours,
    )  # fmt: skip
    plan(load_experiment(name, args.overrides), setup, data=args.data, run=args.run_dir, json_file=args.json)


def run(argv: list[str] | None = None) -> tuple[int, str]:
    """Do what a command line asks: (exit status, what to say at the end). 0 done; 1 a MayaError, in one line;
    130 stopped by Ctrl-C, with the state saved."""
    args = parser().parse_args(argv)
    try:
        with messages_on_stderr():
            import_torch()
            dispatch(args)
    except MayaError as e:
        return 1, f"maya {args.command}: {e}"
    except KeyboardInterrupt as e:
        return 130, f"maya {args.command}: {str(e) or 'stopped'}"
    except BrokenPipeError:  # `maya ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE, ""
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        where = e.filename or "while writing"
        advice = "free some space and run the same command again"
        return 1, f"maya {args.command}: the disk is full ({where}); {advice}"
    return 0, ""


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `run`."""
    status, text = run(argv)
    if text:
        print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
