"""SentencePiece models as Hugging Face's tokenizer.json, and back.

transformers' own converter makes a BPE of every SentencePiece model of a Parakeet, also of a unigram model,
which then splits texts otherwise. Here a unigram model stays one.
"""

import base64
import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from maya.errors import MayaError
from maya.text.tokenizer import UNKNOWN, Tokenizer

SPACE = "\u2581"  # ▁, which SentencePiece writes for a space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_UNIGRAM, _BPE = 1, 2  # SentencePiece's model types
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE_KIND = 1, 2, 3, 4, 6  # its kinds of pieces


def tokenizer_json(tokenizer: Tokenizer, blank: str) -> dict[str, Any]:
    """The content of tokenizer.json: the pieces with their ids, then the blank, named `blank`.

    Raises MayaError for a tokenizer that is not one SentencePiece model, or one of words or characters.
    """
    if type(tokenizer) is not Tokenizer:
        raise MayaError(
            "tokenizer.json holds one SentencePiece model, and this model has another tokenizer; export .nemo"
        )
    proto = _proto(tokenizer.model_bytes)
    kind, pieces = proto.trainer_spec.model_type, list(proto.pieces)
    if kind not in (_UNIGRAM, _BPE):
        raise MayaError("tokenizer.json holds a BPE or a unigram model; this tokenizer is of another type")
    unknown = next((p.piece for p in pieces if p.type == _UNKNOWN), None)
    by_bytes = any(p.type == _BYTE_KIND for p in pieces)
    model: dict[str, Any]
    if kind == _UNIGRAM:
        model = {
            "type": "Unigram", "unk_id": tokenizer.unk_id,
            "vocab": [[p.piece, p.score] for p in pieces], "byte_fallback": by_bytes,
        }  # fmt: skip
    else:
        model = {
            "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": by_bytes, "ignore_merges": False,
            "vocab": {p.piece: i for i, p in enumerate(pieces)}, "merges": _merges(pieces),
        }  # fmt: skip
    added = [_added(i, p.piece, p.type != _USER) for i, p in enumerate(pieces) if p.type in (2, 3, 4)]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [*added, _added(len(pieces), blank, True)],
        "normalizer": _normalizer(proto.normalizer_spec),
        "pre_tokenizer": _metaspace(proto.normalizer_spec),
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "ByteFallback"}, _metaspace(proto.normalizer_spec),
        ]},
        "model": model,
    }  # fmt: skip


def read_tokenizer_json(values: dict[str, Any], size: int) -> Tokenizer:
    """The SentencePiece model with the first `size` ids of a tokenizer.json, which encodes and decodes alike.

    Raises MayaError for a tokenizer that SentencePiece cannot be: of bytes (GPT-2), of words, without <unk>.
    """
    try:
        model, added = values["model"], values.get("added_tokens") or []
        kind = model.get("type") or ("BPE" if "merges" in model else "Unigram")
        if kind not in ("BPE", "Unigram"):
            raise MayaError(f"tokenizer.json holds a model of type {kind!r}; Maya reads BPE and Unigram")
        pieces = _pieces(model, kind)
        special = {int(t["id"]): (str(t["content"]), bool(t.get("special"))) for t in added}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MayaError(f"tokenizer.json is damaged ({error!r}); take it from the whole folder") from error
    names = dict(enumerate(p for p, _ in pieces)) | {i: name for i, (name, _) in special.items()}
    if missing := [i for i in range(size) if i not in names]:
        raise MayaError(f"tokenizer.json has no token {missing[0]}, but the model has {size} and a blank")
    unknown = _unknown_id(model, kind, names)
    if not 0 <= unknown < size:
        raise MayaError(
            "tokenizer.json names no unknown token, which SentencePiece needs; Maya cannot read it"
        )
    proto = _proto(b"")
    scores = dict(enumerate(s for _, s in pieces))
    for i in range(size):
        own, is_special = special.get(i, ("", False))
        kind_of = _CONTROL if is_special else _USER if own else _NORMAL
        if i == unknown:
            kind_of = _UNKNOWN
        elif _BYTE.fullmatch(names[i]):
            kind_of = _BYTE_KIND
            proto.trainer_spec.byte_fallback = True
        proto.pieces.add(piece=names[i], score=scores.get(i, 0.0), type=kind_of)
    proto.trainer_spec.model_type = _BPE if kind == "BPE" else _UNIGRAM
    proto.trainer_spec.vocab_size, proto.trainer_spec.unk_id = size, unknown
    proto.trainer_spec.unk_piece, proto.trainer_spec.unk_surface = names[unknown], UNKNOWN
    proto.trainer_spec.bos_id = proto.trainer_spec.eos_id = proto.trainer_spec.pad_id = -1
    _read_normalizer(values, proto.normalizer_spec)
    return Tokenizer(proto.SerializeToString())


def _merges(pieces: Sequence[Any]) -> list[list[str]]:
    """The merges of a BPE by rank: each piece out of any two others, those of better pieces first."""
    normal = {p.piece: (p.score, i) for i, p in enumerate(pieces) if p.type == _NORMAL}
    ranked = []
    for piece, (score, id) in normal.items():
        for cut in range(1, len(piece)):
            head, tail = piece[:cut], piece[cut:]
            if head in normal and tail in normal:
                ranked.append((-score, id, head, tail))
    return [[head, tail] for *_, head, tail in sorted(ranked)]


def _added(id: int, content: str, special: bool) -> dict[str, Any]:
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}  # fmt: skip


def _normalizer(spec: Any) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return {"type": "Sequence", "normalizers": steps}


def _metaspace(spec: Any) -> dict[str, Any]:
    scheme = "always" if spec.add_dummy_prefix else "never"
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}


def _pieces(model: dict[str, Any], kind: str) -> list[tuple[str, float]]:
    """(piece, score) by id. A BPE's score is minus the rank of the first merge that makes the piece."""
    if kind == "Unigram":
        return [(str(piece), float(score)) for piece, score in model["vocab"]]
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        head, tail = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(head + tail, rank)
    ids = {int(id): str(piece) for piece, id in model["vocab"].items()}
    if sorted(ids) != list(range(len(ids))):
        raise MayaError("tokenizer.json leaves ids out; Maya reads those that it counts through")
    return [(ids[i], -float(ranks.get(ids[i], len(ranks)))) for i in range(len(ids))]


def _unknown_id(model: dict[str, Any], kind: str, names: dict[int, str]) -> int:
    if kind == "Unigram":
        return -1 if model.get("unk_id") is None else int(model["unk_id"])
    return next((i for i, name in names.items() if name == model.get("unk_token")), -1)


def _read_normalizer(values: dict[str, Any], spec: Any) -> None:
    """Fill SentencePiece's normalizer from those of tokenizer.json. MayaError for one that it lacks."""
    spec.name = "identity"
    spec.add_dummy_prefix, spec.remove_extra_whitespaces, spec.escape_whitespaces = False, False, True
    for step in _steps(values.get("normalizer"), "normalizers"):
        kind = step.get("type")
        if kind == "Precompiled":
            spec.name = "charsmap"
            spec.precompiled_charsmap = base64.b64decode(step["precompiled_charsmap"])
        elif kind == "Strip" or (kind == "Replace" and SPACE in str(step.get("content")) or _spaces(step)):
            spec.remove_extra_whitespaces = True
        elif kind == "Prepend":
            spec.add_dummy_prefix = True
        elif kind != "Replace":
            raise MayaError(f"tokenizer.json normalises texts by {kind!r}, which SentencePiece does not have")
    for step in _steps(values.get("pre_tokenizer"), "pretokenizers"):
        kind = step.get("type")
        if kind not in ("Metaspace", "Split", "WhitespaceSplit"):
            raise MayaError(f"tokenizer.json splits texts by {kind!r}; Maya reads those of SentencePiece")
        is_never = step.get("prepend_scheme") == "never" or step.get("add_prefix_space") is False
        spec.add_dummy_prefix |= kind == "Metaspace" and not is_never


def _spaces(step: dict[str, Any]) -> bool:
    return step.get("type") == "Replace" and " " in str(step.get("pattern"))


def _steps(value: dict[str, Any] | None, inner: str) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, which may be a sequence of others."""
    if not value:
        return
    if value.get("type") == "Sequence":
        for step in value[inner]:
            yield from _steps(step, inner)
    else:
        yield value


def _proto(model_bytes: bytes) -> Any:
    module = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    return module.ModelProto.FromString(model_bytes)
