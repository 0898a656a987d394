"""The ways in which a model can have heard a speaker before it is asked to recognise that speaker.

    as trained             nothing is remembered of what was heard
    no update              LaCT whose fast weights do not even learn from the utterance itself
    LaCT, carried          each utterance begins with the fast weights that the last one heard has left
    LaCT, one recording    what was heard stands before the question, as if it were all one utterance
    LoRA, all weights      tuned to what was heard: labelled, with its texts; unlabelled, with the texts that
                           the model itself found

The first four and unlabelled tuning need no transcript; labelled tuning does, and is kept apart.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.data.loading.batch import Batch, make_batch
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded, LaCT
from maya.errors import MayaError
from maya.kernels.lact import FastWeights
from maya.models.speech_model import SpeechModel
from maya.recipes.adaptation_report import START, Answer
from maya.train.tune import TuneConfig, tune

RATES = {"lora": (1e-4, 3e-4, 1e-3, 3e-3), "all": (1e-5, 3e-5, 1e-4, 3e-4)}


@dataclass(kw_only=True, slots=True)
class Speaker:
    """What one speaker says: `heard` comes first, `asked` is what is to be recognised after it.

    Audio is (N,) float32 in [-1, 1] at `sample_rate` Hz, the model's. No recording is in both.
    """

    name: str
    language: str
    sample_rate: int
    heard: list[tuple[Tensor, str]]
    asked: list[tuple[Tensor, str]]

    def prefix(self, seconds: float) -> list[tuple[Tensor, str]]:
        """As many of the utterances heard as come nearest to `seconds`, one at least."""
        ends = np.cumsum([len(audio) for audio, _ in self.heard]) / self.sample_rate
        return self.heard[: 1 + int(np.abs(ends - seconds).argmin())]


Encode = Callable[[list[Tensor]], tuple[Tensor, Tensor]]  # audio, (N,) each -> (B, S, D), lengths (B,)


class Listener:
    """A model and one speaker, and the ways in which it can have heard that speaker before it is asked."""

    def __init__(self, recognizer: Recognizer, speaker: Speaker, method: str) -> None:
        if speaker.sample_rate != recognizer.sample_rate:
            raise MayaError(
                f"the speech of {speaker.name} is at {speaker.sample_rate} Hz, and the model takes "
                f"{recognizer.sample_rate} Hz: resample it"
            )
        self.recognizer, self.speaker = recognizer, speaker
        self.head = recognizer.choose_method(method).heads[0]
        self.model = recognizer.model
        languages = self.model.cfg.languages
        if speaker.language not in languages:
            raise MayaError(f"the model does not know {speaker.language!r}, it knows {', '.join(languages)}")
        self.lang = languages.index(speaker.language)

    def answers(self, encode: Encode, model: SpeechModel | None = None) -> list[tuple[str, str]]:
        """(text, what was recognised) of all that is asked."""
        asked = self.speaker.asked
        found = self._decode(model or self.model, *encode([audio for audio, _ in asked]))
        return [(text, hyp) for (_, text), hyp in zip(asked, found, strict=True)]

    def plain(self, model: SpeechModel | None = None) -> Encode:
        """Each utterance by itself."""
        chosen = model or self.model
        return lambda audio: chosen.encode_audio(*_padded(audio))

    def carried(self, heard: Iterable[Tensor]) -> Encode:
        """Each utterance from the fast weights that those heard, one after the other, have left."""
        encoder, weights = self._lact(), None
        for audio in heard:
            _, _, weights = encoder.adapt(*self.model.features(*_padded([audio])), weights)
        assert weights is not None
        return lambda audio: encoder.adapt(
            *self.model.features(*_padded(audio)), [_for_all(w, len(audio)) for w in weights]
        )[:2]

    def one_recording(self, heard: Iterable[Tensor]) -> Encode:
        """Each utterance with those heard before it in one input; only its own frames are read.

        Features are normalised utterance by utterance, as alone, and stand at multiples of an encoder frame.
        """
        encoder = self._lact()
        factor = encoder.cfg.subsampling_factor
        before = torch.cat([self._whole_frames(audio, factor) for audio in heard])

        def encode(audio: list[Tensor]) -> tuple[Tensor, Tensor]:
            feats, lens = self.model.features(*_padded(audio))
            feats = torch.cat([before.expand(len(audio), -1, -1), feats], 1)
            enc, enc_lens = encoder(feats, lens + len(before))
            skipped = len(before) // factor
            return enc[:, skipped:], enc_lens - skipped

        return encode

    def _whole_frames(self, audio: Tensor, factor: int) -> Tensor:
        """(N,) -> features (T, F), T rounded down to a multiple of `factor`."""
        feats, lens = self.model.features(*_padded([audio]))
        return feats[0, : int(lens[0]) // factor * factor]

    def batch(self, heard: Sequence[tuple[Tensor, str]], *, labelled: bool) -> Batch:
        """What tuning learns from: the texts as they are, or as the model recognises them."""
        audio = [samples for samples, _ in heard]
        texts = [text for _, text in heard]
        if not labelled:
            texts = self._decode(self.model, *self.plain()(audio))
        tokens = self.recognizer.tokenizer.encode_batch(texts, [self.speaker.language] * len(texts))
        names = [f"{self.speaker.name}-{i}" for i in range(len(texts))]
        return make_batch(
            audio, tokens, [self.lang] * len(texts), names, sample_rate=self.speaker.sample_rate
        )

    def _decode(self, model: SpeechModel, heard: Tensor, lens: Tensor) -> list[str]:
        langs = torch.full((len(heard),), self.lang)
        hyps = greedy(model, Encoded(heard, lens), self.head, langs)
        return [self.recognizer.tokenizer.decode(hyp.tokens) for hyp in hyps]

    def without_update(self) -> list[tuple[str, str]]:
        """Answers of a LaCT that learns nothing, not even from the utterance itself."""
        cfg = self._lact().cfg
        before, cfg.update_at_test = cfg.update_at_test, False
        try:
            return self.answers(self.plain())
        finally:
            cfg.update_at_test = before

    def _lact(self) -> LaCT:
        encoder = self.model.encoder
        assert isinstance(encoder, LaCT)
        return encoder


def _padded(audio: list[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_sequence(audio, batch_first=True), torch.tensor([len(a) for a in audio])


def _for_all(weights: FastWeights, rows: int) -> FastWeights:
    return FastWeights(*(None if w is None else w.expand(rows, *w.shape[1:]) for w in weights))  # type: ignore[arg-type]


def compare(
    listener: Listener, run: str, seconds: Sequence[float], rates: dict[tuple[str, bool], float]
) -> list[Answer]:
    """All ways of having heard one speaker, for one model; `rates` by kind of tuning and whether labelled."""
    speaker, found = listener.speaker, []

    def add(way: str, labelled: bool, asked: float, pairs: list[tuple[str, str]]) -> None:
        heard = sum(len(a) for a, _ in speaker.prefix(asked)) / speaker.sample_rate if asked else 0.0
        found.append(Answer(run=run, speaker=speaker.name, language=speaker.language, way=way,
                            labelled=labelled, asked_seconds=asked, seconds=heard, pairs=pairs))  # fmt: skip

    with torch.inference_mode():
        add(START, False, 0, listener.answers(listener.plain()))
        if isinstance(listener.model.encoder, LaCT):
            add("no update", False, 0, listener.without_update())
            for asked in seconds:
                heard = [audio for audio, _ in speaker.prefix(asked)]
                add("LaCT, carried", False, asked, listener.answers(listener.carried(heard)))
                add("LaCT, one recording", False, asked, listener.answers(listener.one_recording(heard)))
    for (weights, labelled), rate in rates.items():
        way = "LoRA" if weights == "lora" else "all weights"
        for asked in seconds:
            add(way, labelled, asked, _tuned(listener, asked, weights, labelled, rate))
    return found


def _tuned(
    listener: Listener, asked: float, weights: Any, labelled: bool, rate: float
) -> list[tuple[str, str]]:
    with torch.inference_mode():
        batch = listener.batch(listener.speaker.prefix(asked), labelled=labelled)
    # Tensors made in inference mode may not be learnt from.
    batch = make_batch(
        [a[:n].clone() for a, n in zip(batch.audio, batch.audio_lens.tolist(), strict=True)],
        [t[:n].numpy() for t, n in zip(batch.tokens, batch.token_lens.tolist(), strict=True)],
        batch.langs.tolist(), batch.ids, sample_rate=batch.sample_rate,
    )  # fmt: skip
    model = tune(listener.model, batch, TuneConfig(weights=weights, lr=rate))
    with torch.inference_mode():
        return listener.answers(listener.plain(model), model)


def choose_rates(
    recognizer: Recognizer, speakers: Sequence[Speaker], seconds: float, method: str
) -> dict[tuple[str, bool], float]:
    """For each kind of tuning, labelled and not, the rate with the fewest word errors on `speakers`."""
    chosen = {}
    for weights, labelled in itertools.product(RATES, (False, True)):
        errors = {}
        for rate in RATES[weights]:
            answers = [
                Answer(run="", speaker=s.name, language=s.language, way=weights, labelled=labelled,
                       asked_seconds=seconds, seconds=seconds,
                       pairs=_tuned(Listener(recognizer, s, method), seconds, weights, labelled, rate))
                for s in speakers
            ]  # fmt: skip
            errors[rate] = sum(a.stats.errors for a in answers)
        chosen[weights, labelled] = min(errors, key=lambda rate: errors[rate])
        kind = "labelled" if labelled else "unlabelled"
        print(f"tuning {weights}, {kind}: errors on dev by rate {errors}", flush=True)
    return chosen
