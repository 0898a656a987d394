"""AI4Bharat's IndicConformer: a tokenizer, a joint output and a block of CTC rows for each language.

The order of languages is that of `tokenizer.langs` in the yaml. Texts have ids within their language, so of
the embedding only as many rows as one language has pieces were ever trained, and all languages share them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.nemo.section import Section
from maya.errors import MayaError
from maya.heads import CTCConfig, HeadConfig, MultisoftmaxCTCConfig, MultisoftmaxTransducerConfig
from maya.text.aggregate import AggregateTokenizer
from maya.text.languages import language_among

KIND = "multilingual"  # tokenizer.type of such a model
EMBEDDING = "decoder.prediction.embed.weight"
CTC_WEIGHTS = ("ctc_decoder.decoder_layers.0.", "decoder.decoder_layers.0.")
JOINT_WEIGHTS = ("joint.joint_net.2.", "joint.joint_net.1.")  # without dropout the joint has a module fewer


def read_masks(s: Section, codes: Sequence[str], keys: Collection[str]) -> None:
    """Check the settings of a section of such a model, `codes` () for another one. Masks and offsets are
    mostly null, as NeMo makes them of the tokenizers. Raises MayaError if they are those of another order."""
    for key in keys:
        s.fixed(key, *((True,) if codes else (None, False)))
    masks, offsets = s.raw("language_masks"), s.raw("token_id_offsets")
    named = s.raw("language_keys") or codes
    s.harmless("offset_token_ids_by_token_id")
    if not codes:
        s.fixed("language_masks", None)
        s.fixed("token_id_offsets", None)
        return
    if not isinstance(named, list | tuple) or {*map(str, named)} != {*codes}:
        raise MayaError(f"{s.path}: {s.where('language_keys')} are not the languages of tokenizer.langs")
    if isinstance(masks, Mapping):
        offsets = {code: _first(mask, s) for code, mask in masks.items()}
    if isinstance(offsets, Mapping):
        ordered = sorted(offsets, key=lambda code: offsets[code])
        if tuple(map(str, ordered)) != tuple(codes):
            raise MayaError(
                f"{s.path}: {s.name} has the languages in the order {' '.join(map(str, ordered))}, and "
                f"tokenizer.langs in the order {' '.join(codes)}; one of them would take the rows of another"
            )


def _first(mask: Any, s: Section) -> int:
    """The first row of a mask: contiguous rows of a language, and the last one."""
    rows = [i for i, kept in enumerate(mask) if kept] if isinstance(mask, list) else []
    if not rows or rows != [*range(rows[0], rows[0] + len(rows) - 1), len(mask) - 1]:
        raise MayaError(f"{s.path}: {s.where('language_masks')} are not blocks of rows and the blank")
    return rows[0]


def chosen(language: str, codes: Sequence[str], path: Path) -> str:
    """The archive's own code of a language. Raises MayaError for one that it does not have."""
    code = language_among(language, codes)
    if code not in codes:
        raise MayaError(
            f"{path} has no language {language!r}; it has {', '.join(codes) or 'no output layer for each'}"
        )
    return code


def check_sizes(stored: Mapping[str, Tensor], tokenizer: AggregateTokenizer, path: Path) -> int:
    """The pieces of each language. Raises MayaError for weights that are not of these tokenizers."""
    sizes = {code: part.vocab_size for code, part in tokenizer.parts.items()}
    if len({*sizes.values()}) != 1:
        raise MayaError(f"{path}: every language has to have equally many pieces, not {sizes}")
    size, total = next(iter(sizes.values())), tokenizer.vocab_size
    for name, tensor in stored.items():
        if name.startswith((*CTC_WEIGHTS, EMBEDDING)) and len(tensor) != total + 1:
            raise MayaError(
                f"{path}: {name} has {len(tensor)} rows, and {len(sizes)} languages of {size} pieces with a "
                f"blank have {total + 1}"
            )
    layers = {name.split(".")[3] for name in stored if name.startswith(JOINT_WEIGHTS)}
    if layers and layers != {*sizes}:
        other = ", ".join(sorted(layers ^ {*sizes}))
        raise MayaError(f"{path}: the joint's output layers are not of the tokenizer's languages: {other}")
    table = stored.get(EMBEDDING)
    if table is not None and bool(table[-1].any()):
        raise MayaError(f"{path}: the last row of {EMBEDDING} is not zero, so it is no blank")
    return size


def shared_embedding(stored: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The state dict with the rows of the embedding that any language reads, and the zero row."""
    table = stored.get(EMBEDDING)
    return dict(stored) | ({} if table is None else {EMBEDDING: torch.cat([table[:size], table[-1:]])})


def of_language(
    stored: Mapping[str, Tensor], codes: Sequence[str], size: int, code: str
) -> dict[str, Tensor]:
    """The state dict of a stock NeMo model of one language. It gives the same: a softmax over some of the
    rows is that over all of them with the others masked."""
    first, own = codes.index(code) * size, {}
    for name, tensor in shared_embedding(stored, size).items():
        if name.startswith(CTC_WEIGHTS):
            own[name] = torch.cat([tensor[first : first + size], tensor[-1:]])
        elif name.startswith(JOINT_WEIGHTS):
            *layer, language, kind = name.split(".")
            if language == code:
                own[".".join([*layer, kind])] = tensor
        else:
            own[name] = tensor
    return own


def heads(plain: Mapping[str, HeadConfig]) -> dict[str, HeadConfig]:
    """The heads with an output layer for each language, of ordinary ones."""
    made: dict[str, HeadConfig] = {}
    for name, cfg in plain.items():
        kind: Any = MultisoftmaxCTCConfig if isinstance(cfg, CTCConfig) else MultisoftmaxTransducerConfig
        made[name] = kind(**{f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name != "kind"})
    return made
