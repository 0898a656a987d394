"""The names of Whisper's tensors in Maya, at OpenAI, and in folders of Hugging Face and CTranslate2."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

HEAD = "whisper"  # the name of the decoder among the heads
_HUGGING_FACE = (
    ("model.", ""), (".layers.", ".blocks."), (".self_attn_layer_norm.", ".attn_ln."),
    (".encoder_attn_layer_norm.", ".cross_attn_ln."), (".final_layer_norm.", ".mlp_ln."),
    (".self_attn.", ".attn."), (".encoder_attn.", ".cross_attn."), (".q_proj.", ".query."),
    (".k_proj.", ".key."), (".v_proj.", ".value."), (".out_proj.", ".out."), (".fc1.", ".mlp.0."),
    (".fc2.", ".mlp.2."), ("encoder.layer_norm.", "encoder.ln_post."), ("decoder.layer_norm.", "decoder.ln."),
    (".embed_positions.weight", ".positional_embedding"), (".embed_tokens.", ".token_embedding."),
)  # fmt: skip


def maya_name(name: str) -> str:
    """Maya's name of a tensor that OpenAI names so."""
    name = re.sub(r"^(encoder|decoder)\.blocks\.", r"\1.layers.", name)
    return re.sub(r"^decoder\.", f"heads.{HEAD}.", name)


def openai_name(name: str) -> str:
    """The inverse of `maya_name`."""
    name = name.replace(f"heads.{HEAD}.", "decoder.", 1) if name.startswith("heads.") else name
    return re.sub(r"^(encoder|decoder)\.layers\.", r"\1.blocks.", name)


def from_hugging_face(name: str) -> str:
    """OpenAI's name of a tensor that transformers names so."""
    for old, new in _HUGGING_FACE:
        name = name.removeprefix(old) if old == "model." else name.replace(old, new)
    return name


def to_hugging_face_name(name: str) -> str:
    """The inverse of `from_hugging_face`."""
    for other, own in _HUGGING_FACE[1:]:
        name = name.replace(own, other)
    return f"model.{name}"


def from_ctranslate2(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(OpenAI's name, tensor) of CTranslate2's weights, whose queries, keys and values are one tensor."""
    for name, tensor in weights.items():
        if match := re.fullmatch(r"(\w+)/layer_(\d+)/(self_attention|attention)/linear_(\d)/(\w+)", name):
            side, layer, kind, number, what = match.groups()
            own = "attn" if kind == "self_attention" else "cross_attn"
            parts = _LINEARS[kind][int(number)]
            if len(tensor) % len(parts):
                parts = parts[:1]  # of a wrong shape, which `strict` names
            for part, piece in zip(parts, tensor.chunk(len(parts)), strict=False):
                if (part, what) != ("key", "bias"):  # zeros: keys have none
                    yield f"{side}.blocks.{layer}.{own}.{part}.{what}", piece
        else:
            yield _plain_from_ctranslate2(name), tensor


def to_ctranslate2_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CTranslate2's weights of those with OpenAI's names."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if match := re.fullmatch(r"(\w+)\.blocks\.(\d+)\.(attn|cross_attn)\.query\.weight", name):
            side, layer, own = match.groups()
            kind = "self_attention" if own == "attn" else "attention"
            for number, parts in enumerate(_LINEARS[kind]):
                for what in ("weight", "bias"):
                    pieces = [_piece(weights, f"{side}.blocks.{layer}.{own}.{part}", what) for part in parts]
                    out[f"{side}/layer_{layer}/{kind}/linear_{number}/{what}"] = torch.cat(pieces)
        elif not re.search(r"\.(attn|cross_attn)\.", name):
            out[_plain_to_ctranslate2(name)] = tensor
    return out


_LINEARS = {
    "self_attention": (("query", "key", "value"), ("out",)),
    "attention": (("query",), ("key", "value"), ("out",)),
}
_PLAIN = (
    ("/self_attention/layer_norm/", ".attn_ln."), ("/attention/layer_norm/", ".cross_attn_ln."),
    ("/ffn/layer_norm/", ".mlp_ln."), ("/ffn/linear_0/", ".mlp.0."), ("/ffn/linear_1/", ".mlp.2."),
    ("encoder/layer_norm/", "encoder.ln_post."), ("decoder/layer_norm/", "decoder.ln."),
    ("/position_encodings/encodings", ".positional_embedding"),
    ("decoder/embeddings/", "decoder.token_embedding."), ("/conv1/", ".conv1."), ("/conv2/", ".conv2."),
)  # fmt: skip
_NORM = re.compile(r"(_ln|ln_post|decoder\.ln)\.(weight|bias)$")


def _plain_from_ctranslate2(name: str) -> str:
    for other, own in _PLAIN:
        name = name.replace(other, own)
    name = re.sub(r"^(\w+)/layer_(\d+)", r"\1.blocks.\2", name)
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def _plain_to_ctranslate2(name: str) -> str:
    if match := _NORM.search(name):
        name = name[: match.start(2)] + {"weight": "gamma", "bias": "beta"}[match[2]]
    name = re.sub(r"^(\w+)\.blocks\.(\d+)", r"\1/layer_\2", name)
    for other, own in _PLAIN:
        name = name.replace(own, other)
    return name


def _piece(weights: Mapping[str, Tensor], name: str, what: str) -> Tensor:
    missing = torch.zeros(len(weights[f"{name}.weight"])) if f"{name}.{what}" not in weights else None
    return weights[f"{name}.{what}"] if missing is None else missing
