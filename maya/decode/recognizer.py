"""A trained model ready to use: audio in, hypotheses out. `maya.load` returns it."""

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.audio.byte_ranges import ByteRange
from maya.decode.adapt import Adaptation, AdaptConfig, SourceStatistics
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.by_language import build_method, is_by_language, model_of_language
from maya.decode.calibration import Calibration
from maya.decode.fusion import Fusion
from maya.decode.head_choice import TrainedHeads
from maya.decode.hypothesis import Hypothesis, write_texts
from maya.decode.long.buffered import BufferConfig
from maya.decode.long.long_audio import LongAudioConfig, make_joiner, pieces
from maya.decode.methods import AUTO, METHODS, MethodChoice, aligning_head, choose_method
from maya.decode.predictions import check_identifies, identify, predict, predicting_heads
from maya.decode.streaming import RecognizerStream
from maya.decode.transcription import (
    Audio,
    Cutting,
    Decoded,
    Recording,
    Transcript,
    Transcription,
    TranscriptionConfig,
    as_recording,
)
from maya.decode.word_edges import Levels, levels_of_rows
from maya.decode.words import WordRules, make_words, write_words
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import Prediction
from maya.heads.classify import LANGUAGE
from maya.models.speaker_memory import encode_after
from maya.models.speech_model import SpeechModel
from maya.text.languages import language_among
from maya.text.tokenizer import Tokenizer

_LONG_ROW = 2**21  # samples, two minutes


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
    calibration: of word times and confidences, see `maya calibrate`.
    adapter: what the model adapts with at test time, see `adapted`; None: it stays as it is.
    """

    model: SpeechModel
    tokenizer: Tokenizer
    device: torch.device
    heads: TrainedHeads | None = None
    calibration: Calibration | None = None
    adapter: Adaptation | None = None
    _logged: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def trained_heads(self) -> TrainedHeads:
        """The model's text heads, the trained ones among them, and their dev scores."""
        names = tuple(self.model.cfg.text_heads)
        return self.heads or TrainedHeads(heads=names, trained=names)

    def adapted(self, cfg: AdaptConfig, source: SourceStatistics | None = None) -> "Recognizer":
        """This recognizer, whose transcriptions adapt the model to each utterance first; `adapter.close()`
        ends that. source: for methods that need it. Raises MayaError where the method cannot adapt this
        model, as without a trained CTC head."""
        head = aligning_head(self.model.cfg, self.trained_heads())
        return replace(self, adapter=cfg.build(self.model, head, source))

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
        fusion: Fusion | None = None,
    ) -> Method:
        """A method ready to decode. options: by default those of greedy search where the method has them.
        texts, fusion: see `MethodContext`; `maya.decode.lm.make_fusion` makes a fusion."""
        cls = METHODS[choice.method]
        options = options or cls(**(cls.greedy or {}))
        context = MethodContext(
            model=self.model, heads=choice.heads, texts=texts, fusion=fusion,
            align_by=aligning_head(self.model.cfg, self.trained_heads()), tokenizer=self.tokenizer,
        )  # fmt: skip
        return build_method(options, context)

    def for_language(self, language: str) -> "Recognizer":
        """The model of one language of a model with an output layer for each: an ordinary model on the same
        weights, whose tokens are those of that language's tokenizer. Raises MayaError for an unknown
        language, and for a model without such layers."""
        code = self.model_language(language)
        model, tokenizer = model_of_language(self.model, self.tokenizer, code or "")
        return replace(self, model=model, tokenizer=tokenizer)

    def in_language(self, language: str | None) -> "Recognizer":
        """`for_language` of a model with an output layer for each language; itself otherwise."""
        return self.for_language(language) if language and is_by_language(self.model) else self

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
        max_seconds_per_batch: float = 180.0,
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
        items = _as_list(audio)
        decoder = self.make_method(self.choose_method(method))
        cfg = TranscriptionConfig(max_seconds_per_batch=max_seconds_per_batch, long_audio=None)
        hyps: dict[int, Hypothesis] = {}
        for transcript in self.transcribe_each(items, language, decoder=decoder, cfg=cfg, predictions=False):
            if transcript.hypothesis is None:
                raise MayaError(transcript.error)
            hyps[transcript.place] = transcript.hypothesis
        return [hyps[i] for i in range(len(items))]

    def transcribe_each(
        self,
        audio: Iterable[Audio | Recording],
        language: str | None = None,
        *,
        decoder: Method | None = None,
        cfg: TranscriptionConfig | None = None,
        predictions: bool = True,
    ) -> Generator[Transcript, None, None]:
        """The transcript of each item as it is done, which is not the order of the items.

        An item that cannot be read has an `error` instead of a hypothesis, and the rest goes on. Audio is
        read ahead of decoding by threads, a bounded amount of it, so `audio` may be an iterator without end,
        and recordings may be hours long: only their speech is decoded, in pieces (see `LongAudioConfig`).
        `language` and the errors are as in `transcribe`; the language of a `Recording` comes first. decoder:
        what `make_method` made; None: as "auto" in `transcribe`, or none for a model that only predicts
        labels. predictions: whether to run the heads that predict labels.
        """
        language = self.model_language(language)
        if decoder is None and self.model.cfg.text_heads:
            decoder = self.make_method(self.choose_method())
        elif decoder is None and not predicting_heads(self.model):
            raise MayaError("this model has no trained head that writes text or predicts labels")
        cfg = cfg or TranscriptionConfig()
        long_audio = cfg.long_audio
        transcription = Transcription(
            partial(self._decode_batch, decoder=decoder, predictions=predictions), self.sample_rate,
            self.model_language, cfg=cfg,
            cutting=None if long_audio is None or decoder is None or decoder.reads_audio
            else self._cutting(long_audio, decoder),
        )  # fmt: skip
        return transcription.run(as_recording(item, i, language) for i, item in enumerate(audio))

    def _cutting(self, cfg: LongAudioConfig, decoder: Method) -> Cutting:
        """How recordings are cut, and their words made from the joined tokens."""

        def finish(hyp: Hypothesis, seconds: float) -> Hypothesis:
            if hyp.frames:
                write_words([hyp], self.tokenizer, self.word_rules(decoder.cfg.kind), seconds=[seconds])
            else:  # the method gives no times: those of the pieces remain
                hyp.words = make_words(hyp, self.tokenizer, self.word_rules(decoder.cfg.kind))
            return hyp

        return Cutting(
            pieces=lambda blocks: pieces(self, blocks, cfg),
            joiner=lambda: make_joiner(self, cfg),
            finish=finish,
            remember=cfg.remember,
        )

    def _transcribe_batch(
        self, samples: list[Tensor], language: str | None, decoder: Method
    ) -> list[Hypothesis]:
        """The hypotheses of audio (N,) each; see `_decode_batch`."""
        languages = [language] * len(samples)
        decoded = self._decode_batch(samples, languages, decoder=decoder, predictions=False)
        return [row.hypothesis for row in decoded if row.hypothesis is not None]

    def _transcribe_after(
        self, samples: Tensor, language: str | None, decoder: Method, memory: Any
    ) -> tuple[Hypothesis, Any]:
        """The hypothesis of audio (N,) that continues a recording, and the memory after it; None before."""
        (own,) = self._decode_batch([samples], [language], [memory], decoder=decoder, predictions=False)
        assert own.hypothesis is not None
        return own.hypothesis, own.memory

    def _decode_batch(
        self,
        samples: list[Tensor],
        languages: Sequence[str | None],
        memories: Sequence[Any] | None = None,
        *,
        decoder: Method | None,
        predictions: bool,
    ) -> list[Decoded]:
        """What the model makes of audio (N,) in a language each. `samples` is emptied: hours are large.
        memories: what the encoder has learnt from earlier audio of each row, see `encode_after`."""
        rows = len(samples)
        seconds = [len(s) / self.sample_rate for s in samples]
        with torch.inference_mode():
            lens = torch.tensor([len(s) for s in samples], device=self.device)
            # Features of before NeMo 2.5 mirror the end of the longest row: what is padded has another end.
            mirrors = getattr(self.model.cfg.features, "legacy", False)
            audio = samples[0][None] if rows == 1 and mirrors else _padded(samples)
            samples.clear()
            if decoder is not None and decoder.reads_audio:
                return self._decode_audio(audio, lens, languages, decoder)
            measured = decoder is not None and not decoder.sets_spans
            levels = levels_of_rows(audio, lens, self.sample_rate) if measured else None
            learnt: list[Any] = [None] * rows
            if self.adapter is not None:
                named = self._language_indices(languages)
                encoded = self.adapter.encode(audio.to(self.device), lens, named, self.model.hidden)
            elif memories is None:
                encoded = self.model.encode_audio(audio.to(self.device), lens, hidden=self.model.hidden)
            else:
                feats, feat_lens = self.model.features(audio.to(self.device), lens)
                encoded, learnt = encode_after(
                    self.model.encoder, feats, feat_lens, memories, self.model.hidden
                )
            del audio
            langs, identified = self._languages(encoded, languages)
            labels = predict(self.model, encoded, langs) if predictions else {}
            hyps = decoder(encoded, langs) if decoder is not None else []
        for hyp, language, prediction in zip(hyps, languages, identified, strict=False):
            hyp.language = language
            if prediction is not None:
                hyp.language, hyp.language_probability = prediction.label, prediction.probability
        kind = "" if decoder is None else decoder.cfg.kind
        self.with_text(hyps, method=kind, seconds=seconds, levels=levels)
        return [
            Decoded(
                hypothesis=hyps[i] if hyps else None,
                memory=learnt[i],
                predictions={name: labels[name][i] for name in labels},
            )
            for i in range(rows)
        ]

    def _decode_audio(
        self, audio: Tensor, lens: Tensor, languages: Sequence[str | None], decoder: Method
    ) -> list[Decoded]:
        """What a method makes of recordings (B, N) that it encodes itself. It gives no other labels."""
        codes, auto = self.model.cfg.languages, (None, AUTO)
        named = [-1 if code in auto else codes.index(code) for code in languages]
        hyps = decoder.recordings(audio.to(self.device), lens, torch.tensor(named, device=self.device))
        for hyp, code in zip(hyps, languages, strict=True):
            hyp.language = hyp.language if code in auto else code
        seconds = [size / self.sample_rate for size in lens.tolist()]
        self.with_text(hyps, method=decoder.cfg.kind, seconds=seconds)
        return [Decoded(hypothesis=hyp, memory=None, predictions={}) for hyp in hyps]

    def _languages(
        self, encoded: Encoded, languages: Sequence[str | None]
    ) -> tuple[Tensor, list[Prediction | None]]:
        """Indices (B,) into the model's languages, -1 for none, and the prediction of each row that has the
        language "auto"."""
        langs = self._language_indices(languages)
        if AUTO not in languages:
            return langs, [None] * len(langs)
        indices, predictions = identify(self.model, encoded)
        detected = torch.tensor([code == AUTO for code in languages], device=self.device)
        shown = [p if code == AUTO else None for p, code in zip(predictions, languages, strict=True)]
        return torch.where(detected, indices, langs), shown

    def _language_indices(self, languages: Sequence[str | None]) -> Tensor:
        """(B,) indices into the model's languages, -1 for none and for "auto"."""
        codes = self.model.cfg.languages
        named = [-1 if code in (None, AUTO) else codes.index(code) for code in languages]
        return torch.tensor(named, device=self.device)

    def stream(
        self, language: str | None = None, *, method: str = AUTO, context: tuple[int, int] | None = None,
        buffer: BufferConfig | None = None,
    ) -> RecognizerStream:  # fmt: skip
        """Recognise audio that is still coming: `accept(samples)` as they come, (n,) float in [-1, 1] at
        `sample_rate`, then `finish()`.

        `context` sets the look-ahead: one of the encoder's att_context_size, of a Zipformer frames of left
        context and of a chunk; None takes the first of the configuration. `buffer` is for encoders that
        cannot stream: chunks are encoded with so much audio around them, and the stream's `latency_seconds`
        is that of a chunk and the audio after it; None takes the largest that the model was trained for.
        `method` is a method that decodes streams; "auto" is that of the best head on dev among those that can
        stream. Raises MayaError for a model or a method that
        cannot stream, for a head that the model lacks or that was never trained, for a language that it does
        not know, and for the language "auto", which only a whole recording can tell.
        """
        if language == AUTO:
            raise MayaError(_no_streamed_identification(self.model))
        language = self.model_language(language)
        decoder = self.make_method(self.choose_method(method, stream=True))
        rules = self.word_rules(decoder.cfg.kind)
        return RecognizerStream(
            decoder, self.tokenizer, language=language, context=context, buffer=buffer, rules=rules
        )

    def with_text(
        self, hyps: list[Hypothesis], *, method: str = "", seconds: Sequence[float] | None = None,
        levels: Sequence[Levels] | None = None,
    ) -> list[Hypothesis]:  # fmt: skip
        """Set text, frame length, words and segments. method: whose calibration applies. seconds: of each
        recording, which no word reaches beyond. levels: of its sound, on which words are measured."""
        write_texts(hyps, self.tokenizer, self.model.frame_seconds)
        rules = self.word_rules(method)
        return write_words(hyps, self.tokenizer, rules, seconds=seconds, levels=levels)

    def word_rules(self, method: str) -> WordRules:
        """How words are made of the tokens of a method: corrected where it was calibrated."""
        return WordRules() if self.calibration is None else self.calibration.rules(method)

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


def _as_list(audio: Sequence[Audio] | Audio) -> Sequence[Audio]:
    """A single item as a list of one; the rows of a two-dimensional array as items."""
    if isinstance(audio, (str, Path, bytes, ByteRange)):
        return [audio]
    if isinstance(audio, (np.ndarray, Tensor)):
        return [audio] if audio.ndim < 2 else list(audio)
    return audio


def _padded(samples: list[Tensor]) -> Tensor:
    """(B, N) of rows (n,), padded to one of 8 lengths an octave.

    torch keeps for each shape what oneDNN has prepared for it: with lengths of any kind, the memory of a long
    recording grew by 140 MB in three hours. A single long row is not copied.
    """
    if len(samples) == 1 and len(samples[0]) > _LONG_ROW:
        return samples[0][None]
    longest = max(map(len, samples))
    step = 1 << max(0, longest.bit_length() - 4)
    rows = samples[0].new_empty(len(samples), -(-longest // step) * step)
    for row, own in zip(rows, samples, strict=True):
        row[: len(own)] = own
        row[len(own) :] = 0
    return rows


def _no_streamed_identification(model: SpeechModel) -> str:
    languages = ", ".join(model.cfg.languages)
    ways = [f"name one of {languages}" if languages else "", "leave the language out"]
    if LANGUAGE in predicting_heads(model):
        ways.append("transcribe the whole recording with language='auto'")
    return (
        "a stream cannot identify the language, because it decodes from the first frame on: "
        + ", or ".join(way for way in ways if way)
    )
