"""Ways to adapt a model to a speaker before it recognises that speaker.

    as trained             no adaptation
    no update              LaCT whose fast weights do not learn, not even from the utterance itself
    LaCT, carried          each utterance starts from the fast weights after the adaptation utterances
    LaCT, one recording    the adaptation utterances precede each utterance, as one recording
    LoRA, all weights      tuned on the adaptation utterances: labelled, with their texts; unlabelled, with
                           the texts that the model recognises

Only labelled tuning needs transcripts.
"""

import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.data.loading.batch import Batch, make_batch
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.recipes.adaptation_report import START, Answer
from maya.train.tune import TuneConfig, tune

WAYS = ("carried", "one recording", "tuning")
RATES = {"lora": (1e-4, 3e-4, 1e-3, 3e-3), "all": (1e-5, 3e-5, 1e-4, 3e-4)}


@dataclass(kw_only=True, slots=True)
class Speaker:
    """The utterances of one speaker: (audio, text) each, some for adaptation, others for evaluation.

    Audio is (N,) float32 in [-1, 1] at `sample_rate` Hz, the model's. No recording is in both.
    """

    name: str
    language: str
    sample_rate: int
    adaptation: list[tuple[Tensor, str]]
    evaluation: list[tuple[Tensor, str]]

    def prefix(self, seconds: float) -> list[tuple[Tensor, str]]:
        """The first adaptation utterances, so many that they come nearest to `seconds`; at least one."""
        ends = np.cumsum([len(audio) for audio, _ in self.adaptation]) / self.sample_rate
        return self.adaptation[: 1 + int(np.abs(ends - seconds).argmin())]


Encode = Callable[[list[Tensor]], Encoded]  # audio, (N,) each


class SpeakerModel:
    """A model and one speaker, with the ways to adapt the model to the speaker."""

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
            raise MayaError(f"the model has no language {speaker.language!r}; it has {', '.join(languages)}")
        self.lang = languages.index(speaker.language)

    def answers(self, encode: Encode, model: SpeechModel | None = None) -> list[tuple[str, str]]:
        """(text, hypothesis) of each evaluation utterance."""
        utterances = self.speaker.evaluation
        hypotheses = self._decode(model or self.model, encode([audio for audio, _ in utterances]))
        return [(text, hyp) for (_, text), hyp in zip(utterances, hypotheses, strict=True)]

    def plain(self, model: SpeechModel | None = None) -> Encode:
        """Each utterance by itself."""
        chosen = model or self.model
        return lambda audio: chosen.encode_audio(*_padded(audio))

    def carried(self, earlier: Iterable[Tensor]) -> Encode:
        """Each utterance starts from what the encoder has learnt from the earlier ones, in their order."""
        state: Any = None

        def adapt(audio: list[Tensor]) -> tuple[Encoded, Any]:
            return self.model.encoder.adapt(*self.model.features(*_padded(audio)), state)

        for utterance in earlier:
            _, state = adapt([utterance])
        return lambda audio: adapt(audio)[0]

    def one_recording(self, earlier: Iterable[Tensor]) -> Encode:
        """Each utterance follows the earlier ones in one input; only its own frames are returned.

        Features are normalised utterance by utterance, as alone, and start at multiples of an encoder frame.
        """
        encoder = self.model.encoder
        factor = encoder.cfg.subsampling_factor
        before = torch.cat([self._whole_frames(audio, factor) for audio in earlier])

        def encode(audio: list[Tensor]) -> Encoded:
            feats, lens = self.model.features(*_padded(audio))
            feats = torch.cat([before.expand(len(audio), -1, -1), feats], 1)
            frames, frame_lens = encoder(feats, lens + len(before))
            skipped = len(before) // factor
            return Encoded(frames[:, skipped:], frame_lens - skipped)

        return encode

    def _whole_frames(self, audio: Tensor, factor: int) -> Tensor:
        """(N,) -> features (T, F), T rounded down to a multiple of `factor`."""
        feats, lens = self.model.features(*_padded([audio]))
        return feats[0, : int(lens[0]) // factor * factor]

    def batch(self, utterances: Sequence[tuple[Tensor, str]], *, labelled: bool) -> Batch:
        """The batch for tuning: with the given texts, or with those that the model recognises."""
        audio = [samples for samples, _ in utterances]
        texts = [text for _, text in utterances]
        if not labelled:
            texts = self._decode(self.model, self.plain()(audio))
        tokens = self.recognizer.tokenizer.encode_batch(texts, [self.speaker.language] * len(texts))
        names = [f"{self.speaker.name}-{i}" for i in range(len(texts))]
        return make_batch(
            audio, tokens, [self.lang] * len(texts), names, sample_rate=self.speaker.sample_rate
        )

    def _decode(self, model: SpeechModel, encoded: Encoded) -> list[str]:
        langs = torch.full((len(encoded.frames),), self.lang)
        hyps = greedy(model, encoded, self.head, langs)
        return [self.recognizer.tokenizer.decode(hyp.tokens) for hyp in hyps]

    def without_update(self) -> list[tuple[str, str]]:
        """The answers of a copy whose encoder learns nothing from an utterance."""
        model = copy.deepcopy(self.model)
        model.encoder.stop_updates()
        return self.answers(self.plain(model), model)


def _padded(audio: list[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_sequence(audio, batch_first=True), torch.tensor([len(a) for a in audio])


def compare(
    speaker_model: SpeakerModel, run: str, seconds: Sequence[float], rates: dict[tuple[str, bool], float],
    ways: Collection[str] = WAYS,
) -> list[Answer]:  # fmt: skip
    """The ways to adapt one model to one speaker; `rates`: by kind of tuning and whether labelled."""
    speaker, answers = speaker_model.speaker, []

    def add(way: str, labelled: bool, target: float, pairs: list[tuple[str, str]]) -> None:
        used = sum(len(a) for a, _ in speaker.prefix(target)) / speaker.sample_rate if target else 0.0
        answer = Answer(run=run, speaker=speaker.name, language=speaker.language, way=way,
                        labelled=labelled, target_seconds=target, seconds=used, pairs=pairs)  # fmt: skip
        answers.append(answer)

    with torch.inference_mode():
        add(START, False, 0, speaker_model.answers(speaker_model.plain()))
        if speaker_model.model.encoder.adapts:
            add("no update", False, 0, speaker_model.without_update())
            for target in seconds:
                earlier = [audio for audio, _ in speaker.prefix(target)]
                offered = {"carried": speaker_model.carried, "one recording": speaker_model.one_recording}
                for way in (way for way in offered if way in ways):
                    add(f"LaCT, {way}", False, target, speaker_model.answers(offered[way](earlier)))
    for (weights, labelled), rate in rates.items():
        way = "LoRA" if weights == "lora" else "all weights"
        for target in seconds:
            add(way, labelled, target, _tuned(speaker_model, target, weights, labelled, rate))
    return answers


def _tuned(
    speaker_model: SpeakerModel, target: float, weights: Any, labelled: bool, rate: float
) -> list[tuple[str, str]]:
    with torch.inference_mode():
        batch = speaker_model.batch(speaker_model.speaker.prefix(target), labelled=labelled)
    # Tensors made in inference mode have no gradients.
    batch = make_batch(
        [a[:n].clone() for a, n in zip(batch.audio, batch.audio_lens.tolist(), strict=True)],
        [t[:n].numpy() for t, n in zip(batch.tokens, batch.token_lens.tolist(), strict=True)],
        batch.langs.tolist(), batch.ids, sample_rate=batch.sample_rate,
    )  # fmt: skip
    model = tune(speaker_model.model, batch, TuneConfig(weights=weights, lr=rate))
    with torch.inference_mode():
        return speaker_model.answers(speaker_model.plain(model), model)


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
                       target_seconds=seconds, seconds=seconds,
                       pairs=_tuned(SpeakerModel(recognizer, s, method), seconds, weights, labelled, rate))
                for s in speakers
            ]  # fmt: skip
            errors[rate] = sum(a.stats.errors for a in answers)
        chosen[weights, labelled] = min(errors, key=lambda rate: errors[rate])
        kind = "labelled" if labelled else "unlabelled"
        print(f"tuning {weights}, {kind}: errors on dev by rate {errors}", flush=True)
    return chosen
