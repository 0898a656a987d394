"""Who speaks when, by a trained diarization head: no voice detector, no clusters."""

import torch
from torch import Tensor

from maya.decode.hypothesis import SpeakerTurn
from maya.errors import MayaError
from maya.heads import DiarizationHead
from maya.models.speech_model import SpeechModel


class EndToEndSpeakers:
    """A model with a trained diarization head. rate: of its features. Raises MayaError for another model."""

    def __init__(self, model: SpeechModel) -> None:
        heads = [
            head for name, head in model.named_heads().items()
            if isinstance(head, DiarizationHead) and name not in model.untrained
        ]  # fmt: skip
        if not heads:
            raise MayaError("this model has no trained diarization head: train one, as egs/diarization does")
        self.model, self.head, self.rate = model.eval(), heads[0], model.cfg.features.sample_rate

    @torch.inference_mode()
    def turns(self, audio: Tensor) -> list[SpeakerTurn]:
        """The turns of a recording in order of time; they overlap where several speak at once.

        audio: (N,) at `rate`, all at once: the memory of attention grows with the square of its length, and
        recordings much longer than those of the training are diarized badly. Speakers are letters in the
        order of arrival, as the head orders them.
        """
        device, size = self.head.out.weight.device, torch.tensor([len(audio)])
        encoded = self.model.encode_audio(audio[None].to(device), size.to(device), hidden=self.head.hidden)
        (track,) = self.head.track(encoded)
        return [SpeakerTurn(speaker=e.label, start=e.start, end=e.end) for e in track.events]
