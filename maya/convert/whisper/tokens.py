"""Whisper's tokenizer.json: the ids of its special tokens, and the tokens that old files lack."""

import json
import re
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.heads.whisper import TIMESTAMP_SECONDS, WhisperTokens
from maya.text.llm_tokenizer import LLMTokenizer

MULTILINGUAL = 51865  # tokens of the smallest multilingual model
TIMESTAMPS = 1501
_SYMBOLS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~\u300c\u300d\u300e\u300f', "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[",
    "('", '("', "((", "))", "(((", ")))", "[[", "]]", "{{", "}}", "\u266a\u266a", "\u266a\u266a\u266a",
]  # fmt: skip
_NOTES = "\u2669\u266a\u266b\u266c\u266d\u266e\u266f"


def read_tokenizer(path: Path, size: int) -> LLMTokenizer:
    """The tokenizer of a tokenizer.json for a model of `size` tokens, timestamps included.

    Raises MayaError where the file is missing or damaged, and for another model's.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        added = values["added_tokens"]
        ids = dict(values["model"]["vocab"]) | {t["content"]: int(t["id"]) for t in added}
    except OSError:
        raise MayaError(f"{path} is missing: copy the tokenizer.json of this Whisper model there, or name "
                        "one with --tokenizer") from None  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise MayaError(f"{path} is no tokenizer.json ({error!r}); copy it again") from None
    last = max(ids.values())
    for n in range(last + 1, size):
        number = n - (size - TIMESTAMPS)
        name = f"<|{number * TIMESTAMP_SECONDS:.2f}|>" if number >= 0 else f"<|extra{n}|>"
        added.append({"id": n, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                      "normalized": False, "special": True})  # fmt: skip
    tokenizer = LLMTokenizer(json.dumps(values, ensure_ascii=False))
    if tokenizer.vocab_size != size:
        raise MayaError(f"{path} has {tokenizer.vocab_size} tokens and the model {size}; take its own")
    return tokenizer


def special_tokens(tokenizer: LLMTokenizer, multilingual: bool) -> WhisperTokens:
    """The special tokens by their names. Raises MayaError for a tokenizer that is not Whisper's."""
    ids = {piece: i for i, piece in enumerate(tokenizer.pieces(range(tokenizer.vocab_size)))}
    names = {
        "end": ("<|endoftext|>",), "start": ("<|startoftranscript|>",), "translate": ("<|translate|>",),
        "transcribe": ("<|transcribe|>",), "previous": ("<|startofprev|>",),
        "no_speech": ("<|nospeech|>", "<|nocaptions|>"), "no_timestamps": ("<|notimestamps|>",),
        "zero": ("<|0.00|>",),
    }  # fmt: skip
    named: dict[str, Any] = {}
    for field, options in names.items():
        own = [ids[name] for name in options if name in ids]
        if not own:
            raise MayaError(f"this tokenizer has no token {options[0]}; take the one of the Whisper model")
        named[field] = own[0]
    between = sorted((i, p) for p, i in ids.items() if named["start"] < i < named["translate"])
    codes = [(i, p[2:-2]) for i, p in between if re.fullmatch(r"<\|[a-z]{2,3}\|>", p)]
    if multilingual and codes:
        named["languages"] = tuple(code for _, code in codes)
    return WhisperTokens(first_language=codes[0][0] if codes else named["start"] + 1, **named)


def non_speech(tokenizer: LLMTokenizer) -> tuple[int, ...]:
    """The ids of symbols and notes that OpenAI's decoding never writes: hyphens and apostrophes only within
    words. Also that of <|startoflm|>."""
    never = {i for i in range(tokenizer.vocab_size) if tokenizer.pieces([i]) == ["<|startoflm|>"]}
    never |= {tokenizer.encode(text)[0] for text in (" -", " '")}
    for symbol in [*_SYMBOLS, *_NOTES]:
        for text in (symbol, f" {symbol}"):
            ids = tokenizer.encode(text)
            if len(ids) == 1 or symbol in _NOTES:
                never.add(ids[0])
    return tuple(sorted(never))


def token_bytes(tokenizer: LLMTokenizer, count: int) -> list[bytes]:
    """The bytes of the first `count` tokens of a byte-level BPE, which writes each byte as a character."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in set(plain)]
    table = {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(rest)}
    try:
        return [bytes(table[c] for c in piece) for piece in tokenizer.pieces(range(count))]
    except KeyError as error:
        raise MayaError(f"this tokenizer is no BPE of bytes: it has the character {error}") from None
