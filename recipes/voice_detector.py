"""A voice detector of one's own: a run of egs/vad wherever `--vad` names a detector."""

import argparse
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor

import maya
from maya.audio.vad.config import Detector
from maya.audio.vad.detector import LOADERS
from maya.encoders import Encoded, RecurrentEncoder
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.heads import EventHead
from maya.models.speech_model import SpeechModel

SPEECH = "speech"  # the class of the events head
_AT_ONCE = 3000  # windows, a minute: bounds the memory of a long block


class TrainedVAD:
    """Probabilities of speech from a model with a recurrent encoder and an events head with the class
    "speech". The interface is that of `maya.audio.vad.silero.SileroVAD`; a window is an encoder frame.

    Raises MayaError for another model, and for features that need samples after a frame's own.
    """

    def __init__(self, model: SpeechModel) -> None:
        features, encoder = model.cfg.features, model.encoder
        heads = [h for h in model.named_heads().values() if isinstance(h, EventHead)]
        heads = [h for h in heads if SPEECH in h.cfg.classes and h.cfg.layers == "last"]
        if not isinstance(encoder, RecurrentEncoder) or not heads:
            raise MayaError(f"it has no recurrent encoder with an events head of the class {SPEECH!r}")
        if (
            not isinstance(features, LogMelConfig)
            or features.normalize != "none"
            or features.legacy
            or features.window_ms > 2 * features.hop_ms
        ):
            raise MayaError(
                "its features look ahead: train it with normalize=none and a window of two hops at most"
            )
        self.model, self.encoder, self.head = model, encoder, heads[0]
        self.column = self.head.cfg.classes.index(SPEECH)
        self.rate: int = features.sample_rate
        self.hop: int = features.hop_samples
        self.window: int = self.hop * encoder.cfg.subsampling_factor

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The last two hops of samples (B, 2 · hop), and the encoder's state."""
        return torch.zeros(batch, 2 * self.hop), self.encoder.initial_state(batch)

    @torch.no_grad()
    def __call__(self, audio: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """audio (B, T * window), the next T windows of each stream → probabilities (B, T), state."""
        parts = [audio.new_zeros(len(audio), 0)]
        for piece in audio.split(_AT_ONCE * self.window, 1) if audio.shape[1] else ():
            probabilities, state = self._piece(piece, state)
            parts.append(probabilities)
        return torch.cat(parts, 1), state

    def _piece(self, audio: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        before, memory = state
        extended = torch.cat([before, audio], 1)
        lens = torch.full((len(audio),), extended.shape[1])
        feats, _ = self.model.features(extended, lens)
        encoded, memory = self.encoder.step(feats[:, 2:], memory)
        outputs = self.head(Encoded(encoded.frames, encoded.lens))[..., self.column].sigmoid()
        probabilities = outputs.view(len(outputs), -1, self.head.cfg.upsampling).mean(-1)
        return probabilities, (extended[:, -2 * self.hop :].clone(), memory)


def load_trained(path: str) -> TrainedVAD:
    """The detector of a run folder or a checkpoint. Raises MayaError for anything else."""
    model = maya.load(path, "cpu").model
    try:
        return TrainedVAD(model)
    except MayaError as error:
        raise MayaError(f"{path} is no voice detector: {error}; see egs/vad") from None


LOADERS["trained"] = load_trained


def detector_name(text: str) -> str:
    """The type of the argument --vad."""
    if text == "trained":
        raise argparse.ArgumentTypeError("give the folder of the trained detector instead of its kind")
    return text


def detector_of(text: str) -> tuple[Detector, str]:
    """(detector, weights) of what `--vad` names: a detector's name, or a run. Raises MayaError
    for a run that is not there."""
    if text in get_args(Detector):
        return cast(Detector, text), ""
    if not Path(text).exists():
        names = [name for name in get_args(Detector) if name != "trained"]
        raise MayaError(
            f"--vad takes {', '.join(names)}, off, or the folder of a trained detector; there is no {text!r}"
        )
    return "trained", text
