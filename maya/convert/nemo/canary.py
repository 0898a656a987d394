"""NeMo's Canary: the yaml's sections of its decoder, its special tokens, and the names of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.conversion import strict
from maya.convert.nemo.keys import OTHER_SETTINGS
from maya.convert.nemo.parts import nemo_parts
from maya.convert.nemo.section import Section
from maya.convert.nemo.weights import PASSED_OVER, checked_weights, nemo_name
from maya.errors import MayaError
from maya.heads import CanaryDecoderConfig, CTCConfig
from maya.heads.canary import CanaryPrompt, CanaryTokens, TransformerConfig
from maya.models.config import SpeechModelConfig
from maya.text.aggregate import AggregateTokenizer
from maya.text.tokenizer import Tokenizer

HEAD = "canary"
SPECIAL = "spl_tokens"  # the tokenizer of the special tokens, among those of the languages
TOKENIZERS = ("CanaryTokenizer", "CanaryBPETokenizer")  # custom classes that only name special tokens
# Top-level keys of Canary about training, metrics, and the model that places words in time.
HARMLESS = (
    *("use_loss_mask_for_prompt", "multitask_metrics_cfg", "restore_timestamps_model", "beam_search"),
    *("spl_tokens", "timestamps_asr_model", "label_smoothing"),
)
NETWORK = ("transf_encoder", "transf_decoder", "prompt_format", "prompt_defaults", "head", *HARMLESS)
LANGUAGE = re.compile(r"<\|([a-z]{2}(-[A-Z]{2})?)\|>")
TIED = "log_softmax.mlp.layer0.weight"  # the table of the token embeddings
UNUSED = re.compile(r"transf_decoder\._embedding\.token_type_embedding\..*|val_loss\..*|metric\..*")
_DECODER = "transf_decoder._decoder."
# (NeMo's, Maya's): beginnings of names, then what follows the number of a layer.
BEGINNINGS = (
    ("transf_decoder._embedding.token_embedding.", "token_embedding."),
    ("transf_decoder._embedding.position_embedding.pos_enc", "positions"),
    ("transf_decoder._embedding.position_embedding.weight", "positions"),
    ("transf_decoder._embedding.layer_norm.", "norm_embedding."),
    (_DECODER + "final_layer_norm.", "norm."),
    (_DECODER + "layers.", "layers."),
    ("transf_encoder.final_layer_norm.", "norm_between."),
    ("transf_encoder.layers.", "between."),
    ("encoder_decoder_proj.", "projection."),
    ("log_softmax.mlp.layer0.bias", "output_bias"),
)
ATTENTION = (
    (".query_net.", ".linear_q."), (".key_net.", ".linear_k."), (".value_net.", ".linear_v."),
    (".out_projection.", ".out_proj."),
)  # fmt: skip
SELF = ((".layer_norm_1.", ".norm_self_attn."), (".first_sub_layer.", ".self_attn."))
LAYERS = {
    "layers.": (
        *SELF, (".layer_norm_2.", ".norm_src_attn."), (".second_sub_layer.", ".src_attn."),
        (".layer_norm_3.", ".norm_ff."), (".third_sub_layer.dense_in.", ".feed_forward.0."),
        (".third_sub_layer.dense_out.", ".feed_forward.2."), *ATTENTION,
    ),
    "between.": (
        *SELF, (".layer_norm_2.", ".norm_ff."), (".second_sub_layer.dense_in.", ".feed_forward.0."),
        (".second_sub_layer.dense_out.", ".feed_forward.2."), *ATTENTION,
    ),
}  # fmt: skip
YES = ("yes", "true", "1")


def head_config(top: Section) -> CanaryDecoderConfig:
    """The head of a Canary, its tokens left empty. Raises MayaError for settings that change the network."""
    form = top.raw("prompt_format")
    if form not in ("canary", "canary2"):
        raise MayaError(f"{top.path}: prompt_format is {form!r}; Maya reads 'canary' and 'canary2'")
    s = top.section("transf_decoder")
    _of_class(s, "get_nemo_transformer")
    s.fixed("model_name", None)
    s.fixed("pretrained", False, None)
    s.fixed("encoder", None, False)
    s.harmless("config_file", "checkpoint_file")
    final_norm = s.take("pre_ln_final_layer_norm", True)
    d = s.section("config_dict")
    decoder = _transformer(d, final_norm)
    head = CanaryDecoderConfig(
        dim=d.need("hidden_size", int), decoder=decoder, positions=d.take("max_sequence_length", 512),
        learned_positions=d.take("learn_positional_encodings", False), dropout=d.take("ffn_dropout", 0.0),
        tokens=CanaryTokens(form=form), prompt=_prompt(top),
    )  # fmt: skip
    # Types of tokens have a table, and Canary never reads it.
    d.harmless("embedding_dropout", "attn_score_dropout", "attn_layer_dropout", "num_token_types")
    d.harmless("vocab_size", "mask_future")
    d.close(OTHER_SETTINGS["config_dict"])
    s.close(OTHER_SETTINGS["transf_decoder"])
    head.between = _between(top, head.dim)
    _classifier(top.section("head"), head.dim)
    head.label_smoothing = _smoothing(top)
    top.harmless(*HARMLESS)
    return head


def _of_class(s: Section, name: str) -> None:
    target = str(s.raw("_target_", name)).rsplit(".", 1)[-1]
    if target != name:
        raise MayaError(f"{s.path}: {s.name} is a {target}; Maya supports {name}")


def _transformer(s: Section, final_norm: bool) -> TransformerConfig:
    s.fixed("hidden_act", "relu", "gelu")
    return TransformerConfig(
        layers=s.need("num_layers", int), heads=s.take("num_attention_heads", 1),
        feed_forward=s.need("inner_size", int), activation=s.raw("hidden_act", "relu"),
        pre_norm=s.take("pre_ln", False), final_norm=final_norm,
    )  # fmt: skip


def _between(top: Section, dim: int) -> TransformerConfig:
    """The layers between encoder and decoder, none where the yaml has none."""
    values = top.raw("transf_encoder")
    if not isinstance(values, dict) or not values.get("num_layers"):
        return TransformerConfig(layers=0)
    s = top.section("transf_encoder")
    _of_class(s, "TransformerEncoder")
    s.fixed("hidden_size", dim)
    s.fixed("mask_future", False)
    layers = _transformer(s, s.take("pre_ln_final_layer_norm", True))
    s.harmless("ffn_dropout", "attn_score_dropout", "attn_layer_dropout")
    s.close()
    return layers


def _classifier(s: Section, dim: int) -> None:
    _of_class(s, "TokenClassifier")
    s.fixed("num_layers", 1)
    s.fixed("log_softmax", True)
    s.fixed("hidden_size", dim)
    s.harmless("activation", "num_classes", "dropout", "use_transformer_init")
    s.close()


def _smoothing(top: Section) -> float:
    """The label smoothing of the loss."""
    s = Section(top.path, "loss", top.raw("loss") or {})
    _of_class(s, "SmoothedCrossEntropyLoss")
    s.fixed("predict_last_k", 0)
    s.harmless("pad_id", "eps", "per_token_reduction")
    value = s.take("label_smoothing", 0.0) if "label_smoothing" in s else 0.0
    s.close()
    return value


def _prompt(top: Section) -> CanaryPrompt:
    """What the archive's prompt asks for by default. Its languages are not taken: they are named, or
    identified."""
    turns = top.raw("prompt_defaults") or []
    if not isinstance(turns, list):
        raise MayaError(f"{top.path}: prompt_defaults is {turns!r}, not a list of turns")
    user = [t.get("slots") or {} for t in turns if isinstance(t, dict) and t.get("role") == "user"]
    slots = user[0] if user and isinstance(user[0], dict) else {}

    def wanted(name: str, default: bool) -> bool:
        value = slots.get(name)
        return default if value is None else str(value).lower() in (*YES, name, f"<|{name}|>")

    second = top.raw("prompt_format") == "canary2"
    return CanaryPrompt(
        punctuation=wanted("pnc", True), inverse_normalisation=second and wanted("itn", False),
        timestamps=second and wanted("timestamp", False), diarize=second and wanted("diarize", False),
    )  # fmt: skip


def special_tokens(tokenizer: Tokenizer, form: Any, path: Path) -> CanaryTokens:
    """The tokens of the prompt by their pieces. Raises MayaError for a tokenizer that lacks some."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    offset, size = 0, len(pieces)
    own: list[str] | None = None
    if isinstance(tokenizer, AggregateTokenizer):
        if SPECIAL not in tokenizer.parts:
            raise MayaError(f"{path}: tokenizer.langs has no {SPECIAL!r}, the special tokens of Canary")
        own = [code for code in tokenizer.languages if code != SPECIAL]
        for code, part in tokenizer.parts.items():
            if code == SPECIAL:
                size = part.vocab_size
                break
            offset += part.vocab_size
    ids = {piece: i for i, piece in enumerate(pieces[offset : offset + size], offset)}
    is_special = [own is not None or p == "<pad>" or (p[:2], p[-2:]) == ("<|", "|>") for p in ids]
    if own is None:
        own = [match[1] for piece in ids if (match := LANGUAGE.fullmatch(piece))]
    named = {code: i for code in own if (i := ids.get(f"<|{code}|>", ids.get(f"<|{code[:2]}|>"))) is not None}

    def need(name: str) -> int:
        if f"<|{name}|>" not in ids:
            raise MayaError(f"{path}: the tokenizer has no <|{name}|>, which prompts of the form {form} need")
        return ids[f"<|{name}|>"]

    if not named:
        raise MayaError(f"{path}: the tokenizer has no token of any language, such as <|en|>")
    tokens = CanaryTokens(
        form=form, end=need("endoftext"), start=need("startoftranscript"), languages=tuple(named),
        language_ids=tuple(named.values()), pnc=(need("pnc"), need("nopnc")),
        special=tuple(i for i, special in zip(ids.values(), is_special, strict=True) if special),
    )  # fmt: skip
    if form == "canary":
        return replace(tokens, transcribe=need("transcribe"), translate=need("translate"))
    count = 0
    while ids.get(f"<|{count}|>", -1) == ids.get("<|0|>", 0) + count:
        count += 1
    emotions = [i for piece, i in ids.items() if piece.startswith("<|emo:") and i != need("emo:undefined")]
    options: dict[str, Any] = {
        name: (need(name), need(f"no{name}")) for name in ("itn", "timestamp", "diarize")
    }
    return replace(
        tokens, begin=need("startofcontext"), emotions=(need("emo:undefined"), *emotions),
        zero=ids.get("<|0|>", 0), times=count, **options,
    )  # fmt: skip


def with_tokens(config: SpeechModelConfig, tokenizer: Tokenizer, path: Path) -> SpeechModelConfig:
    """The configuration with vocabulary, special tokens and languages."""
    head = config.head(HEAD, CanaryDecoderConfig)
    head = replace(head, tokens=special_tokens(tokenizer, head.tokens.form, path))
    languages = head.tokens.languages
    return replace(config, heads={HEAD: head}, vocab_size=tokenizer.vocab_size, languages=languages)


def canary_weights(stored: Mapping[str, Tensor], config: SpeechModelConfig, path: Path) -> dict[str, Tensor]:
    """Maya's state dict (fp32) from NeMo's. Raises MayaError for a tensor that is missing, unexpected or of
    another shape than the yaml gives it, and for outputs that are not tied to the embeddings."""
    speech = replace(config, heads={"ctc": CTCConfig()})
    weights = checked_weights(stored, speech, path, encoder_only=True)
    parts, learned = nemo_parts(speech, "NeMo"), config.head(HEAD, CanaryDecoderConfig).learned_positions
    table = stored.get("transf_decoder._embedding.token_embedding.weight")
    if table is not None and not torch.equal(stored.get(TIED, table), table):
        raise MayaError(f"{path}: {TIED} differs from the token embeddings, to which Canary's is tied")
    for name, tensor in stored.items():
        of_encoder = name.startswith(("encoder.", "preprocessor."))
        if not (of_encoder or name == TIED or UNUSED.fullmatch(name) or PASSED_OVER.fullmatch(name)):
            weights[maya_name(name)] = tensor.float() if tensor.is_floating_point() else tensor

    def original(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        head = name.removeprefix(f"heads.{HEAD}.")
        return (nemo_name(name, parts) if head == name else original_name(head, learned)), tensor

    return strict(weights, config, path, "the network of its yaml", original)


def maya_name(name: str) -> str:
    """Maya's name of a tensor of NeMo's beside encoder and features."""
    for nemo, maya in BEGINNINGS:
        if name.startswith(nemo):
            number, rest = maya, name.removeprefix(nemo)
            for old, new in LAYERS.get(maya, ()):
                rest = rest.replace(old, new)
            return f"heads.{HEAD}.{number}{rest}"
    return name


def original_name(name: str, learned: bool) -> str:
    """NeMo's name of a tensor of the head. learned: whether its positions are."""
    for nemo, maya in BEGINNINGS:
        if name.startswith(maya) and not (maya == "positions" and nemo.endswith("pos_enc") == learned):
            rest = name.removeprefix(maya)
            for old, new in reversed(LAYERS.get(maya, ())):
                rest = rest.replace(new, old)
            return nemo + rest
    return name
