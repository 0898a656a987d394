"""The decoder that `decode.method` names, ready for encoder output."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from maya.decode.attention_beam import attention_beam
from maya.decode.attention_rescoring import attention_rescoring
from maya.decode.ctc_beam import beam_ctc
from maya.decode.hypothesis import Hypothesis
from maya.decode.modified_beam import modified_beam_search
from maya.decode.recognizer import Recognizer, decode_frames
from maya.errors import MayaError
from maya.models.hybrid_config import HybridConfig
from maya.recipes.experiment import DecodeConfig
from maya.recipes.language_model import language_models

Search = Callable[[Tensor, Tensor, list[str]], list[Hypothesis]]
"""enc (B, S, D), enc_lens (B,), the language of each row ("" where it is not known) -> B hypotheses."""


def make_search(cfg: DecodeConfig, data: Path, recognizer: Recognizer) -> Search:
    """Raises MayaError for a method whose head the model lacks. `data` holds the training texts."""
    model = recognizer.model
    check_heads(model.cfg, cfg.method)
    if cfg.method == "modified_beam":
        return lambda enc, lens, _: modified_beam_search(
            enc, lens, model.decoder, model.joint, blank=model.blank, beam=cfg.hypotheses,
            blank_penalty=cfg.blank_penalty,
        )  # fmt: skip
    if cfg.method == "attention":
        return lambda enc, lens, _: attention_beam(enc, lens, model.attention_decoder, beam=cfg.hypotheses)
    if cfg.method == "attention_rescoring":
        return lambda enc, lens, _: attention_rescoring(
            enc, lens, model.ctc_decoder(enc), model.attention_decoder, blank=model.blank, cfg=cfg.rescoring
        )
    if cfg.method != "ctc_beam":
        method = cfg.greedy
        return lambda enc, lens, _: decode_frames(
            model, enc, lens, method=method, max_symbols=cfg.max_symbols
        )
    lms = language_models(data, recognizer.tokenizer, cfg.lm_order) if cfg.lm_order else {}

    def search(enc: Tensor, lens: Tensor, languages: list[str]) -> list[Hypothesis]:
        mine = [lms.get(language) for language in languages]
        return beam_ctc(model.ctc_decoder(enc), lens, blank=model.blank, cfg=cfg.beam, lms=mine)

    return search


def check_heads(model: HybridConfig, method: str) -> None:
    """MayaError if the model has not been trained with what the method asks for."""
    if method == "modified_beam" and model.transducer == "none":
        raise MayaError("decode.method=modified_beam needs a transducer, and this model has none")
    if method.startswith("attention") and not model.attention_weight:
        raise MayaError(f"decode.method={method} needs an attention decoder, and this model has none")
    if method in ("ctc", "ctc_beam", "attention_rescoring") and not model.ctc_weight:
        raise MayaError(f"decode.method={method} needs a CTC head, and this model has none")
