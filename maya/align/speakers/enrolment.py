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


def recording_voice(encoder: VoiceEncoder | TrainedVoices, path: str | Path) -> Tensor:
    """The embedding (E,) of length 1 of a recording of one speaker: of pieces of 30 s, the mean. Raises
    MayaError for a recording that cannot be read, is silent, or shorter than 0.3 s."""
    audio = load_audio(path, encoder.rate)
    if len(audio) < _LEAST_SECONDS * encoder.rate:
        raise MayaError(
            f"{path} has {len(audio) / encoder.rate:.2f} s: too little to tell a voice by; take 1 s or more"
        )
    if float(audio.square().mean()) < _SILENT:
        raise MayaError(f"{path} is silent: it holds no voice")
    if isinstance(encoder, VoiceEncoder):
        with torch.inference_mode():
            return encoder.embed_utterance(levelled(audio))
    pieces = audio.chunk(math.ceil(len(audio) / (_PIECE_SECONDS * encoder.rate)))
    return mean_voice([encoder.embed([piece])[0] for piece in pieces])


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

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        voices = {name: [round(x, 7) for x in row.tolist()] for name, row in self.voices.items()}
        write_json(path, {"encoder": self.encoder, "voices": voices})
