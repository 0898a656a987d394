"""A trained model ready to use: audio in, hypotheses out. What `maya.load` returns."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.audio.load import as_audio, load_audio
from maya.decode.attention_beam import attention_beam
from maya.decode.ctc import greedy_ctc_of
from maya.decode.greedy import greedy_rnnt, greedy_tdt
from maya.decode.head_choice import Choice, TrainedHeads
from maya.decode.hypothesis import Hypothesis
from maya.decode.streaming import RecognizerStream
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.models.text_heads import HEADS, Head, heads_of
from maya.text.languages import language_among
from maya.text.tokenizer import Tokenizer

Method = Literal["transducer", "ctc", "attention", "auto"]
"""The head that decodes; "auto" is the best on dev of those that were trained."""
Audio = str | Path | np.ndarray | Tensor


def decode_frames(
    model: SpeechModel, enc: Tensor, enc_lens: Tensor, *, method: Head = "transducer", max_symbols: int = 10
) -> list[Hypothesis]:
    """Greedy hypotheses (tokens, no text yet) for encoder output enc (B, S, D), enc_lens (B,).

    In place of a transducer that the model lacks, its CTC head decodes, or else its attention decoder. Raises
    MayaError for "ctc" and "attention" where the model lacks that head. Whether a head was trained is not
    checked here: see `Recognizer.choose_head`.
    """
    cfg = model.cfg
    if method == "attention" and not cfg.attention_weight:
        raise MayaError("this model has no attention decoder; decode with its transducer or CTC head")
    if method == "attention" or (cfg.transducer == "none" and not cfg.ctc_weight):
        return attention_beam(enc, enc_lens, model.attention_decoder, beam=1)
    if method == "ctc" or cfg.transducer == "none":
        if cfg.ctc_weight == 0:
            raise MayaError("this model has no CTC head; decode with its transducer")
        return greedy_ctc_of(model.ctc_decoder, enc, enc_lens, blank=model.blank)
    if cfg.transducer in ("rnnt", "pruned"):
        return greedy_rnnt(
            enc, enc_lens, model.decoder, model.joint, blank=model.blank, max_symbols=max_symbols
        )
    return greedy_tdt(
        enc,
        enc_lens,
        model.decoder,
        model.joint,
        durations=cfg.durations,
        blank=model.blank,
        max_symbols=max_symbols,
    )


def identify_languages(model: SpeechModel, heard: Tensor, enc_lens: Tensor) -> tuple[Tensor, Tensor]:
    """What `model.listen` returned → the likeliest languages, indices (B,), and their probabilities (B,)."""
    probability, langs = model.identify(heard, enc_lens).exp().max(-1)
    return langs, probability


@dataclass(kw_only=True, slots=True)
class Recognizer:
    """A model with its tokenizer, on one device, in evaluation mode.

    heads: which heads were trained, and their dev scores; None: all of them were, scores unknown.
    """

    model: SpeechModel
    tokenizer: Tokenizer
    device: torch.device
    heads: TrainedHeads | None = None
    _logged: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def trained_heads(self) -> TrainedHeads:
        """Which heads the model has, which of them were trained, and their dev scores."""
        if self.heads is not None:
            return self.heads
        heads = heads_of(self.model.cfg)
        return TrainedHeads(heads=heads, trained=heads)

    def choose_head(self, method: Method = "auto", among: Sequence[Head] = HEADS) -> Choice:
        """The head that `method` means, and why: for "auto" the best of `among`, which the log says once.

        Raises MayaError for a head that the model lacks or that was never trained, and for "auto" where none
        was trained.
        """
        heads = self.trained_heads()
        if method != "auto":
            heads.require(method, f"method {method!r}")
            return Choice(head=method, reason="as asked")
        choice = heads.best(among)
        line = f"decoding with {choice.head}: {choice.reason}"
        if line not in self._logged and len(heads.heads) > 1:
            self._logged.add(line)
            logging.getLogger(__name__).info(line)
        return choice

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
            return self.model.encode(audio.to(self.device), audio_lens.to(self.device), langs)

    def transcribe(
        self,
        audio: Sequence[Audio] | Audio,
        language: str | None = None,
        *,
        method: Method = "auto",
        max_seconds_per_batch: float = 120.0,
    ) -> list[Hypothesis]:
        """Transcribe files (wav, flac, ogg, opus, mp3; any rate) or arrays, in order; one item works too.

        Files are resampled to the model's `sample_rate`. Arrays must be at it: (N,) float in [-1, 1], or
        int16, int32, int8 or uint8, which are scaled by their type.

        `language` is a code such as "hi" ("hi-IN" and "Hindi" are understood); "auto" identifies the language
        of each utterance first, then decodes in it, and the hypotheses carry it with its probability; None
        decodes without one. `method` is the head that decodes; "auto" takes the best on dev of those that
        were trained. Raises MayaError for a file that cannot be read, for a language the model does not know,
        for "auto" as language with a model that cannot tell languages apart, and for a head that the model
        lacks or that was never trained.
        """
        if isinstance(audio, (str, Path)) or (isinstance(audio, (np.ndarray, Tensor)) and audio.ndim == 1):
            audio = [audio]
        language = self.known_language(language)
        head = self.choose_head(method).head
        rate = self.sample_rate
        samples = {i: _samples(a, rate, i) for i, a in enumerate(audio)}
        found: dict[int, Hypothesis] = {}
        for batch in _batches({i: len(s) for i, s in samples.items()}, max_seconds_per_batch * rate):
            hyps = self._run([samples.pop(i) for i in batch], language, head)
            found |= dict(zip(batch, hyps, strict=True))
        for i, hyp in found.items():
            hyp.id = str(audio[i]) if isinstance(audio[i], (str, Path)) else str(i)
        return [found[i] for i in range(len(audio))]

    def _run(self, samples: list[Tensor], language: str | None, head: Head) -> list[Hypothesis]:
        """Hypotheses of audio (N,) each. `samples` is emptied, as hours of it are large."""
        known = self.model.cfg.languages
        with torch.inference_mode():
            feats, feat_lens = self._features_of(samples)
            heard, enc_lens = self.model.encoder(feats, feat_lens)
            del feats
            if language == "auto":
                langs, probabilities = identify_languages(self.model, heard, enc_lens)
            else:
                index = -1 if language is None else known.index(language)
                langs = torch.full((len(heard),), index, device=self.device)
            enc = self.model.with_language(heard, langs)
            hyps = decode_frames(self.model, enc, enc_lens, method=head)
        for row, hyp in enumerate(hyps):
            hyp.language = language
            if language == "auto":
                hyp.language, hyp.language_probability = known[int(langs[row])], float(probabilities[row])
        return self.with_text(hyps)

    def _features_of(self, samples: list[Tensor]) -> tuple[Tensor, Tensor]:
        lens = torch.tensor([len(s) for s in samples], device=self.device)
        # One row needs no copy.
        audio = samples[0][None] if len(samples) == 1 else pad_sequence(samples, batch_first=True)
        samples.clear()
        return self.model.features(audio.to(self.device), lens)

    def stream(
        self,
        language: str | None = None,
        *,
        method: Method = "auto",
        context: tuple[int, int] | None = None,
    ) -> RecognizerStream:
        """Recognise audio that is still coming: `accept(samples)` as they come, (n,) float in [-1, 1] at
        `sample_rate`, then `finish()`.

        `context` is one of the encoder's att_context_size, which sets the look-ahead; None takes the first.
        `method` is "transducer", "ctc", or "auto", the better of the two on dev. Raises MayaError for a model
        that cannot stream, for a head that it lacks or that was never trained, for a language that it does
        not know, and for the language "auto", which only a whole recording can tell.
        """
        return RecognizerStream(self, language, method=method, context=context)

    def with_text(self, hyps: list[Hypothesis]) -> list[Hypothesis]:
        """Fill in text and frame length from the tokenizer and the model."""
        for hyp in hyps:
            hyp.text = self.tokenizer.decode(hyp.tokens)
            hyp.frame_seconds = self.model.frame_seconds
        return hyps

    def known_language(self, language: str | None) -> str | None:
        """The model's own code of a language, "auto" and None as they are; MayaError if it has none."""
        languages = self.model.cfg.languages
        if language == "auto":
            self.model.check_identifies()
        elif language is not None:
            language = language_among(language, languages)
            if language not in languages:
                raise MayaError(
                    f"this model does not know the language {language!r}; "
                    f"it knows {', '.join(languages) or 'none by name'}"
                )
        return language


def _batches(sizes: dict[int, int], most: float) -> Iterator[list[int]]:
    """The numbers of audio of like length, short ones first; at most `most` samples with padding, or one."""
    batch: list[int] = []
    for i in sorted(sizes, key=lambda i: sizes[i]):
        if batch and sizes[i] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _samples(audio: Audio, rate: int, index: int) -> Tensor:
    if isinstance(audio, (str, Path)):
        return load_audio(audio, sample_rate=rate)
    try:
        return as_audio(audio, rate)
    except MayaError as error:
        raise MayaError(f"audio {index}: {error}") from None
