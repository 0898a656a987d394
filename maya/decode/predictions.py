"""The classes that a model's heads give utterances: the language, an emotion, and so on."""

import torch
from torch import Tensor

from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import Head, Prediction
from maya.heads.classify import LANGUAGE
from maya.models.speech_model import SpeechModel
from maya.text.languages import language_index


def predicting_heads(model: SpeechModel) -> dict[str, Head]:
    """By label the head that predicts it, of several the first. A head that was never trained is left out."""
    heads: dict[str, Head] = {}
    for name, head in model.named_heads().items():
        if head.predicts and name not in model.untrained:
            heads.setdefault(head.predicts, head)
    return heads


@torch.no_grad()
def predict(model: SpeechModel, encoded: Encoded, langs: Tensor | None = None) -> dict[str, list[Prediction]]:
    """By label the prediction for each row of what `SpeechModel.encode_audio` returned. langs (B,) or None:
    the languages that `conditioned` heads read."""
    conditioned = model.with_language(encoded, langs)
    heads = predicting_heads(model)
    return {
        label: head.predict(conditioned if head.conditioned else encoded) for label, head in heads.items()
    }


def check_identifies(model: SpeechModel) -> None:
    """Raises MayaError for a model that cannot identify languages."""
    if LANGUAGE in predicting_heads(model):
        return
    idle = [name for name in model.untrained if model.head(name).predicts == LANGUAGE]
    reason = f"its head {idle[0]} was never trained" if idle else "it has no language head"
    raise MayaError(f"this model cannot identify languages: {reason}; name the language")


@torch.no_grad()
def identify(model: SpeechModel, encoded: Encoded) -> tuple[Tensor, list[Prediction]]:
    """The language of each row of what `SpeechModel.encode_audio` returned: indices (B,) int64, -1 for one
    that is not among the model's, and the predictions. Raises MayaError for a model that cannot identify
    languages."""
    check_identifies(model)
    predictions = predicting_heads(model)[LANGUAGE].predict(encoded)
    indices = [language_index(prediction.label, model.cfg.languages) for prediction in predictions]
    return torch.tensor(indices, device=encoded.frames.device), predictions
