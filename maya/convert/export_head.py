"""Which head of a model is exported: one that was trained."""

from typing import Literal

from maya.decode.recognizer import Recognizer
from maya.models.text_heads import NAMES

Head = Literal["transducer", "ctc"]


def exported_head(model: Recognizer, head: Head | None) -> Head:
    """`head`, by default the transducer if it was trained, else the CTC head.

    The default does not depend on dev scores, so that the files of an export stay the same ones. Raises
    MayaError for a head that the model lacks or that was never trained.
    """
    heads = model.trained_heads()
    if head is not None:
        heads.require(head, f"head {head!r}")
        return head
    return "transducer" if "transducer" in heads.trained else exported_head(model, "ctc")


def untrained_notes(model: Recognizer) -> list[str]:
    """A sentence for the report of an export that holds all heads, for each one that was never trained."""
    heads = model.trained_heads()
    return [f"the {NAMES[head]} was never trained" for head in heads.heads if head not in heads.trained]
