"""Load tokenizers of any kind from files and bytes."""

from pathlib import Path

from maya.errors import MayaError
from maya.text import aggregate, byte_bpe, characters, llm_tokenizer
from maya.text.tokenizer import Tokenizer


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Read a tokenizer's file. Raises MayaError if it is missing or not a tokenizer, or needs a package that
    is not installed."""
    try:
        model_bytes = Path(path).read_bytes()
    except OSError as error:
        raise MayaError(f"cannot read the tokenizer {path}: {error.strerror}") from None
    try:
        return tokenizer_from_bytes(model_bytes)
    except MayaError as error:
        raise MayaError(f"cannot read the tokenizer {path}: {error}") from None


def tokenizer_from_bytes(model_bytes: bytes) -> Tokenizer:
    """The tokenizer with these `model_bytes`: SentencePiece, an aggregate, byte-level BPE, a list of
    characters, or a language model's."""
    if model_bytes.startswith(llm_tokenizer.MAGIC):
        return llm_tokenizer.LLMTokenizer.from_json_bytes(model_bytes)
    if model_bytes.startswith(aggregate.MAGIC):
        return aggregate.aggregate_from_bytes(model_bytes)
    if model_bytes.startswith(byte_bpe.MAGIC):
        return byte_bpe.byte_bpe_from_bytes(model_bytes)
    if model_bytes.startswith(characters.MAGIC):
        return characters.characters_from_bytes(model_bytes)
    return Tokenizer(model_bytes)
