"""`maya transcribe --stream` and `--mic`: audio is decoded as it comes, and the text so far is printed."""

import importlib
import json
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maya.decode.hypothesis import Hypothesis
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import Recording, channel_blocks
from maya.errors import MayaError
from maya.recipes.pcm import PCMFormat, pcm_pieces, read_wav_header
from maya.recipes.transcribe_inputs import STDIN, StdinAudio, read_inputs
from maya.recipes.transcribe_method import SearchOptions, make_stream

_PIECE_SECONDS = 0.1
Pieces = Iterator[NDArray[np.float32]]


class LiveOptions(Protocol):
    """The options of `maya transcribe` that a stream needs."""

    @property
    def language(self) -> str | None: ...
    @property
    def search(self) -> SearchOptions: ...
    @property
    def mic(self) -> bool: ...
    @property
    def formats(self) -> Sequence[str]: ...
    @property
    def raw(self) -> PCMFormat | None: ...
    @property
    def punctuate(self) -> bool: ...


def transcribe_stream(recognizer: Recognizer, audio: Sequence[str], options: LiveOptions) -> int:
    """Recognise each source as a stream and print the text while it grows; returns the exit status."""
    stream = make_stream(recognizer, options.search, options.language, punctuate=options.punctuate)
    if (seconds := stream.latency_seconds) is not None:
        print(
            f"this encoder needs the audio around a frame: the text comes up to {seconds:g} s late",
            file=sys.stderr,
        )
    streams, rate, failed = {options.language: stream}, recognizer.sample_rate, 0
    sources = list(_sources(audio, rate, options))
    for name, pieces, language in sources:
        printer = Printer(name, rate, as_json="jsonl" in options.formats, named=len(sources) > 1)
        try:
            if language not in streams:
                streams[language] = make_stream(
                    recognizer, options.search, language, punctuate=options.punctuate
                )
            _recognize(streams[language], pieces, printer)
        except MayaError as error:
            if len(sources) == 1:
                raise
            failed += 1
            print(f"maya transcribe: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _recognize(stream: Any, pieces: Pieces, printer: "Printer") -> None:
    """Ctrl-C and damaged audio end it: what was said before is decoded to its end."""
    try:
        for piece in pieces:
            hyp = stream.accept(piece)
            printer.show(hyp, len(piece), getattr(stream, "stable_text", None))
    except (KeyboardInterrupt, MayaError):
        hyp = stream.finish()  # the stream then takes the next source
        if printer.samples:
            printer.finish(hyp)
        raise
    printer.finish(stream.finish())


def _sources(
    audio: Sequence[str], rate: int, options: LiveOptions
) -> Iterator[tuple[str, Pieces, str | None]]:
    if options.mic:
        yield "microphone", microphone(rate), options.language
    elif STDIN in audio:
        yield "stdin", stdin_pieces(options.raw, rate), options.language
    else:
        notes = read_inputs(audio, "mix", StdinAudio(sample_rate=rate))
        for item in notes.items:
            own = item.recording
            yield own.id, _file_pieces(own, rate), own.language or options.language


def stdin_pieces(raw: PCMFormat | None, rate: int) -> Pieces:
    """Samples at `rate` from the standard input: WAV, or `raw`. Raises MayaError for anything else."""
    source = sys.stdin.buffer
    if raw is None:
        if source.read(4) not in (b"RIFF", b"RF64"):
            raise MayaError(
                "a stream on the standard input is WAV, or samples with --raw s16le --rate HZ; leave "
                "--stream out for other files"
            )
        raw = read_wav_header(source)
    yield from pcm_pieces(source, raw, rate)


def _file_pieces(recording: Recording, rate: int) -> Pieces:
    ((_, blocks),) = channel_blocks(recording, rate)
    step = int(_PIECE_SECONDS * rate)
    for block in blocks:
        for piece in block.split(step):
            yield piece.numpy()


def microphone(rate: int) -> Pieces:
    """Samples of the default microphone, without end. Raises MayaError without the package sounddevice or
    without a microphone."""
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:  # OSError: its library PortAudio is missing
        raise MayaError(
            f"--mic needs the package sounddevice ({error}): pip install sounddevice, or pipe audio into -"
        ) from None
    with _listening(sounddevice, rate) as pieces:
        print("listening; Ctrl-C ends", file=sys.stderr, flush=True)
        while True:
            yield pieces()


@contextmanager
def _listening(sounddevice: Any, rate: int) -> Iterator[Callable[[], NDArray[np.float32]]]:
    waiting: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()

    def callback(samples: NDArray[np.float32], *_: Any) -> None:
        waiting.put(samples[:, 0].copy())

    try:
        stream = sounddevice.InputStream(
            samplerate=rate, channels=1, dtype="float32", blocksize=int(_PIECE_SECONDS * rate),
            callback=callback,
        )  # fmt: skip
    except sounddevice.PortAudioError as error:
        raise MayaError(f"no microphone can be opened: {error}") from None
    with stream:
        yield waiting.get


class Printer:
    """Prints the text of one stream while it grows: on a terminal in one line, else what was added, or a JSON
    object for each change. Of a text whose end may still change, a pipe gets the part that stays."""

    def __init__(self, name: str, rate: int, *, as_json: bool, named: bool) -> None:
        self.name, self.rate, self.as_json = name, rate, as_json
        self.prefix = f"{' '.join(name.split())}\t" if named else ""
        self.shown, self.samples, self.begun = "", 0, False

    def show(self, hyp: Hypothesis, samples: int, stable: str | None = None) -> None:
        """The hypothesis after so many more samples. stable: the part of its text that stays; None: it
        only grows."""
        self.samples += samples
        text = hyp.text if stable is None or self.as_json or sys.stdout.isatty() else stable
        if text != self.shown:
            self._write(text, final=False, stable=stable)

    def finish(self, hyp: Hypothesis) -> None:
        """The last hypothesis."""
        self._write(hyp.text, final=True)

    def _write(self, text: str, *, final: bool, stable: str | None = None) -> None:
        if self.as_json:
            row = {"id": self.name, "seconds": round(self.samples / self.rate, 3), "text": text,
                   "final": final}  # fmt: skip
            row |= {} if stable is None else {"stable": len(stable)}
            print(json.dumps(row, ensure_ascii=False), flush=True)
        else:
            print(self._addition(text), end="\n" if final else "", flush=True)
        self.shown, self.begun = text, True

    def _addition(self, text: str) -> str:
        if not self.begun:
            return self.prefix + text
        if text.startswith(self.shown):
            return text[len(self.shown) :]
        # What was printed changes: on a terminal the line is written anew, elsewhere on a new line.
        return ("\r\x1b[K" if sys.stdout.isatty() else "\n") + self.prefix + text
