"""The n-gram models of beam search, one a language, made anew from the training texts: for corpora whose
texts fit into memory as counts (some million words take seconds and about a GB)."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from maya.data.table import Table, part_path
from maya.decode.ctc_beam import beam_ctc
from maya.decode.hypothesis import Hypothesis
from maya.decode.ngram import NGram
from maya.decode.recognizer import Recognizer, decode_frames
from maya.errors import MayaError
from maya.recipes.experiment import DecodeConfig
from maya.text.tokenizer import Tokenizer

Search = Callable[[Tensor, Tensor, list[str]], list[Hypothesis]]
"""enc (B, S, D), enc_lens (B,), the language of each row ("" where it is not known) -> B hypotheses."""


def make_search(cfg: DecodeConfig, data: Path, recognizer: Recognizer) -> Search:
    """The decoder that `decode.method` names."""
    model = recognizer.model
    if cfg.method != "ctc_beam":
        method = cfg.greedy
        return lambda enc, lens, _: decode_frames(
            model, enc, lens, method=method, max_symbols=cfg.max_symbols
        )
    if model.cfg.ctc_weight == 0:
        raise MayaError("this model has no CTC head; decode with its transducer")
    lms = language_models(data, recognizer.tokenizer, cfg.lm_order) if cfg.lm_order else {}

    def search(enc: Tensor, lens: Tensor, languages: list[str]) -> list[Hypothesis]:
        mine = [lms.get(language) for language in languages]
        return beam_ctc(model.ctc_decoder(enc), lens, blank=model.blank, cfg=cfg.beam, lms=mine)

    return search


def language_models(data: Path, tokenizer: Tokenizer, order: int) -> dict[str, NGram]:
    """By language code, of the texts of `data`/train.parquet; "" is of all languages together."""
    texts: dict[str, list[list[int]]] = defaultdict(list)
    for language, text in Table.open(part_path(data, "train")).read("language", "text"):
        ids = tokenizer.encode(text, language)
        texts[language].append(ids)
        texts[""].append(ids)
    return {language: NGram(mine, tokenizer.vocab_size, order=order) for language, mine in texts.items()}
