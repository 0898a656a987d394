"""A trained model ready to use: audio in, hypotheses out. `maya.load` returns it."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.audio.load import as_audio, load_audio
from maya.data.loading.by_length import batches_by_length
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.buffered import BufferConfig, BufferedStream
from maya.decode.head_choice import TrainedHeads
from maya.decode.hypothesis import Hypothesis, write_texts
from maya.decode.methods import AUTO, METHODS, MethodChoice, choose_method
from maya.decode.predictions import check_identifies, identify, predicting_heads
from maya.decode.streaming import RecognizerStream
from maya.errors import MayaError
from maya.heads.classify import LANGUAGE
from maya.models.speech_model import SpeechModel
from maya.text.languages import language_among
from maya.text.tokenizer import Tokenizer

Audio = str | Path | np.ndarray | Tensor


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name; "auto" is the first GPU, else the CPU. Raises MayaError for a device that torch
    does not know or that this machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise MayaError(f"this machine has no device {str(name)!r}; give auto, cpu, cuda or cuda:N") from None
    return device


@dataclass(kw_only=True, slots=True)
class Recognizer:
    """A model with its tokenizer, on one device, in evaluation mode.

    heads: which text heads were trained, and their dev scores; None: all of them were, scores unknown.
    """

    model: SpeechModel
    tokenizer: Tokenizer
    device: torch.device
    heads: TrainedHeads | None = None
    _logged: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def trained_heads(self) -> TrainedHeads:
        """The model's text heads, the trained ones among them, and their dev scores."""
        names = tuple(self.model.cfg.text_heads)
        return self.heads or TrainedHeads(heads=names, trained=names)

    def choose_method(self, name: str = AUTO, *, stream: bool = False) -> MethodChoice:
        """As `maya.decode.methods.choose_method`. The choice that "auto" means is logged once."""
        heads = self.trained_heads()
        choice = choose_method(name, self.model.cfg, heads, stream=stream)
        line = f"decoding with {choice.heads[0]}: {choice.reason}"
        if name == AUTO and len(heads.heads) > 1 and line not in self._logged:
            self._logged.add(line)
            logging.getLogger(__name__).info(line)
        return choice

    def make_method(
        self,
        choice: MethodChoice,
        options: MethodConfig | None = None,
        texts: Callable[[], Iterable[tuple[str, Sequence[int]]]] | None = None,
    ) -> Method:
        """A method ready to decode. options: by default those of greedy search where the method has them.
        texts: see `MethodContext`."""
        cls = METHODS[choice.method]
        options = options or cls(**(cls.greedy or {}))
        method: Method = options.build(MethodContext(model=self.model, heads=choice.heads, texts=texts))
        return method

    @property
    def sample_rate(self) -> int:
        """Hz of the audio that the model takes: `features.sample_rate` of its configuration."""
        rate: int = self.model.cfg.features.sample_rate
        return rate

    def features(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """audio (B, N) float in [-1, 1] at the model's rate, audio_lens (B,) samples → (B, T, F), (B,)."""
        with torch.inference_mode():
            return self.model.features(audio.to(self.device), audio_lens.to(self.device))

    def encode(self, audio: Tensor, audio_lens: Tensor, langs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """audio (B, N) at the model's rate, audio_lens (B,), langs (B,) indices into the model's languages
        → (B, S, D), (B,)."""
        langs = langs.to(self.device) if langs is not None else None
        with torch.inference_mode():
            encoded = self.model.encode(audio.to(self.device), audio_lens.to(self.device), langs)
        return encoded.frames, encoded.lens

    def transcribe(
        self,
        audio: Sequence[Audio] | Audio,
        language: str | None = None,
        *,
        method: str = AUTO,
        max_seconds_per_batch: float = 120.0,
    ) -> list[Hypothesis]:
        """Transcribe files (wav, flac, ogg, opus, mp3; any rate) or arrays, in order; a single item works
        too.

        Files are resampled to the model's `sample_rate`. Arrays must be at it: (N,) float in [-1, 1], or
        int16, int32, int8 or uint8, which are scaled by their type.

        `language` is a code such as "hi" ("hi-IN" and "Hindi" are understood). "auto" identifies the language
        of each utterance first, then decodes in it; the hypotheses hold it with its probability. None decodes
        without a language. `method` is the name of a decoding method or of a text head; "auto" is the greedy
        method of the trained head that is best on dev. Raises MayaError for a file that cannot be read, for a
        language that the model does not know, for "auto" as language with a model that cannot identify
        languages, and for a method whose head the model lacks or that was never trained.
        """
        if isinstance(audio, (str, Path)) or (isinstance(audio, (np.ndarray, Tensor)) and audio.ndim < 2):
            audio = [audio]
        language = self.model_language(language)
        decoder = self.make_method(self.choose_method(method))
        rate = self.sample_rate
        samples = {i: _samples(item, rate, i) for i, item in enumerate(audio)}
        lengths = [len(samples[i]) for i in range(len(samples))]
        hyps: dict[int, Hypothesis] = {}
        for batch in batches_by_length(lengths, max_seconds_per_batch * rate):
            rows = self._transcribe_batch([samples.pop(i) for i in batch], language, decoder)
            hyps |= dict(zip(batch, rows, strict=True))
        for i, hyp in hyps.items():
            hyp.id = str(audio[i]) if isinstance(audio[i], (str, Path)) else str(i)
        return [hyps[i] for i in range(len(audio))]

    def _transcribe_batch(
        self, samples: list[Tensor], language: str | None, decoder: Method
    ) -> list[Hypothesis]:
        """Hypotheses of audio (N,) each. `samples` is emptied, as hours of it are large."""
        languages, rows = self.model.cfg.languages, len(samples)
        with torch.inference_mode():
            lens = torch.tensor([len(s) for s in samples], device=self.device)
            # A single row needs no copy.
            audio = samples[0][None] if rows == 1 else pad_sequence(samples, batch_first=True)
            samples.clear()
            encoded = self.model.encode_audio(audio.to(self.device), lens, hidden=self.model.hidden)
            del audio
            if language == AUTO:
                langs, predictions = identify(self.model, encoded)
            else:
                index = -1 if language is None else languages.index(language)
                langs, predictions = torch.full((rows,), index, device=self.device), []
            hyps = decoder(encoded, langs)
        for hyp in hyps:
            hyp.language = language
        for hyp, prediction in zip(hyps, predictions, strict=False):
            hyp.language, hyp.language_probability = prediction.label, prediction.probability
        return self.with_text(hyps)

    def stream(
        self, language: str | None = None, *, method: str = AUTO, context: tuple[int, int] | None = None,
        buffer: BufferConfig | None = None,
    ) -> RecognizerStream:  # fmt: skip
        """Recognise audio that is still coming: `accept(samples)` as they come, (n,) float in [-1, 1] at
        `sample_rate`, then `finish()`.

        `context` sets the look-ahead: one of the encoder's att_context_size, of a Zipformer frames of left
        context and of a chunk; None takes the first of the configuration. `buffer` is for encoders that
        cannot stream: chunks are encoded with so much audio around them, and the stream's `latency_seconds`
        is that of a chunk and the audio after it. `method` is a method that decodes streams; "auto" is that
        of the best head on dev among those that can stream. Raises MayaError for a model or a method that
        cannot stream, for a head that the model lacks or that was never trained, for a language that it does
        not know, and for the language "auto", which only a whole recording can tell.
        """
        if language == AUTO:
            raise MayaError(_no_streamed_identification(self.model))
        language = self.model_language(language)
        decoder = self.make_method(self.choose_method(method, stream=True))
        if buffer is not None:
            return BufferedStream(decoder, self.tokenizer, buffer, language=language)
        return RecognizerStream(decoder, self.tokenizer, language=language, context=context)

    def with_text(self, hyps: list[Hypothesis]) -> list[Hypothesis]:
        """Set text and frame length from the tokenizer and the model."""
        return write_texts(hyps, self.tokenizer, self.model.frame_seconds)

    def model_language(self, language: str | None) -> str | None:
        """The model's own code of a language; "auto" and None as they are. Raises MayaError for a language
        that the model does not know, and for "auto" if it cannot identify languages."""
        languages = self.model.cfg.languages
        if language == AUTO:
            check_identifies(self.model)
        elif language is not None:
            language = language_among(language, languages)
            if language not in languages:
                raise MayaError(
                    f"this model does not know the language {language!r}; "
                    f"it knows {', '.join(languages) or 'none by name'}"
                )
        return language


def _no_streamed_identification(model: SpeechModel) -> str:
    languages = ", ".join(model.cfg.languages)
    ways = [f"name one of {languages}" if languages else "", "leave the language out"]
    if LANGUAGE in predicting_heads(model):
        ways.append("transcribe the whole recording with language='auto'")
    return (
        "a stream cannot identify the language, because it decodes from the first frame on: "
        + ", or ".join(way for way in ways if way)
    )


def _samples(audio: Audio, rate: int, index: int) -> Tensor:
    if isinstance(audio, (str, Path)):
        return load_audio(audio, sample_rate=rate)
    try:
        return as_audio(audio, rate)
    except MayaError as error:
        raise MayaError(f"audio {index}: {error}") from None
