"""A trained speaker head as an encoder of voices, and the comparison of recordings by it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maya.align.speakers.end_to_end import EndToEndSpeakers
from maya.config import from_dict
from maya.errors import MayaError
from maya.heads import DiarizationHead, SpeakerHead
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel


class TrainedVoices:
    """The first trained speaker head of a model; see `maya.align.speakers.encoder.SpeakerEncoder`. rate: of
    the model's features. Raises MayaError for a model without such a head."""

    def __init__(self, model: SpeechModel) -> None:
        heads = [
            head for name, head in model.named_heads().items()
            if isinstance(head, SpeakerHead) and name not in model.untrained
        ]  # fmt: skip
        if not heads:
            raise MayaError("this model has no trained speaker head: train one, as egs/speakers does")
        self.model, self.head, self.rate = model.eval(), heads[0], model.cfg.features.sample_rate

    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        """See `SpeakerEncoder`. Audio without a frame of features has a meaningless one."""
        return torch.nn.functional.normalize(self.raw(windows), dim=1)

    @torch.inference_mode()
    def raw(self, windows: Sequence[Tensor]) -> Tensor:
        """The embeddings (B, E) before they are brought to length 1: a longer one is of a clearer voice."""
        lens = torch.tensor([len(window) for window in windows])
        audio = torch.zeros(len(windows), max(1, int(lens.max()) if len(lens) else 1))
        for row, window in zip(audio, windows, strict=True):
            row[: len(window)] = window
        device = self.head.centres.device
        encoded = self.model.encode_audio(audio.to(device), lens.to(device), hidden=self.head.hidden)
        return self.head.embed(encoded).cpu()


def voices_of(payload: dict[str, Any]) -> TrainedVoices | EndToEndSpeakers:
    """The speaker or the diarization head of a checkpoint's contents, see
    `maya.train.checkpoints.checkpoint`. Raises MayaError for a model with neither, KeyError or RuntimeError
    for weights of another model."""
    cfg = from_dict(SpeechModelConfig, payload["model_config"]).without_places()
    model = SpeechModel(cfg)
    model.load_state_dict({name: payload["weights"][name] for name in model.state_dict()})
    trained = payload["notes"].get("trained", list(cfg.heads))
    model.untrained = tuple(name for name in cfg.heads if name not in trained)
    model = model.merge_adapters().requires_grad_(False)
    diarizes = any(isinstance(head, DiarizationHead) for head in model.heads.values())
    return EndToEndSpeakers(model) if diarizes else TrainedVoices(model)
