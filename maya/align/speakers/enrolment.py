"""Embeddings of whole recordings, and a file of enrolled voices."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from maya.align.speakers.encoder import VoiceEncoder, levelled
from maya.align.speakers.trained import TrainedVoices
from maya.audio.load import load_audio
from maya.errors import MayaError
from maya.files import read_json, write_json

_PIECE_SECONDS = 30.0  # so that memory does not grow with the recording
_LEAST_SECONDS = 0.3
_SILENT = 1e-10  # power; -100 dBFS


@dataclass(frozen=True, slots=True)
class MeasuredVoice:
    """voice: (E,) of length 1. seconds: of the recording. magnitude: length of the embedding before, 1 for an
    encoder that gives none."""

    voice: Tensor
    seconds: float
    magnitude: float


def recording_voice(encoder: VoiceEncoder | TrainedVoices, path: str | Path) -> Tensor:
    """The embedding (E,) of length 1 of a recording of one speaker, see `measured_voice`."""
    return measured_voice(encoder, path).voice


def measured_voice(encoder: VoiceEncoder | TrainedVoices, path: str | Path) -> MeasuredVoice:
    """The voice of a recording of one speaker: of pieces of 30 s, the mean. Raises MayaError for a recording
    that cannot be read, is silent, or shorter than 0.3 s."""
    audio = load_audio(path, encoder.rate)
    seconds = len(audio) / encoder.rate
    if seconds < _LEAST_SECONDS:
        raise MayaError(f"{path} has {seconds:.2f} s: too little to tell a voice by; take 1 s or more")
    if float(audio.square().mean()) < _SILENT:
        raise MayaError(f"{path} is silent: it holds no voice")
    if isinstance(encoder, VoiceEncoder):
        with torch.inference_mode():
            return MeasuredVoice(encoder.embed_utterance(levelled(audio)), seconds, 1.0)
    rows = torch.cat([encoder.raw([piece]) for piece in audio.chunk(math.ceil(seconds / _PIECE_SECONDS))])
    unit = torch.nn.functional.normalize(rows, dim=1)
    return MeasuredVoice(mean_voice(list(unit)), seconds, float(rows.norm(dim=1).mean()))


def mean_voice(embeddings: Sequence[Tensor]) -> Tensor:
    """The mean (E,) of embeddings of one speaker, of length 1."""
    return torch.nn.functional.normalize(torch.stack(list(embeddings)).mean(0), dim=0)


def fingerprint(encoder: VoiceEncoder | TrainedVoices) -> str:
    """What tells whether two embeddings are of the same network."""
    network = encoder if isinstance(encoder, VoiceEncoder) else encoder.model
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(kw_only=True, slots=True)
class EnrolledVoices:
    """Voices by name, (E,) each of length 1. encoder: the `fingerprint` of the network that they are of."""

    encoder: str
    voices: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, encoder: VoiceEncoder | TrainedVoices) -> "EnrolledVoices":
        """Raises MayaError for a file of another kind, and for voices of another network."""
        try:
            content = read_json(path)
            voices = {str(name): torch.tensor(row) for name, row in content["voices"].items()}
            own = cls(encoder=str(content["encoder"]), voices=voices)
        except (ValueError, LookupError, TypeError, AttributeError, UnicodeDecodeError):
            raise MayaError(f"{path} is no file of voices: `maya enroll` writes one") from None
        if own.encoder != fingerprint(encoder):
            raise MayaError(
                f"the voices in {path} were enrolled with another model: enroll them again with this one"
            )
        return own

    def table(self) -> Tensor:
        """(n, E), in the order of the names in the file."""
        return torch.stack(list(self.voices.values()))

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        voices = {name: [round(x, 7) for x in row.tolist()] for name, row in self.voices.items()}
        write_json(path, {"encoder": self.encoder, "voices": voices})
