"""The table of decoding methods, and the choice among them. A line in this file adds one to the library.

A file of your own adds one by defining it: see `maya.decode.base`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from torch import Tensor

from maya.config import nearest, required_fields
from maya.decode.attention.beam import AttentionBeamConfig
from maya.decode.attention.canary import CanaryConfig
from maya.decode.attention.language_model import GenerationConfig
from maya.decode.attention.rescoring import RescoringConfig
from maya.decode.base import MethodConfig, MethodContext
from maya.decode.by_language import build_method
from maya.decode.ctc.beam import BeamConfig
from maya.decode.ctc.greedy import GreedyCTCConfig
from maya.decode.ctc.k2_hlg import K2HLGConfig
from maya.decode.head_choice import TrainedHeads
from maya.decode.hypothesis import Hypothesis
from maya.decode.transducer.alsd import ALSDConfig
from maya.decode.transducer.greedy import GreedyTransducerConfig
from maya.decode.transducer.maes import MAESConfig
from maya.decode.transducer.modified_beam import ModifiedBeamConfig
from maya.decode.whisper.method import WhisperConfig
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import HeadConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel

AUTO = "auto"  # stands for the greedy method of the best trained head
METHODS = cast(dict[str, type[MethodConfig]], MethodConfig.kinds())
"""The configuration class of each method by name. A method of a user's file comes last."""
for _cfg in (
    GreedyTransducerConfig(), ALSDConfig(), MAESConfig(), ModifiedBeamConfig(), GreedyCTCConfig(),
    BeamConfig(), K2HLGConfig(), RescoringConfig(), AttentionBeamConfig(), GenerationConfig(),
    WhisperConfig(), CanaryConfig(),
):  # fmt: skip
    METHODS[_cfg.kind] = METHODS.pop(_cfg.kind)  # the order of this list


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodChoice:
    """The method that decodes, the names of the heads that it reads, and the reason in a few words."""

    method: str
    heads: tuple[str, ...]
    reason: str


def default_options() -> dict[str, MethodConfig]:
    """The options of every method by name. Raises MayaError for an option without a default value."""
    for name, method in METHODS.items():
        if required := required_fields(method):
            raise MayaError(f"the option {required[0]!r} of the method {name!r} needs a default value")
    return {name: method() for name, method in METHODS.items()}


def greedy_method(head: HeadConfig) -> MethodConfig:
    """The greedy method of a head. One for its own class comes before one for a base class of it. Raises
    MayaError for a head that no method decodes greedily."""
    greedy_methods = [m for m in METHODS.values() if m.greedy is not None and len(m.heads) == 1]
    for cls in type(head).__mro__:
        for method in greedy_methods:
            if method.heads[0] is cls:
                return method(**(method.greedy or {}))
    raise MayaError(f"no greedy decoding method reads a head of kind {_name(head)!r}; see maya.decode.base")


def greedy(model: SpeechModel, encoded: Encoded, head: str, langs: Tensor | None = None) -> list[Hypothesis]:
    """Greedy hypotheses, without text, of one text head for what `SpeechModel.encode_audio` returned.

    langs (B,): language indices, or -1. Put the model in eval mode first. Whether the head was trained is not
    checked here.
    """
    cfg = greedy_method(model.head(head).cfg)
    return build_method(cfg, MethodContext(model=model, heads=(head,)))(encoded, langs)


def choose_method(
    name: str, model: SpeechModelConfig, trained: TrainedHeads, *, stream: bool = False
) -> MethodChoice:
    """The method that `name` means: the name of a method, of a text head (its greedy method), or "auto".

    With `stream` only methods that decode streams are chosen. Raises MayaError for an unknown name, and for a
    method that the model's trained heads do not allow.
    """
    if name == AUTO:
        usable = [h for h in trained.heads if not (stream and greedy_method(model.heads[h]).no_stream)]
        if stream and not usable:
            raise MayaError(_no_stream(trained.heads, model))
        choice = trained.best(usable)
        method = _name(greedy_method(model.heads[choice.head]))
        return MethodChoice(method=method, heads=(choice.head,), reason=choice.reason)
    user = f"decode.method={name}"
    cls = _class_of(name, model)
    if name in METHODS:
        heads = _readable_heads(cls, model, trained.trained) or _readable_heads(cls, model, trained.heads)
    else:
        heads = (name,)
    if not cls.heads:
        raise MayaError(f"{user} reads no head: list the classes of its heads as {cls.__name__}.heads")
    if not heads:
        kinds = " and one of kind ".join(_kind(head) for head in cls.heads)
        raise MayaError(f"{user} reads a head of kind {kinds}, which this model lacks")
    for head in heads:
        trained.require(head, user)
    if objection := cls().objection([model.heads[head] for head in heads]):
        raise MayaError(f"{user} cannot decode this model: {objection}")
    if stream and cls.no_stream:
        raise MayaError(f"{user} cannot decode a stream: {cls.no_stream}")
    return MethodChoice(method=_name(cls()), heads=heads, reason="as configured")


def head_of_method(name: str, model: SpeechModelConfig) -> str | None:
    """The text head that the method `name` reads (the first of several), by which training chooses weights;
    None with "auto", or if the model has no such head. Raises MayaError for an unknown name."""
    if name == AUTO or name in model.text_heads:
        return None if name == AUTO else name
    return next(iter(_readable_heads(_class_of(name, model), model, model.text_heads)), None)


def aligning_head(model: SpeechModelConfig, trained: TrainedHeads) -> str:
    """The first trained CTC head, which gives times to the tokens of methods without any; "" without one."""
    return next(iter(_readable_heads(GreedyCTCConfig, model, trained.trained)), "")


def possible_methods(model: SpeechModelConfig, trained: TrainedHeads) -> list[str]:
    """The names of the methods that a model's trained heads allow."""
    possible = []
    for name in METHODS:
        try:
            choose_method(name, model, trained)
        except MayaError:
            continue
        possible.append(name)
    return possible


def _class_of(name: str, model: SpeechModelConfig) -> type[MethodConfig]:
    """The configuration class of a method, or of the greedy method of a text head."""
    if name in METHODS:
        return METHODS[name]
    if name in model.text_heads:
        return type(greedy_method(model.heads[name]))
    names = (AUTO, *METHODS)
    hint = nearest(name, names) or f"; expected one of {', '.join(names)}"
    raise MayaError(f"unknown decoding method {name!r}{hint}")


def _no_stream(heads: Sequence[str], model: SpeechModelConfig) -> str:
    """Why none of a model's text heads decodes a stream."""
    if not heads:
        return "this model cannot decode a stream: it has no head that writes text"
    return f"this model cannot decode a stream: {greedy_method(model.heads[heads[0]]).no_stream}"


def _kind(cls: type[HeadConfig]) -> str:
    """The kind of a configuration class."""
    return next((str(f.default) for f in fields(cls) if f.name == "kind"), "any")


def _name(cfg: Any) -> str:
    """The kind of a configuration."""
    return str(cfg.kind)


def _readable_heads(
    method: type[MethodConfig], model: SpeechModelConfig, among: Collection[str]
) -> tuple[str, ...]:
    """For each class that the method reads the first head that is not taken yet; empty if one is missing."""
    heads: list[str] = []
    for cls in method.heads:
        names = [name for name in model.text_heads if name in among and name not in heads]
        heads += [name for name in names if isinstance(model.heads[name], cls)][:1]
    return tuple(heads) if len(heads) == len(method.heads) else ()
