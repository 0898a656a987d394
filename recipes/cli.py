"""The `maya` command: thin doors to the stage functions of this folder."""

import argparse
import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from maya import __version__
from maya.errors import MayaError
from maya.recipes.aliases import add_aliases


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="maya",
        description="Speech recognition training, evaluation and serving in pure PyTorch.",
        epilog="A recipe runs these in order: see ./egs/indic12/run.sh. `maya COMMAND --help` explains one.",
    )
    top.add_argument("--version", action="version", version=f"maya {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = _command(
        commands,
        "prepare",
        "validate and split a corpus folder (manifest.jsonl, metadata.csv, Kaldi, lhotse, NeMo, wav + txt)",
    )
    _experiment(p)
    p.add_argument("--corpus", type=Path, required=True, help="the corpus folder, or lhotse:NAME:DIR")
    p.add_argument("--out", type=Path, required=True, help="where {train,dev,test}.parquet go")

    p = _command(
        commands, "validate", "look at a corpus without preparing it, or at prepared data again", force=False
    )
    _experiment(p, required=False)
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", type=Path, help="a corpus folder: all that prepare would drop or flag")
    what.add_argument("--data", type=Path, help="the folder that `maya prepare` wrote: is all still there")
    p.add_argument("--sample", type=int, default=200, help="of each part of --data, utterances to decode")
    p.add_argument("--all", action="store_true", help="decode all of --data")
    p.add_argument("--json", type=Path, metavar="FILE", help="what was found, for programs")
    p.add_argument("--html", type=Path, metavar="FILE", help="the report page")

    p = _command(commands, "tokenizer", "train a SentencePiece tokenizer on the training texts")
    _experiment(p)
    _data_and_run(p)

    _plan(commands)

    p = _command(commands, "train", "train, or continue; on several GPUs through maya.recipes.launch")
    _experiment(p)
    _data_and_run(p)
    p.add_argument("--cpu", action="store_true", help="train on the CPU even where a GPU is")

    _average_to_score(commands)

    _transcribe(commands)
    _evaluate(commands)
    _llm(commands)
    _convert_and_export(commands)
    p = _command(commands, "info", "say what a checkpoint is", force=False)
    p.add_argument("checkpoint", type=Path, help="a .pt file, a run folder or a .nemo archive")
    return top


def _transcribe(commands: argparse._SubParsersAction) -> None:
    p = _command(commands, "transcribe", "transcribe audio files (wav, flac, ogg, opus, mp3)", force=False)
    p.add_argument("checkpoint", type=Path, help="a .pt file, a run folder or a .nemo archive")
    p.add_argument("audio", type=Path, nargs="+", help="audio files")
    p.add_argument("--language", help="a code such as hi; auto identifies it first; by default none is told")
    p.add_argument("--method", default="transducer", choices=("transducer", "ctc"))
    p.add_argument(
        "--output", default="text", choices=("text", "json"), help="json adds tokens, frames and scores"
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    p.add_argument(
        "--context", type=int, nargs=2, metavar=("LEFT", "RIGHT"),
        help="encoder frames that attention sees around each, such as 128 128 for hours of audio",
    )  # fmt: skip


def _evaluate(commands: argparse._SubParsersAction) -> None:
    p = _command(commands, "evaluate", "error rates of a checkpoint on a manifest or on files", force=False)
    p.add_argument("checkpoint", type=Path, help="a .pt file, a run folder or a .nemo archive")
    p.add_argument("audio", type=Path, nargs="*", help="audio files, in place of --manifest")
    p.add_argument("--manifest", type=Path, help="JSON lines (Maya, NeMo, metadata.jsonl), .csv, or a folder")
    p.add_argument("--reference", nargs="+", metavar="TEXT", help="what each of the audio files says")
    p.add_argument("--method", default="transducer", help="ctc, modified_beam ...; see decode.method")
    p.add_argument("--language", help="where the manifest does not tell, a code such as hi; auto identifies")
    _num_samples(p)
    p.add_argument("--json", type=Path, metavar="FILE", help="everything, for programs")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")


def _num_samples(p: argparse.ArgumentParser) -> None:
    what = "show N utterances, reference against hypothesis, from the worst to the best"
    p.add_argument("--num-samples", type=int, default=0, metavar="N", help=what)


def _average_to_score(commands: argparse._SubParsersAction) -> None:
    p = _command(commands, "average", "average the weights over the end of training, chosen on dev")
    _experiment(p)
    _data_and_run(p)
    p.add_argument(
        "--epoch", type=int, nargs="+", default=[], help="the end of the average; see train.epochs"
    )
    p.add_argument(
        "--avg", type=int, nargs="+", default=[], help="over so many epochs (or steps, without --epoch)"
    )
    p.add_argument("--select", action="store_true", help="choose the epoch and the average on the dev sets")

    p = _command(commands, "decode", "decode a split, or several with several methods")
    _experiment(p)
    _data_and_run(p)
    what = "train, dev, test (the default), or a set of the corpus's own, such as dev-clean"
    p.add_argument("--split", nargs="+", default=["test"], metavar="SPLIT", help=what)
    what = "decode.method's to use, or all; results then go to decode/METHOD/SPLIT"
    p.add_argument("--method", nargs="+", default=[], metavar="METHOD", help=what)
    p.add_argument("--checkpoint", type=Path, help="a .pt file; without it the run's averaged or best one")
    p.add_argument(
        "--into", default="", metavar="NAME", help="results go to decode/NAME/SPLIT (not with --method)"
    )

    p = _command(commands, "score", "WER and CER per language with 95 %% intervals")
    p.add_argument("--run-dir", type=Path, required=True, help="the run folder")
    p.add_argument("--data", type=Path, help="the prepared data, for notes on the splits")
    p.add_argument("--split", default="test", help="what was decoded; all: everything, in one table (test)")
    p.add_argument(
        "--by-speaker", action="store_true", help="draw speakers, not utterances, for the intervals"
    )
    _num_samples(p)

    p = _command(commands, "compare", "two systems on the same utterances: is one better?", force=False)
    p.add_argument("first", type=Path, nargs="+", help="a run folder, or several that differ in their seeds")
    p.add_argument("--with", type=Path, nargs="+", required=True, dest="second", help="of the other system")
    p.add_argument("--split", default="test", help="what was decoded: the folder under decode/, as ctc/test")
    p.add_argument("--with-split", default="", help="of the other system, where it is another")


def _llm(commands: argparse._SubParsersAction) -> None:
    p = _command(commands, "llm", "train and decode with a language model as decoder", force=False)
    kinds = p.add_subparsers(dest="kind", required=True, metavar="STAGE")
    train = _command(kinds, "train", "train encoder, projector and LoRA, or continue")
    decode = _command(kinds, "decode", "decode a split greedily; `maya score` then scores it")
    for p in (train, decode):
        _experiment(p)
        _data_and_run(p)
        p.add_argument("--cpu", action="store_true", help="use the CPU even where a GPU is")
    decode.add_argument("--split", default="test", choices=("train", "dev", "test"))
    decode.add_argument("--checkpoint", type=Path, help="a .pt file; without it the run's best one")


def _convert_and_export(commands: argparse._SubParsersAction) -> None:
    p = _command(commands, "convert", "turn another system's model into a Maya checkpoint", force=False)
    kinds = p.add_subparsers(dest="kind", required=True, metavar="FORMAT")
    p = _command(kinds, "nemo", "a FastConformer .nemo archive (CTC, RNN-T, TDT or hybrid)", force=False)
    p.add_argument("source", type=Path, help="the .nemo file")
    p.add_argument("out", type=Path, help="a folder for the checkpoint, usable wherever a run folder is")
    p.add_argument(
        "--front-end", default="auto", choices=("auto", "since-2.5", "before-2.5"),
        help="NeMo 2.5 changed the features; auto takes those of the version that saved the model",
    )  # fmt: skip
    p.add_argument(
        "--encoder-only", action="store_true", help="new heads, for a new vocabulary; see train.init_from"
    )
    p.add_argument("--tokenizer", type=Path, help="with --encoder-only: the tokenizer.model of the new heads")
    p.add_argument(
        "--ignore", action="append", default=[], metavar="KEY",
        help="a key of the yaml that Maya does not know and that does not change the network; repeatable",
    )  # fmt: skip

    _convert_icefall(kinds)

    p = _command(commands, "export", "write a model for another system", force=False)
    kinds = p.add_subparsers(dest="kind", required=True, metavar="FORMAT")
    nemo = _command(kinds, "nemo", "a .nemo archive that NeMo restores", force=False)
    icefall = _command(kinds, "icefall", "a Zipformer's pretrained.pt that icefall loads", force=False)
    icefall.add_argument("checkpoint", type=Path, help="a .pt file or a run folder")
    icefall.add_argument("out", type=Path, help="the folder for pretrained.pt, bpe.model and tokens.txt")
    onnx = _command(kinds, "onnx", "a folder of ONNX graphs, as sherpa-onnx reads them", force=False)
    for p in (nemo, onnx):
        p.add_argument("checkpoint", type=Path, help="a .pt file, a run folder or a .nemo file")
        p.add_argument("out", type=Path, help="the archive to write" if p is nemo else "the folder to write")
        p.add_argument(
            "--language", help="keep one language of a model with a language embedding, or `unknown`"
        )
    onnx.add_argument("--head", choices=("transducer", "ctc"), help="by default the transducer, if any")
    onnx.add_argument("--int8", action="store_true", help="also write graphs with weights of 8 bits")
    onnx.add_argument(
        "--chunk-frames", type=int, help="of a causal Zipformer: stream in chunks of so many 20 ms frames"
    )
    onnx.add_argument(
        "--left-frames", type=int, default=128, help="with --chunk-frames: context, 128 by default"
    )


def _convert_icefall(kinds: argparse._SubParsersAction) -> None:
    p = _command(
        kinds, "icefall", "a checkpoint of icefall's Zipformer (epoch-N.pt, pretrained.pt ...)", force=False
    )
    p.add_argument("source", type=Path, help="the .pt file")
    p.add_argument("out", type=Path, help="a folder for the checkpoint, usable wherever a run folder is")
    pieces = p.add_mutually_exclusive_group(required=True)
    pieces.add_argument("--bpe-model", type=Path, metavar="FILE", help="the bpe.model of its training")
    pieces.add_argument("--tokens", type=Path, metavar="FILE", help="tokens.txt: enough to transcribe")
    p.add_argument(
        "--avg-with", type=Path, metavar="FIRST",
        help="an earlier epoch-N.pt: the mean of the weights between the two; E - A for --epoch E --avg A",
    )  # fmt: skip
    p.add_argument(
        "--which", default="model", choices=("model", "average"),
        help="without --avg-with: the last weights, or model_avg, their mean since the beginning",
    )  # fmt: skip
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="a field of the model that the file does not tell, such as encoder.heads=4,4,8,4; repeatable",
    )  # fmt: skip


def _command(
    commands: argparse._SubParsersAction, name: str, text: str, force: bool = True
) -> argparse.ArgumentParser:
    p = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if force:
        p.add_argument(
            "--force", action="store_true", help="run even if nothing changed since it was last done"
        )
    return p


def _experiment(p: argparse.ArgumentParser, required: bool = True) -> None:
    what = "a module or file with experiment(), such as egs.indic12.mini"
    p.add_argument("--experiment", required=required, help=what if required else f"{what}; for its options")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="change a field of the experiment, such as train.lr=3e-4 (typed; may be repeated)",
    )  # fmt: skip
    add_aliases(p)


def _plan(commands: argparse._SubParsersAction) -> None:
    p = _command(commands, "plan", "say what training takes: parameters, memory, time, batches", force=False)
    p.add_argument("name", nargs="?", help="the experiment's file name alone, such as mini")
    _experiment(p, required=False)
    p.add_argument("--gpu", default="h200", help="h200, h100, a100-80, a100-40, l40s, rtx4090, v100 ...")
    p.add_argument("--gpus", type=int, default=8, help="how many, 8 by default")
    p.add_argument("--memory-gb", type=float, help="of each, in place of what is published")
    p.add_argument("--utilisation", type=float, default=0.4, help="share of the peak rate, 0.4 by default")
    p.add_argument("--seconds", type=float, default=12.0, help="of the utterance that stands for the data")
    p.add_argument("--tokens-per-second", type=float, default=4.0, help="of that utterance")
    p.add_argument("--hours", type=float, help="of audio, for the time of one pass")
    p.add_argument("--data", type=Path, help="the folder that `maya prepare` wrote: its batches are planned")
    p.add_argument("--run-dir", type=Path, help="the run folder, for the tokens of its tokenizer")
    p.add_argument("--json", type=Path, metavar="FILE", help="everything, for programs")


def _data_and_run(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data", type=Path, required=True, help="the folder that `maya prepare` wrote")
    p.add_argument("--run-dir", type=Path, required=True, help="the run folder, made when missing")


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

        info(args.checkpoint)
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
    from maya.recipes.plan import Setup, experiment_named, plan

    if (args.name is None) == (args.experiment is None):
        raise MayaError("name the experiment once: by its file name alone, or with --experiment")
    name = experiment_named(args.name) if args.name else args.experiment
    setup = Setup(
        gpu=args.gpu, gpus=args.gpus, memory_gb=args.memory_gb, utilisation=args.utilisation,
        seconds=args.seconds, tokens_per_second=args.tokens_per_second, hours=args.hours,
    )  # fmt: skip
    plan(load_experiment(name, args.overrides), setup, data=args.data, run=args.run_dir, json_file=args.json)


def show_progress() -> None:
    """Let the library's own messages through to stderr, and no other package's."""
    log = logging.getLogger("maya")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    if not logging.root.handlers:  # else a package's logging.warning() adds one that repeats our messages
        logging.root.addHandler(logging.NullHandler())


def run(argv: list[str] | None = None) -> tuple[int, str]:
    """Do what a command line asks: (exit status, what to say at the end). 0 done; 1 a MayaError, in one line;
    130 stopped by Ctrl-C, with the state saved."""
    args = parser().parse_args(argv)
    show_progress()
    try:
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
