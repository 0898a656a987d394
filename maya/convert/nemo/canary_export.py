"""Canary's sections of the yaml and its tensors by NeMo's names, to be written."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maya.convert.nemo.canary import HEAD, TIED, original_name
from maya.heads import CanaryDecoderConfig
from maya.heads.canary import TransformerConfig
from maya.text.aggregate import AggregateTokenizer
from maya.text.tokenizer import Tokenizer

TARGET = "nemo.collections.asr.models.aed_multitask_models.EncDecMultiTaskModel"
TRANSFORMER = "nemo.collections.asr.modules.transformer."
TOKENIZERS = "nemo.collections.common.tokenizers.canary_tokenizer."


def canary_sections(head: CanaryDecoderConfig, width: int) -> dict[str, Any]:
    """The yaml of the decoder. width: channels of the speech encoder."""
    asked, languages = head.prompt, head.tokens.languages

    def slot(name: str, wanted: bool) -> str:
        return f"<|{name}|>" if wanted else f"<|no{name}|>"

    slots = {"source_lang": f"<|{languages[0]}|>", "target_lang": f"<|{languages[0]}|>"}
    slots["pnc"] = slot("pnc", asked.punctuation)
    if head.tokens.form == "canary":
        slots["task"] = "<|transcribe|>"
    else:
        slots |= {
            "decodercontext": "", "emotion": "<|emo:undefined|>",
            "itn": slot("itn", asked.inverse_normalisation),
            "timestamp": slot("timestamp", asked.timestamps), "diarize": slot("diarize", asked.diarize),
        }  # fmt: skip
    decoder = _layers(head.decoder, head) | {
        "max_sequence_length": head.positions, "num_token_types": 0, "embedding_dropout": head.dropout,
        "learn_positional_encodings": head.learned_positions, "vocab_size": "None",
    }  # fmt: skip
    return {
        "prompt_format": head.tokens.form, "prompt_defaults": [{"role": "user", "slots": slots}],
        "model_defaults": {"asr_enc_hidden": width, "lm_enc_hidden": head.dim, "lm_dec_hidden": head.dim},
        "label_smoothing": head.label_smoothing, "use_loss_mask_for_prompt": True,
        "transf_encoder": {
            "_target_": TRANSFORMER + "transformer_encoders.TransformerEncoder", "mask_future": False,
            "pre_ln_final_layer_norm": head.between.final_norm, **_layers(head.between, head),
        },
        "transf_decoder": {
            "_target_": TRANSFORMER + "get_nemo_transformer", "model_name": None, "pretrained": False,
            "encoder": None, "pre_ln_final_layer_norm": head.decoder.final_norm, "config_dict": decoder,
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1, "activation": "relu", "log_softmax": True, "hidden_size": head.dim,
            "num_classes": "None", "dropout": 0.0, "use_transformer_init": True,
        },
        "decoding": {
            "strategy": "beam", "return_best_hypothesis": True,
            "beam": {"beam_size": 1, "len_pen": 0.0, "max_generation_delta": 50},
        },
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": head.label_smoothing, "pad_id": None,
        },
        "target": TARGET,
    }  # fmt: skip


def _layers(cfg: TransformerConfig, head: CanaryDecoderConfig) -> dict[str, Any]:
    return {
        "num_layers": cfg.layers, "hidden_size": head.dim, "inner_size": cfg.feed_forward,
        "num_attention_heads": cfg.heads, "ffn_dropout": head.dropout, "attn_score_dropout": head.dropout,
        "attn_layer_dropout": head.dropout, "hidden_act": cfg.activation, "pre_ln": cfg.pre_norm,
    }  # fmt: skip


def custom_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """The class that names the special tokens."""
    if isinstance(tokenizer, AggregateTokenizer):
        return {"_target_": TOKENIZERS + "CanaryTokenizer", "tokenizers": None}
    return {"_target_": TOKENIZERS + "CanaryBPETokenizer"}


def canary_tensors(state: Mapping[str, Tensor], head: CanaryDecoderConfig) -> dict[str, Tensor]:
    """The tensors of the head by NeMo's names; the outputs are the embeddings once more."""
    prefix = f"heads.{HEAD}."
    named = {
        original_name(name.removeprefix(prefix), head.learned_positions): tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    return named | {TIED: named["transf_decoder._embedding.token_embedding.weight"]}
