"""The classes that a model's heads give utterances: the language, an emotion, and so on."""

import torch
from torch import Tensor

from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import Prediction
from maya.models.speech_model import SpeechModel

LANGUAGE = "language"  # the label of a head that identifies languages


def predicted_labels(model: SpeechModel) -> tuple[str, ...]:
    """The labels that a model's heads predict."""
    return tuple(dict.fromkeys(head.predicts for head in model.named_heads().values() if head.predicts))


@torch.no_grad()
def predict(model: SpeechModel, encoded: Encoded) -> dict[str, list[Prediction]]:
    """By label the prediction for each row of what `SpeechModel.encode_audio` returned."""
    heads = [head for head in model.named_heads().values() if head.predicts]
    return {head.predicts: head.predict(encoded) for head in heads}


def check_identifies(model: SpeechModel) -> None:
    """Raises MayaError for a model that cannot identify languages."""
    if LANGUAGE not in predicted_labels(model):
        raise MayaError("this model cannot identify languages: it has no language head; name the language")


def language_indices(model: SpeechModel, predictions: dict[str, list[Prediction]]) -> Tensor:
    """(B,) int64 indices of the predicted languages, on the model's device."""
    languages, device = model.cfg.languages, next(model.parameters()).device
    return torch.tensor([languages.index(row.label) for row in predictions[LANGUAGE]], device=device)
