"""icefall's token tables: SentencePiece's `bpe.model`, or `tokens.txt`. Their id 0 is <blk>."""

import importlib
import io
import math
import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece as spm

from maya.errors import MayaError
from maya.text.byte_bpe import ByteBPETokenizer, is_byte_bpe
from maya.text.load import load_tokenizer
from maya.text.tokenizer import UNKNOWN, Tokenizer

BLANK, SENTENCE_END, UNKNOWN_PIECE = "<blk>", "<sos/eos>", "<unk>"


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a `bpe.model`, or of a .txt file with a piece and its id on each line.

    Raises MayaError for another file, and for one whose piece 0 is not <blk>.
    """
    path = Path(path)
    if path.suffix == ".txt":
        pieces = read_table(path)
    else:
        tokenizer = load_tokenizer(path)
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    if not pieces or pieces[0] != BLANK:
        first = repr(pieces[0]) if pieces else "missing"
        raise MayaError(f"{path}: piece 0 is {first}, not {BLANK!r}; it is no token table of icefall")
    if UNKNOWN_PIECE not in pieces:
        raise MayaError(f"{path} has no piece {UNKNOWN_PIECE!r}; it is no token table of icefall")
    if path.suffix == ".txt":
        tokenizer = tokenizer_of(pieces)
    is_byte_level = path.name == "bbpe.model" or is_byte_bpe(pieces)
    return ByteBPETokenizer(tokenizer.model_bytes) if is_byte_level else tokenizer


def read_table(path: Path) -> list[str]:
    """The pieces of a `tokens.txt` by id, without k2's disambiguation symbols (#0, #1 ...).

    A piece and its id are separated by spaces or a tab; a line with an id alone is that of the space. Ids
    that no line has, which lists for keyword search leave out, get a piece that no text has.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise MayaError(f"cannot read the tokens {path}: {e}") from None
    table: dict[int, str] = {}
    for number, line in enumerate(filter(str.strip, lines), 1):
        fields = line.split()
        if len(fields) == 1 and line[0].isspace():
            fields = ["▁", *fields]
        if len(fields) != 2 or not fields[1].isdecimal():
            raise MayaError(f"{path}, line {number}: {line!r} is not a piece and its id")
        if not re.fullmatch(r"#\d+", fields[0]) and table.setdefault(int(fields[1]), fields[0]) != fields[0]:
            raise MayaError(f"{path}, line {number}: id {fields[1]} stands for {table[int(fields[1])]!r} too")
    size = max(table, default=-1) + 1
    if size > 2 * len(table) + 1000:
        raise MayaError(f"{path} has {len(table)} pieces, but ids up to {size - 1}")
    return [table.get(i, f"<unused-{i}>") for i in range(size)]


def tokenizer_of(pieces: Sequence[str]) -> Tokenizer:
    """A tokenizer with these pieces in this order. <unk> must be one of them. It decodes exactly.

    A table has no probabilities, which encoding needs. icefall's pieces are sorted by probability, so it is
    assumed to fall as 1 / rank.
    """
    proto = _protobuf().ModelProto()
    kinds = proto.SentencePiece
    for rank, piece in enumerate(pieces):
        byte = re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece)
        kind = kinds.BYTE if byte else kinds.NORMAL
        if piece in (BLANK, SENTENCE_END):
            kind = kinds.CONTROL
        elif piece.startswith("<unused-"):
            kind = kinds.UNUSED
        elif piece == UNKNOWN_PIECE:
            kind = kinds.UNKNOWN
        score = -math.log(rank + 1) if kind == kinds.NORMAL else 0.0
        proto.pieces.add(piece=piece, score=score, type=kind)
        proto.trainer_spec.byte_fallback |= bool(byte)
    proto.trainer_spec.unk_surface = UNKNOWN
    proto.trainer_spec.unk_id = list(pieces).index(UNKNOWN_PIECE)
    proto.normalizer_spec.name = "identity"
    marked = [piece for piece in pieces if piece.startswith("▁")]
    if marked in ([], ["▁"]):  # characters: no mark at the beginning of words, perhaps a space between them
        proto.normalizer_spec.add_dummy_prefix = False
    if not marked:
        proto.normalizer_spec.precompiled_charsmap = _without_spaces()
    return Tokenizer(proto.SerializeToString())


@cache
def _without_spaces() -> bytes:
    """SentencePiece's compiled rule that drops spaces. Only its trainer compiles rules."""
    made = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("20\t\n9\t\n", encoding="utf-8")
        spm.SentencePieceTrainer.Train(
            sentence_iterator=iter(["ab"]), model_writer=made, vocab_size=5, model_type="char", minloglevel=2,
            normalization_rule_tsv=str(rules), hard_vocab_limit=False,
        )  # fmt: skip
    compiled = _protobuf().ModelProto.FromString(made.getvalue()).normalizer_spec.precompiled_charsmap
    return bytes(compiled)


def blank_first(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with <blk> before all pieces, so every id is one higher."""
    proto = _protobuf().ModelProto.FromString(tokenizer.model_bytes)
    old = list(proto.pieces)
    del proto.pieces[:]
    proto.pieces.add(piece=BLANK, score=0.0, type=proto.SentencePiece.USER_DEFINED)
    proto.pieces.extend(old)
    proto.trainer_spec.unk_id += 1
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return Tokenizer(proto.SerializeToString())


def token_table(pieces: Sequence[str]) -> str:
    """tokens.txt: a piece and its id on each line."""
    return "".join(f"{piece} {i}\n" for i, piece in enumerate(pieces))


def _protobuf() -> Any:
    return importlib.import_module("sentencepiece.sentencepiece_model_pb2")
