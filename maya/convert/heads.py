"""The heads that other systems have too, and the choice of the head to export."""

from dataclasses import dataclass
from typing import Literal

from maya.decode.by_language import is_by_language
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import AttentionDecoderConfig, CTCConfig, HeadConfig, TransducerConfig, TransducerHead
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel

HeadName = Literal["transducer", "ctc"]  # the heads that become ONNX graphs
KINDS: dict[str, type[HeadConfig]] = {
    "transducer": TransducerConfig, "ctc": CTCConfig, "attention": AttentionDecoderConfig,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TextHeads:
    """The configurations of a model's text heads; None for a head that it lacks."""

    transducer: TransducerConfig | None = None
    ctc: CTCConfig | None = None
    attention: AttentionDecoderConfig | None = None


def text_heads(cfg: SpeechModelConfig, target: str) -> TextHeads:
    """The text heads of a model. Raises MayaError, naming the `target` of the export, for a head of the
    user's own, also of a subclass of one of ours, or a language model."""
    for name, head in cfg.text_heads.items():
        if type(head) is not KINDS.get(name):
            kind = f"{name!r} of kind {head.kind!r}"
            raise MayaError(f"{target} supports the heads {', '.join(KINDS)}, not {kind} of this model")
    return TextHeads(**cfg.text_heads)  # type: ignore[arg-type]


def transducer_head(model: SpeechModel) -> TransducerHead:
    """The transducer of a model that has one."""
    head = model.head("transducer")
    assert isinstance(head, TransducerHead)
    return head


def exported_head(model: Recognizer, head: HeadName | None) -> HeadName:
    """`head`, by default the transducer if it was trained, else the CTC head.

    The default does not depend on dev scores, so that the files of an export stay the same. Raises MayaError
    for a head that the model lacks or that was never trained.
    """
    heads = model.trained_heads()
    if head is not None:
        heads.require(head, f"head {head!r}")
        return head
    return "transducer" if "transducer" in heads.trained else exported_head(model, "ctc")


def of_language(model: Recognizer, language: str | None, target: str) -> tuple[Recognizer, str | None]:
    """The model to export and the language that is left to fix in it: of a model with an output layer for
    each language, the one of `language`. Raises MayaError, naming the `target`, if that has none."""
    if not is_by_language(model.model):
        return model, language
    if language is None:
        raise MayaError(
            f"{target} has one output layer, and this model one for each language: choose --language from "
            f"{', '.join(model.model.cfg.languages)}"
        )
    code = model.model_language(language)
    return model.for_language(language), code if model.model.cfg.language_embedding else None


def head_notes(model: Recognizer, target: str) -> list[str]:
    """A sentence for the report of an export about each text head that was never trained, and one about the
    heads that `target` does not have."""
    heads = model.trained_heads()
    notes = [f"the {name} head was never trained" for name in heads.heads if name not in heads.trained]
    if dropped := [name for name, cfg in model.model.cfg.heads.items() if not cfg.writes_text]:
        notes.append(f"left out, as {target} has no such head: {', '.join(dropped)}")
    return notes
