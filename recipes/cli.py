"""The `maya` command: a table of commands. Each one's options and code lie in the module of its row, which is
imported when the command is used."""

import argparse
import errno
import importlib
import os
import signal
import sys
from types import ModuleType
from typing import NamedTuple

from maya import __version__
from maya.errors import MayaError
from maya.files import is_disk_full
from maya.recipes.arguments import Parser, add_parser
from maya.recipes.messages import messages_on_stderr
from maya.recipes.start import import_torch

# Errors of a path that the user chose.
_OF_PATHS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


class Command(NamedTuple):
    """A row of the table. module: of maya.recipes, with `arguments(parser)` and `run(args)`; `run` returns
    nothing, or the exit status."""

    module: str
    help: str


COMMANDS = {
    "prepare": Command("prepare", "check a corpus and split it into training, dev and test data"),
    "validate": Command("validate", "report the problems of a corpus or of prepared data; write nothing"),
    "tokenizer": Command("tokenizer", "train a SentencePiece tokenizer on the training texts"),
    "plan": Command("plan", "estimate parameters, memory, time and batches of a training"),
    "lm": Command("lm", "estimate an n-gram or train a small LSTM over a recogniser's tokens"),
    "train": Command(
        "train", "train a model, or continue a run; on several GPUs through maya.recipes.launch"
    ),
    "finetune": Command("finetuning.command", "tune a trained model to recordings of your own, and compare"),
    "label": Command("finetuning.label", "transcribe recordings into a table to correct, worst first"),
    "average": Command("average", "average the weights over the end of training, as dev scores best"),
    "decode": Command("decode", "decode one or more splits with one or more methods"),
    "align": Command("align", "find the times of the words of a text in its recording, of any length"),
    "calibrate": Command(
        "calibrate", "measure how late words are emitted and how far confidence can be trusted"
    ),
    "score": Command("score", "compute WER and CER for each language, with 95 % intervals"),
    "compare": Command("compare", "test whether one of two systems is better"),
    "rover": Command("evaluation.rover", "combine the transcripts of several systems by voting"),
    "enroll": Command("evaluation.enroll", "keep the voice of a speaker, from recordings"),
    "verify": Command("evaluation.verify", "compare voices: two recordings, an enrolled speaker, or trials"),
    "separate": Command("separate", "write the speakers of a recording into a file each"),
    "transcribe": Command("transcribe", "transcribe audio files (wav, flac, ogg, opus, mp3)"),
    "serve": Command("serve", "serve models: live speech over WebSockets, recordings over HTTP"),
    "listen": Command("listen", "recognise the microphone or a pipe live, by a server or a model"),
    "evaluate": Command("evaluate", "compute the error rates of a checkpoint on a manifest or on files"),
    "info": Command("info", "describe a checkpoint: sizes, vocabulary, languages, scores"),
    "ready": Command("ready", "check whether a long run can start: disk, GPUs, tokenizer, data, storage"),
    "check-storage": Command("check_storage", "check whether object storage (S3, R2) can take a run"),
    "watch": Command("watch", "bring a run's checkpoints and logs to object storage while it trains"),
    "supervise": Command("supervise", "check, train and upload in one command, on one machine"),
    "restore": Command("restore", "bring a run from object storage into a folder, to continue it"),
    "diagnose": Command("diagnose", "find the module whose losses or gradients are not finite"),
    "diff": Command("diff", "show the options that differ between two runs"),
    "plot": Command("plot", "draw training curves, or the tokens of a recording over its spectrogram"),
    "pack": Command("pack", "pack a corpus of many files into one tar a language"),
    "convert": Command("convert", "convert a model of another system to a Maya checkpoint"),
    "export": Command("export", "write a model for another system"),
}


def parser(*, complete: bool = False) -> Parser:
    """The parser of all commands. A command's options are added when it is parsed, or with `complete` now."""
    top = Parser(
        prog="maya",
        description="Speech recognition training, evaluation and serving in pure PyTorch.",
        epilog="A recipe runs prepare, tokenizer, train, average, decode and score in this order: see "
        "./egs/indic12/run.sh. `maya COMMAND --help` explains a command.",
    )
    top.add_argument("--version", action="version", version=f"maya {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        p = add_parser(commands, name, command.help)
        p.add_options = lambda p, name=name: _module(name).arguments(p)
        if complete:
            p.complete()
    return top


def _module(command: str) -> ModuleType:
    import_torch()
    return importlib.import_module(f"maya.recipes.{COMMANDS[command].module}")


def dispatch(args: argparse.Namespace) -> int | None:
    """Run a command; returns its exit status, or None for 0."""
    return _module(args.command).run(args)


def run(argv: list[str] | None = None) -> tuple[int, str]:
    """Run a command line: (exit status, last message). 0: done; 1: an error that the user can mend, in one
    line; 130: stopped by Ctrl-C, with the state saved."""
    args = parser().parse_args(argv)
    try:
        with messages_on_stderr():
            return dispatch(args) or 0, ""
    except MayaError as e:
        return 1, f"maya {args.command}: {e}"
    except KeyboardInterrupt as e:
        return 130, f"maya {args.command}: {str(e) or 'stopped'}"
    except BrokenPipeError:  # `maya ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE, ""
    except OSError as e:
        if e.errno in _OF_PATHS and e.filename:
            return 1, f"maya {args.command}: cannot use {e.filename}: {e.strerror}"
        if not is_disk_full(e):
            raise
        where = e.filename or "while writing"
        advice = "free some space and run the same command again"
        return 1, f"maya {args.command}: the disk is full ({where}); {advice}"


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `run`."""
    status, text = run(argv)
    if text:
        print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
