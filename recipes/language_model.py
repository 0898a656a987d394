"""The n-gram models of beam search, one a language, made anew from the training texts: for corpora whose
texts fit into memory as counts (some million words take seconds and about a GB)."""

from collections import defaultdict
from pathlib import Path

from maya.data.table.table import Table, part_path
from maya.decode.ngram import NGram
from maya.text.tokenizer import Tokenizer


def language_models(data: Path, tokenizer: Tokenizer, order: int) -> dict[str, NGram]:
    """By language code, of the texts of `data`/train.parquet; "" is of all languages together."""
    texts: dict[str, list[list[int]]] = defaultdict(list)
    for language, text in Table.open(part_path(data, "train")).read("language", "text"):
        ids = tokenizer.encode(text, language)
        texts[language].append(ids)
        texts[""].append(ids)
    return {language: NGram(mine, tokenizer.vocab_size, order=order) for language, mine in texts.items()}
