"""Transcribe audio files, folders, a pipe or a microphone with a trained model."""

import argparse
import ctypes
import glob
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import maya
from maya.align.formats.base import FormatConfig
from maya.align.formats.table import FORMATS
from maya.align.speakers.config import SpeakersConfig
from maya.align.speakers.words import with_speakers
from maya.audio.vad.config import VADConfig
from maya.config import nearest, to_dict
from maya.decode.adapt import PseudoLabelsConfig, SUTAConfig
from maya.decode.base import Method
from maya.decode.long.long_audio import LongAudioConfig, speech_defaults
from maya.decode.methods import AUTO
from maya.decode.punctuation import Punctuation
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import (
    Channels,
    Transcript,
    TranscriptionConfig,
    channel_blocks,
    recording_audio,
)
from maya.errors import MayaError
from maya.files import file_sha256
from maya.ranges import Range
from maya.recipes.arguments import COUNT, POSITIVE, add_checkpoint, add_device, add_list, number
from maya.recipes.experiment_file import import_recorded
from maya.recipes.pcm import RAW_KINDS, PCMFormat
from maya.recipes.speaker_options import add_speakers, speakers_of
from maya.recipes.transcribe_inputs import STDIN, Input, RecordingList, StdinAudio, read_inputs
from maya.recipes.transcribe_live import transcribe_stream
from maya.recipes.transcribe_method import SearchOptions, make_decoder
from maya.recipes.transcribe_outputs import (
    OutputFolder,
    Outputs,
    StandardOutput,
    options_key,
    print_at_once,
)
from maya.recipes.voice_detector import detector_name, detector_of
from maya.train.checkpoints.checkpoint import find_checkpoint

CPU_BATCH, GPU_BATCH = 60.0, 600.0  # seconds
ADAPTATIONS = {"suta": SUTAConfig, "pseudo_labels": PseudoLabelsConfig}  # without a state between utterances
WHOLE_SECONDS = 300.0
"""Without voice activity detection, longer recordings are decoded in windows of this length that overlap."""


def arguments(p: argparse.ArgumentParser) -> None:
    add_checkpoint(p)
    text = 'audio files, folders, patterns in quotes ("talks/**/*.mp3"), manifests of JSON lines, - for stdin'
    add_list(p, "audio", help=text)
    text = (
        "code of the spoken language, such as hi; auto: identify it; default: that of the manifest, or none"
    )
    p.add_argument("--language", help=text)
    _add_search(p.add_argument_group("search"))
    _add_input(p.add_argument_group("input"))
    _add_output(p.add_argument_group("output"))
    add_device(p)
    positive = number(float, Range(above=0))
    text = f"seconds of audio in a batch (default: {CPU_BATCH:g} on a CPU, {GPU_BATCH:g} on a GPU)"
    p.add_argument("--batch-seconds", type=positive, metavar="S", help=text)
    text = "attend to so many encoder frames on each side (-1: all), such as 128 128 for hours of audio"
    frames = number(int, Range(min=0, also=(-1,)))
    p.add_argument("--context", type=frames, nargs=2, metavar=("LEFT", "RIGHT"), help=text)


def _add_search(p: Any) -> None:
    text = "auto (the default: the best trained head on dev), ctc, alsd, maes ...; see decode.method"
    p.add_argument("--method", default=AUTO, help=text)
    text = "keep N hypotheses (default: greedy search, or what --method does by itself)"
    p.add_argument("--beam", type=POSITIVE, default=0, metavar="N", help=text)
    text = "write the N best texts; json and jsonl hold them as alternatives"
    p.add_argument("--n-best", type=POSITIVE, default=1, metavar="N", help=text)
    text = "a language model: an ARPA or KenLM file, a folder of ARPA files by language, or a neural one"
    p.add_argument("--lm", default="", metavar="PATH", help=text)
    weight = number(float, Range(min=0))
    p.add_argument("--lm-weight", type=weight, metavar="W", help="factor on its log probabilities")
    text = "a phrase to prefer, or a file with a phrase a line; may be repeated"
    p.add_argument("--hotwords", action="append", default=[], metavar="PHRASE|FILE", help=text)
    p.add_argument("--hotword-weight", type=weight, metavar="W", help="nats for each token of a phrase")
    text = "an option of the method, such as target=en or timestamps=true of Canary; may be repeated"
    p.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=text)


def _add_input(p: Any) -> None:
    text = "a channel from 1, all (each by itself), or mix (the average, the default)"
    p.add_argument("--channel", type=_channel, default="mix", metavar="N|all|mix", help=text)
    text = (
        "how speech is found: auto (silero's network if installed, else energy), silero, energy, a run of "
        "egs/vad, or off"
    )
    p.add_argument("--vad", type=detector_name, default="auto", metavar="NAME|RUN", help=text)
    text = (
        "begin each piece of a recording with what LaCT learnt from those before it (data.plan.same_speaker)"
    )
    p.add_argument("--remember", action="store_true", help=text)
    text = "adapt the model to each utterance before it is decoded (docs/decoding.md)"
    p.add_argument("--adapt", choices=tuple(ADAPTATIONS), help=text)
    text = "say for each segment whether its text was made up; for json and jsonl"
    p.add_argument("--check", action="store_true", help=text)
    text = "write capitals and punctuation marks, with a model that has a head for them"
    p.add_argument("--punctuate", action="store_true", help=text)
    text = "decode as the audio comes and print what is recognised so far"
    p.add_argument("--stream", action="store_true", help=text)
    add_speakers(p)
    p.add_argument("--mic", action="store_true", help="listen to the microphone until Ctrl-C")
    text = "samples without a header on stdin, one channel; with --rate"
    p.add_argument("--raw", choices=RAW_KINDS, help=text)
    p.add_argument(
        "--rate", type=number(int, Range(min=1000, max=768_000)), metavar="HZ", help="sampling rate of --raw"
    )


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
        language=args.language, channel=args.channel, formats=args.format, vad=args.vad,
        output_dir=args.output_dir, resume=args.resume, words_per_line=args.words_per_line,
        line_length=args.line_length, device=args.device, batch_seconds=args.batch_seconds,
        context=tuple(args.context) if args.context else None, stream=args.stream, mic=args.mic,
        raw=_raw(args), remember=args.remember, check_texts=args.check,
        speakers=speakers_of(args, whole=True),
        punctuate=args.punctuate, adapt=args.adapt,
        search=SearchOptions(
            method=args.method, beam=args.beam, n_best=args.n_best, lm=args.lm, lm_weight=args.lm_weight,
            hotwords=tuple(args.hotwords), hotword_weight=args.hotword_weight,
            options=tuple(args.option),
        ),
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
    vad: how speech is found, see `detector_of`; "off" decodes all audio, in overlapping windows if it is long
    and no `context` is given. remember: see `LongAudioConfig`. raw: the format of samples on stdin that have
    no header. speakers: None for words without speakers. adapt: one of `ADAPTATIONS`, by which the model
    adapts to each utterance by itself; None: it does not.
    """

    language: str | None = None
    search: SearchOptions = field(default_factory=SearchOptions)
    vad: str = "auto"
    remember: bool = False
    channel: Channels = "mix"
    formats: Sequence[str] = ("txt",)
    output_dir: Path | None = None
    resume: bool = False
    words_per_line: int = 0
    line_length: int = 42
    device: str = "auto"
    batch_seconds: float | None = None
    context: tuple[int, int] | None = None
    stream: bool = False
    mic: bool = False
    raw: PCMFormat | None = None
    speakers: SpeakersConfig | None = None
    check_texts: bool = False
    punctuate: bool = False
    adapt: str | None = None

    def check(self, audio: Sequence[str]) -> None:
        """Raises MayaError for options that do not go together, and where no file is there."""
        self.search.check()
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
        if self.stream or self.mic:
            self._check_stream()
        if self.adapt and self.remember:
            raise MayaError("--adapt begins anew with each utterance: leave it or --remember out")
        if self.words_per_line and not {*self.formats} & {"srt", "vtt"}:
            raise MayaError("--words-per-line divides subtitles: add --format srt or vtt")
        if self.search.n_best > 1 and not {*self.formats} & {"json", "jsonl"}:
            raise MayaError("--n-best writes alternatives: add --format json or jsonl")
        if "rttm" in self.formats and self.speakers is None:
            raise MayaError("rttm says who speaks when: add --speakers")
        if self.check_texts and not {*self.formats} & {"json", "jsonl"}:
            raise MayaError("--check writes a verdict for each segment: add --format json or jsonl")
        files = [a for a in audio if a != STDIN and not glob.has_magic(a)]
        if files and not any(Path(a).exists() for a in files) and len(files) == len(audio):
            raise MayaError(f"{files[0]} is not a file")

    def _check_stream(self) -> None:
        if self.output_dir or {*self.formats} - {"txt", "jsonl"}:
            raise MayaError("a stream is printed as it is recognised, as --format txt or jsonl")
        unused = {
            "--channel": self.channel != "mix", "--vad": self.vad != "auto",
            "--batch-seconds": self.batch_seconds is not None, "--remember": self.remember,
            "--speakers": self.speakers is not None,
            "--check": self.check_texts, "--adapt": bool(self.adapt),
        }  # fmt: skip
        if names := [name for name, given in unused.items() if given]:
            raise MayaError(f"{names[0]} is for whole recordings: leave it or --stream out")

    def transcription(self, device: torch.device) -> TranscriptionConfig:
        """How recordings are read and cut. A CPU is as fast with small batches, which need less memory."""
        if self.vad != "off":
            detector, weights = detector_of(self.vad)
            vad = replace(speech_defaults(), detector=detector, weights=weights)
            cfg = LongAudioConfig(vad=vad)
        elif self.context is not None:
            cfg = LongAudioConfig(strategy="whole")
        else:
            cfg = LongAudioConfig(strategy="overlap", window_seconds=WHOLE_SECONDS)
        cfg.remember = self.remember
        batch = self.batch_seconds or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)
        return TranscriptionConfig(max_seconds_per_batch=batch, seconds_ahead=4 * batch, long_audio=cfg)

    def output_facts(self) -> dict[str, Any]:
        """The options that change what is written for a recording."""
        return {
            "version": maya.__version__, "language": self.language, "search": self.search.facts(),
            "vad": self.vad, "remember": self.remember, "context": self.context,
            "speakers": None if self.speakers is None else to_dict(self.speakers),
            "check": self.check_texts, "punctuate": self.punctuate, "adapt": self.adapt,
            "formats": sorted(self.formats), "channel": self.channel,
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
    _return_memory()
    recognizer = load(checkpoint, options)
    if options.stream or options.mic:
        return transcribe_stream(recognizer, arguments, options)
    stdin = StdinAudio(sample_rate=recognizer.sample_rate, raw=options.raw)
    inputs = read_inputs(arguments, options.channel, stdin)
    for note in inputs.notes:
        print(note, file=sys.stderr)
    outputs = _outputs(checkpoint, inputs, options)
    decoder = make_decoder(recognizer, options.search)
    return _ManyRecordings(recognizer=recognizer, inputs=inputs, outputs=outputs, options=options).run(
        decoder
    )


def _return_memory() -> None:
    """Let glibc return the memory of large tensors at once. By default it keeps most of it for later ones,
    and batches of many shapes leave gaps: without it 2000 files took a fifth more memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        m_mmap_threshold, megabyte = -3, 1 << 20
        mallopt(m_mmap_threshold, megabyte)


def load(checkpoint: Path, options: TranscribeOptions) -> Recognizer:
    """The model on its device, with the attention context of the options."""
    recognizer = maya.load(checkpoint, options.device)
    if options.context is not None:
        limit_context(recognizer, options.context)
    return recognizer.adapted(ADAPTATIONS[options.adapt]()) if options.adapt else recognizer


def limit_context(recognizer: Recognizer, context: tuple[int, int]) -> None:
    """Let a FastConformer's frames attend to so many on each side (-1: all), of recordings and of streams.
    Raises MayaError for another encoder."""
    encoder: Any = recognizer.model.encoder
    if not hasattr(encoder, "context"):
        raise MayaError("--context is for FastConformer, and this model has another encoder")
    encoder.context = context


def _outputs(checkpoint: Path, inputs: RecordingList, options: TranscribeOptions) -> Outputs:
    cfg = FormatConfig(
        model=str(checkpoint), words_per_line=options.words_per_line, line_columns=options.line_length
    )
    if options.output_dir is None:
        several = len(inputs.items) > 1 or options.channel == "all"
        return StandardOutput(options.formats, cfg, print_at_once, several=several)
    file = checkpoint if checkpoint.suffix == ".nemo" else find_checkpoint(checkpoint)
    outputs = OutputFolder(
        folder=options.output_dir, formats=options.formats, cfg=cfg, resume=options.resume,
        key=options_key(file_sha256(file), options.output_facts()),
    )  # fmt: skip
    outputs.check(inputs.items)
    return outputs


@dataclass(kw_only=True, slots=True)
class _ManyRecordings:
    """Many recordings, with their progress on stderr."""

    recognizer: Recognizer
    inputs: RecordingList
    outputs: Outputs
    options: TranscribeOptions
    audio_seconds: float = 0.0
    failed: set[int] = field(default_factory=set)
    complete: int = 0
    check: Any = None  # a SegmentCheck, which costs more to import than is worth without --check
    punctuation: Punctuation | None = None

    def run(self, decoder: Method | None) -> int:
        """Transcribe all; returns the exit status."""
        from tqdm import tqdm  # noqa: PLC0415

        began, several = time.perf_counter(), len(self.inputs.items) > 1
        if self.options.punctuate:
            self.punctuation = Punctuation(self.recognizer)
        items = [item for item in self.inputs.items if not self.outputs.is_done(item)]
        skipped = len(self.inputs.items) - len(items)
        transcripts = self.recognizer.transcribe_each(
            (item.recording for item in items), self.options.language, decoder=decoder,
            cfg=self.options.transcription(self.recognizer.device),
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
            if self.options.speakers is not None:
                transcript = self._with_speakers(items[transcript.place], transcript)
            if self.options.check_texts:
                self.check = self.check or _segment_check(self.recognizer)
                self.check(items[transcript.place].recording, transcript)
            if self.punctuation is not None and (hyp := transcript.hypothesis) is not None:
                recording, rate = items[transcript.place].recording, self.recognizer.sample_rate
                self.punctuation(hyp, recording_audio(recording, rate, transcript.channel))
            self.outputs.write(items[transcript.place], transcript)
            return
        self.failed.add(transcript.place)
        if not several:
            raise MayaError(transcript.error)
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"maya transcribe: {' '.join(transcript.error.split())}", file=sys.stderr, flush=True)

    def _with_speakers(self, item: Input, transcript: Transcript) -> Transcript:
        """Reads the recording again, so that no audio is kept until its text is complete."""
        assert self.options.speakers is not None
        recording, rate = item.recording, self.recognizer.sample_rate
        if transcript.channel is not None:
            recording = replace(recording, channel=transcript.channel)
        ((_, blocks),) = channel_blocks(recording, rate)
        detector, weights = detector_of(self.options.vad if self.options.vad != "off" else "auto")
        vad = VADConfig(detector=detector, weights=weights)
        return with_speakers(transcript, blocks, rate, self.options.speakers, vad)

    def _summary(self, count: int, skipped: int, seconds: float) -> str:
        if skipped and not count:
            return f"nothing to do: all {skipped} recordings were done before"
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


def _segment_check(recognizer: Recognizer) -> Any:
    from maya.recipes.transcribe_check import SegmentCheck  # noqa: PLC0415  it imports kaldialign

    return SegmentCheck(recognizer)
