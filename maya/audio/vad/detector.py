"""Speech spans of recordings and of audio that is still coming, at any sampling rate."""

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maya.audio.resampling import ResamplingStream
from maya.audio.vad.config import VADConfig
from maya.audio.vad.energy import EnergyVAD
from maya.audio.vad.silero import load_silero, packaged_weights
from maya.audio.vad.spans import SpanTracker, SpeechSpan
from maya.errors import MayaError

log = logging.getLogger(__name__)

LOADERS: dict[str, Callable[[str], Any]] = {}  # by detector, from its weights; of code above this folder
_loading = threading.Lock()  # recordings are read in several threads


def vad_model(detector: str = "auto", weights: str = "") -> Any:
    """The model of a configuration, `SileroVAD`, `EnergyVAD` or what `LOADERS` has; which one is logged once.

    Raises MayaError where silero is asked for and its weights are missing.
    """
    with _loading:
        return load_vad(detector, weights)


@functools.cache
def load_vad(detector: str, weights: str) -> Any:
    """As `vad_model`, for one thread."""
    if detector in LOADERS:
        log.info("voice activity by %s", weights)
        return LOADERS[detector](weights)
    if detector == "trained":
        raise MayaError("a trained voice detector is loaded by maya.recipes.voice_detector: import it first")
    if detector == "energy" or (detector == "auto" and not weights and packaged_weights() is None):
        hint = "" if detector == "energy" else "; for silero's network: pip install silero-vad"
        log.info("voice activity by energy%s", hint)
        return EnergyVAD()
    model = load_silero(weights)
    log.info("voice activity by silero's network")
    return model


class SpeechDetector:
    """Spans of one stream of audio: `push` samples as they come, then `finish`.

    The spans are those of the whole recording, however it is divided. Memory is constant.
    """

    def __init__(self, cfg: VADConfig | None = None, sample_rate: int = 16000) -> None:
        self.cfg = cfg or VADConfig()
        self.model = vad_model(self.cfg.detector, self.cfg.weights)
        self.sample_rate = sample_rate
        self._begin()

    def _begin(self) -> None:
        rate = self.model.rate
        self._resampler = ResamplingStream(self.sample_rate, rate)
        self.tracker = SpanTracker(self.cfg, window=self.model.window, rate=rate)
        self._state = self.model.initial_state(1)
        self._rest = torch.zeros(0)
        self._samples = 0  # at the model's rate

    @property
    def speaking(self) -> bool:
        """Whether speech has begun that has not ended yet."""
        return self.tracker.speaking

    @property
    def settled(self) -> float:
        """Seconds before which no span that is still to come begins."""
        return self.tracker.settled

    def push(self, samples: Tensor) -> list[SpeechSpan]:
        """(n,) float in [-1, 1] at `sample_rate` -> the spans that are certain now."""
        return self._push(torch.from_numpy(self._resampler.push(samples.numpy())))

    @staticmethod
    def push_each(detectors: "Sequence[SpeechDetector]", samples: Sequence[Tensor]) -> None:
        """`push` for detectors of one configuration as one batch; their spans are left out."""
        audio = [
            detector._whole_windows(torch.from_numpy(detector._resampler.push(own.numpy())))
            for detector, own in zip(detectors, samples, strict=True)
        ]
        for size in sorted({len(own) for own in audio} - {0}):
            rows = [row for row, own in enumerate(audio) if len(own) == size]
            states = zip(*(detectors[row]._state for row in rows), strict=True)
            batch = torch.stack([audio[row] for row in rows])
            probabilities, state = detectors[0].model(batch, tuple(torch.cat(parts) for parts in states))
            for place, row in enumerate(rows):
                detectors[row]._state = tuple(part[place : place + 1] for part in state)
                detectors[row].tracker.push(probabilities[place].tolist())

    def finish(self) -> list[SpeechSpan]:
        """The end of the audio -> the remaining spans. The detector then takes the next recording."""
        spans = self._push(torch.from_numpy(self._resampler.finish()))
        if len(self._rest):
            padded = torch.zeros(self.model.window)
            padded[: len(self._rest)] = self._rest
            spans += self._track(padded)
        spans += self.tracker.finish(self._samples)
        self._begin()
        return spans

    def _push(self, samples: Tensor) -> list[SpeechSpan]:
        return self._track(self._whole_windows(samples))

    def _whole_windows(self, samples: Tensor) -> Tensor:
        """The samples of the windows that are complete now; the rest waits."""
        self._samples += len(samples)
        audio = torch.cat([self._rest, samples])
        whole = len(audio) // self.model.window * self.model.window
        self._rest = audio[whole:].clone()
        return audio[:whole]

    def _track(self, audio: Tensor) -> list[SpeechSpan]:
        if len(audio) == 0:  # MKL refuses a Fourier transform of nothing
            return []
        probabilities, self._state = self.model(audio[None], self._state)
        return self.tracker.push(probabilities[0].tolist())


def speech_spans(audio: Tensor, sample_rate: int = 16000, cfg: VADConfig | None = None) -> list[SpeechSpan]:
    """The spans of speech in audio (N,), float in [-1, 1], in seconds and in order.

    Raises MayaError where `cfg` asks for silero's network and its weights are missing.
    """
    detector = SpeechDetector(cfg, sample_rate)
    return detector.push(audio) + detector.finish()
