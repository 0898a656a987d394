"""Languages, the normal form of transcripts, and SentencePiece tokenizers."""

from maya.text.languages import LANGUAGES, Language, get_language, language_code
from maya.text.normalize import normalize
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

__all__ = [
    "LANGUAGES",
    "Language",
    "Tokenizer",
    "TokenizerConfig",
    "get_language",
    "language_code",
    "normalize",
    "train_tokenizer",
]
