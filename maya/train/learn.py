"""Which parameters learn when a trained model is tuned: all, the top layers, norms, or adapters."""

from torch import nn

from maya.models.adapters import is_adapter
from maya.models.speech_model import SpeechModel
from maya.models.vocabulary import fix_rows, language_dims, vocabulary_dims
from maya.train.config import TrainConfig


def choose_learning(model: SpeechModel, cfg: TrainConfig) -> None:
    """Let only those parameters learn that `train.learn`, `learn_vocabulary` and `fixed_pieces` name."""
    names = [name for name, _ in model.named_parameters()]
    if cfg.learn != "all":
        chosen = {"top": _top, "norms": _norms, "adapters": _adapters}[cfg.learn](model, names, cfg)
        if cfg.learn_vocabulary:
            languages = language_dims(model.cfg) if model.cfg.languages else {}
            chosen |= vocabulary_dims(model.cfg).keys() | languages.keys()
        model.learn_only(chosen)
    if cfg.fixed_pieces:
        fix_rows(model, cfg.fixed_pieces)


def _top(model: SpeechModel, names: list[str], cfg: TrainConfig) -> set[str]:
    """The top layers of the encoder, and all that is not the encoder's."""
    top = {id(p) for block in model.encoder.blocks()[-cfg.top_layers :] for p in block.parameters()}
    parameters = dict(model.named_parameters())
    return {name for name in names if not name.startswith("encoder.") or id(parameters[name]) in top}


def _norms(model: SpeechModel, names: list[str], cfg: TrainConfig) -> set[str]:
    """Scales and biases of normalisations of any kind."""
    norms = [(name, m) for name, m in model.named_modules() if _is_norm(m)]
    return {f"{name}.{own}" for name, m in norms for own, _ in m.named_parameters(recurse=False)}


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _adapters(model: SpeechModel, names: list[str], cfg: TrainConfig) -> set[str]:
    return {name for name in names if is_adapter(name)}
