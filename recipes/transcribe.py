"""Transcribe audio files, folders, a pipe or a microphone with a trained model."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import maya
from maya.align.formats.base import FormatConfig
from maya.align.formats.table import FORMATS
from maya.config import nearest
from maya.decode.base import Method
from maya.decode.methods import AUTO
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import Channels, Transcript, TranscriptionConfig
from maya.errors import MayaError
from maya.files import file_sha256
from maya.ranges import Range
from maya.recipes.arguments import COUNT, POSITIVE, add_checkpoint, add_device, add_list, number
from maya.recipes.experiment_file import import_recorded
from maya.recipes.pcm import RAW_KINDS, PCMFormat
from maya.recipes.transcribe_inputs import STDIN, Inputs, StdinAudio, read_inputs
from maya.recipes.transcribe_live import transcribe_stream
from maya.recipes.transcribe_outputs import (
    OutputFolder,
    Outputs,
    StandardOutput,
    options_key,
    print_at_once,
)
from maya.train.checkpoint import find_checkpoint


def arguments(p: argparse.ArgumentParser) -> None:
    add_checkpoint(p)
    text = 'audio files, folders, patterns in quotes ("talks/**/*.mp3"), manifests of JSON lines, - for stdin'
    add_list(p, "audio", help=text)
    text = (
        "code of the spoken language, such as hi; auto: identify it; default: that of the manifest, or none"
    )
    p.add_argument("--language", help=text)
    text = "auto (the default: the best trained head on dev), ctc, modified_beam ...; see decode.method"
    p.add_argument("--method", default=AUTO, help=text)
    _add_input(p.add_argument_group("input"))
    _add_output(p.add_argument_group("output"))
    add_device(p)
    positive = number(float, Range(above=0))
    text = "seconds of audio in a batch, padding counted (default: %(default)g)"
    p.add_argument("--batch-seconds", type=positive, default=120.0, metavar="S", help=text)
    text = "attend to so many encoder frames on each side (-1: all), such as 128 128 for hours of audio"
    frames = number(int, Range(min=0, also=(-1,)))
    p.add_argument("--context", type=frames, nargs=2, metavar=("LEFT", "RIGHT"), help=text)


def _add_input(p: Any) -> None:
    text = "a channel from 1, all (each by itself), or mix (the average, the default)"
    p.add_argument("--channel", type=_channel, default="mix", metavar="N|all|mix", help=text)
    text = "decode as the audio comes and print what is recognised so far"
    p.add_argument("--stream", action="store_true", help=text)
    p.add_argument("--mic", action="store_true", help="listen to the microphone until Ctrl-C")
    text = "samples without a header on stdin, one channel; with --rate"
    p.add_argument("--raw", choices=RAW_KINDS, help=text)
    p.add_argument("--rate", type=number(int, Range(min=1000, max=768_000)), metavar="HZ", help="of --raw")


def _add_output(p: Any) -> None:
    text = f"{', '.join(FORMATS)}; several with commas, such as srt,json (default: txt)"
    p.add_argument("--format", type=_formats, default=("txt",), metavar="FORMAT", help=text)
    text = "write a file for each recording and format; default: print"
    p.add_argument("--output-dir", type=Path, metavar="DIR", help=text)
    text = "leave out recordings whose files in --output-dir are complete, of the same model and options"
    p.add_argument("--resume", action="store_true", help=text)
    text = "words of a subtitle in srt and vtt (default: as many as fit)"
    p.add_argument("--words-per-line", type=COUNT, default=0, metavar="N", help=text)
    p.add_argument("--line-length", type=POSITIVE, default=42, metavar="N", help="columns of a subtitle")


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    for name in names:
        if name not in FORMATS:
            hint = nearest(name, FORMATS) or f"; expected one of {', '.join(FORMATS)}"
            raise argparse.ArgumentTypeError(f"unknown format {name!r}{hint}")
    return names


def _channel(text: str) -> Channels:
    if text in ("mix", "all"):
        return text  # type: ignore[return-value]
    try:
        return int(POSITIVE(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expects a number from 1, all or mix, not {text!r}") from None


def run(args: argparse.Namespace) -> int:
    import_recorded(args.checkpoint, args.experiment)
    options = TranscribeOptions(
        language=args.language, method=args.method, channel=args.channel, formats=args.format,
        output_dir=args.output_dir, resume=args.resume, words_per_line=args.words_per_line,
        line_length=args.line_length, device=args.device, batch_seconds=args.batch_seconds,
        context=tuple(args.context) if args.context else None, stream=args.stream, mic=args.mic,
        raw=_raw(args),
    )  # fmt: skip
    return transcribe(args.checkpoint, args.audio, options)


def _raw(args: argparse.Namespace) -> PCMFormat | None:
    if (args.raw is None) != (args.rate is None):
        raise MayaError("--raw and --rate belong together: --raw s16le --rate 16000")
    return PCMFormat.raw(args.raw, args.rate) if args.raw else None


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscribeOptions:
    """The options of `transcribe`; those of the command line have the same names.

    context: encoder frames that a FastConformer's frame attends to on its left and right, for hours of audio.
    raw: the format of samples on stdin that have no header.
    """

    language: str | None = None
    method: str = AUTO
    channel: Channels = "mix"
    formats: Sequence[str] = ("txt",)
    output_dir: Path | None = None
    resume: bool = False
    words_per_line: int = 0
    line_length: int = 42
    device: str = "auto"
    batch_seconds: float = 120.0
    context: tuple[int, int] | None = None
    stream: bool = False
    mic: bool = False
    raw: PCMFormat | None = None

    def check(self, audio: Sequence[str]) -> None:
        """Raises MayaError for options that do not go together."""
        if self.mic and audio:
            raise MayaError("--mic listens to the microphone: leave the files out")
        if not self.mic and not audio:
            raise MayaError("name audio files, a folder, a manifest, - for stdin, or --mic")
        if audio.count(STDIN) and len(audio) > 1:
            raise MayaError("- reads the standard input: leave the other files out, or the -")
        if self.raw and STDIN not in audio:
            raise MayaError("--raw describes samples on the standard input: name - as the audio")
        if self.resume and self.output_dir is None:
            raise MayaError("--resume looks at the files in --output-dir: name one")
        if (self.stream or self.mic) and (self.output_dir or {*self.formats} - {"txt", "jsonl"}):
            raise MayaError("a stream is printed as it is recognised, as --format txt or jsonl")

    def output_facts(self) -> dict[str, Any]:
        """The options that change what is written for a recording."""
        return {
            "version": maya.__version__, "language": self.language, "method": self.method,
            "context": self.context, "formats": sorted(self.formats), "channel": self.channel,
            "words_per_line": self.words_per_line, "line_length": self.line_length,
        }  # fmt: skip


def transcribe(checkpoint: Path, audio: Sequence[str | Path], options: TranscribeOptions) -> int:
    """Transcribe recordings and print or write each as soon as it is done; returns the exit status.

    audio: see `maya.recipes.transcribe_inputs`. A recording that fails costs one line on stderr; the others
    go on, and the status is 1. Raises MayaError where nothing can be transcribed, and for the only recording
    if it fails.
    """
    arguments = [str(a) for a in audio]
    options.check(arguments)
    recognizer = load(checkpoint, options)
    if options.stream or options.mic:
        return transcribe_stream(recognizer, arguments, options)
    stdin = StdinAudio(sample_rate=recognizer.sample_rate, raw=options.raw)
    inputs = read_inputs(arguments, options.channel, stdin)
    for note in inputs.notes:
        print(note, file=sys.stderr)
    outputs = _outputs(checkpoint, inputs, options)
    decoder = make_decoder(recognizer, options)
    return _Run(recognizer=recognizer, inputs=inputs, outputs=outputs, options=options).run(decoder)


def load(checkpoint: Path, options: TranscribeOptions) -> Recognizer:
    """The model on its device, with the attention context of the options."""
    recognizer = maya.load(checkpoint, options.device)
    if options.context is not None:
        encoder: Any = recognizer.model.encoder
        if not hasattr(encoder, "context"):
            raise MayaError(f"{checkpoint}: --context is for FastConformer, and this is another encoder")
        encoder.context = options.context
    return recognizer


def make_decoder(recognizer: Recognizer, options: TranscribeOptions) -> Method | None:
    """The decoding method; None for a model that only predicts labels, which then must not be named."""
    if not recognizer.model.cfg.text_heads and options.method == AUTO:
        return None
    return recognizer.make_method(recognizer.choose_method(options.method))


def _outputs(checkpoint: Path, inputs: Inputs, options: TranscribeOptions) -> Outputs:
    cfg = FormatConfig(
        model=str(checkpoint), words_per_line=options.words_per_line, line_columns=options.line_length
    )
    if options.output_dir is None:
        several = len(inputs.items) > 1 or options.channel == "all"
        return StandardOutput(options.formats, cfg, print_at_once, several=several)
    file = checkpoint if checkpoint.suffix == ".nemo" else find_checkpoint(checkpoint)
    return OutputFolder(
        folder=options.output_dir, formats=options.formats, cfg=cfg, resume=options.resume,
        key=options_key(file_sha256(file), options.output_facts()),
    )  # fmt: skip


@dataclass(kw_only=True, slots=True)
class _Run:
    """Many recordings, with their progress on stderr."""

    recognizer: Recognizer
    inputs: Inputs
    outputs: Outputs
    options: TranscribeOptions
    audio_seconds: float = 0.0
    failed: set[int] = field(default_factory=set)
    complete: int = 0

    def run(self, decoder: Method | None) -> int:
        """Transcribe all; returns the exit status."""
        from tqdm import tqdm  # noqa: PLC0415

        began, several = time.perf_counter(), len(self.inputs.items) > 1
        items = [item for item in self.inputs.items if not self.outputs.is_done(item)]
        skipped = len(self.inputs.items) - len(items)
        transcripts = self.recognizer.transcribe_each(
            (item.recording for item in items), self.options.language, decoder=decoder,
            cfg=TranscriptionConfig(max_seconds_per_batch=self.options.batch_seconds),
        )  # fmt: skip
        # Without a terminal tqdm shows nothing; neither is a bar of a single file worth its line.
        bar = tqdm(total=len(items), unit="file", disable=None if several else True, file=sys.stderr)
        parts: dict[int, int] = {}
        try:
            for transcript in transcripts:
                self._take(items, transcript, several)
                parts[transcript.place] = parts.get(transcript.place, 0) + 1
                if parts[transcript.place] == transcript.channels:
                    bar.update()
                    self.complete += transcript.place not in self.failed
                speed = self.audio_seconds / (time.perf_counter() - began)
                bar.set_postfix_str(f"{speed:.0f} x real time", refresh=False)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._stopped(len(items))) from None
        finally:
            transcripts.close()
            bar.close()
            self.outputs.close()
        if several:
            print(self._summary(len(items), skipped, time.perf_counter() - began), file=sys.stderr)
        return 1 if self.failed else 0

    def _take(self, items: Sequence[Any], transcript: Transcript, several: bool) -> None:
        from tqdm import tqdm  # noqa: PLC0415

        if not transcript.error:
            self.audio_seconds += transcript.seconds
            self.outputs.write(items[transcript.place], transcript)
            return
        self.failed.add(transcript.place)
        if not several:
            raise MayaError(transcript.error)
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"maya transcribe: {transcript.error}", file=sys.stderr, flush=True)

    def _summary(self, count: int, skipped: int, seconds: float) -> str:
        speed = self.audio_seconds / max(seconds, 1e-9)
        amount = f"{self.audio_seconds / 3600:.2f} h of audio in {seconds:.1f} s, {speed:.0f} times real time"
        parts = [f"transcribed {self.complete} of {count} recordings: {amount}"]
        if self.failed:
            parts.append(f"{len(self.failed)} failed, see above")
        if skipped:
            parts.append(f"{skipped} were done before")
        return "; ".join(parts)

    def _stopped(self, count: int) -> str:
        advice = "; run the same command with --resume to go on" if self.options.output_dir else ""
        return f"stopped after {self.complete} of {count} recordings{advice}"
