"""The decoder that `decode.method` names, ready for encoder output."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from maya.decode.attention_beam import attention_beam
from maya.decode.attention_rescoring import attention_rescoring
from maya.decode.ctc_beam import beam_ctc
from maya.decode.head_choice import TrainedHeads
from maya.decode.hypothesis import Hypothesis
from maya.decode.modified_beam import modified_beam_search
from maya.decode.recognizer import Recognizer, decode_frames
from maya.models.text_heads import Head
from maya.recipes.experiment import DecodeConfig
from maya.recipes.language_model import language_models

Search = Callable[[Tensor, Tensor, list[str]], list[Hypothesis]]
"""enc (B, S, D), enc_lens (B,), the language of each row ("" where it is not known) -> B hypotheses."""


NEEDS: dict[str, tuple[Head, ...]] = {
    "transducer": ("transducer",),
    "modified_beam": ("transducer",),
    "ctc": ("ctc",),
    "ctc_beam": ("ctc",),
    "attention_rescoring": ("ctc", "attention"),
    "attention": ("attention",),
}
"""The heads that each method decodes with."""


def make_search(cfg: DecodeConfig, data: Path, recognizer: Recognizer) -> Search:
    """Raises MayaError for a method whose head the model lacks or that was never trained. `data` holds the
    training texts."""
    model = recognizer.model
    method, _ = choose_method(cfg.method, recognizer)
    if method == "modified_beam":
        return lambda enc, lens, _: modified_beam_search(
            enc, lens, model.decoder, model.joint, blank=model.blank, beam=cfg.hypotheses,
            blank_penalty=cfg.blank_penalty,
        )  # fmt: skip
    if method == "attention":
        return lambda enc, lens, _: attention_beam(enc, lens, model.attention_decoder, beam=cfg.hypotheses)
    if method == "attention_rescoring":
        return lambda enc, lens, _: attention_rescoring(
            enc, lens, model.ctc_decoder(enc), model.attention_decoder, blank=model.blank, cfg=cfg.rescoring
        )
    if method != "ctc_beam":
        (head,) = NEEDS[method]
        return lambda enc, lens, _: decode_frames(model, enc, lens, method=head, max_symbols=cfg.max_symbols)
    lms = language_models(data, recognizer.tokenizer, cfg.lm_order) if cfg.lm_order else {}

    def search(enc: Tensor, lens: Tensor, languages: list[str]) -> list[Hypothesis]:
        mine = [lms.get(language) for language in languages]
        return beam_ctc(model.ctc_decoder(enc), lens, blank=model.blank, cfg=cfg.beam, lms=mine)

    return search


def choose_method(method: str, recognizer: Recognizer) -> tuple[str, str]:
    """The method to decode with in place of "auto", and why it was chosen. Raises MayaError for a method
    whose head the model lacks or that was never trained."""
    if method == "auto":
        choice = recognizer.trained_heads().best()
        return choice.head, choice.reason
    check_heads(recognizer.trained_heads(), method)
    return method, "as asked"


def check_heads(heads: TrainedHeads, method: str) -> None:
    """Raises MayaError unless the model has been trained with what the method asks for."""
    for head in NEEDS[method]:
        heads.require(head, f"decode.method={method}")
