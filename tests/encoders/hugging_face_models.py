"""Tiny models of transformers' real classes, in folders as people have them."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
FRONT = {"conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 4}
WAVE = {**SIZES, **FRONT, "num_conv_pos_embeddings": 16}
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
MEL = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
       "max_source_positions": 100, "num_mel_bins": 80}  # fmt: skip
# name -> (class of the saved model, its configuration class, settings, the stock encoder's path in it)
MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", WAVE, "wav2vec2"),
    "xls-r": ("Wav2Vec2ForPreTraining", "Wav2Vec2Config", {**WAVE, **LARGE}, "wav2vec2"),
    "mms": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {**WAVE, **LARGE, "adapter_attn_dim": 4}, "wav2vec2"),
    "hubert": ("HubertModel", "HubertConfig", WAVE, ""),
    "hubert-large": ("HubertForCTC", "HubertConfig", {**WAVE, **LARGE}, "hubert"),
    "wavlm": ("WavLMModel", "WavLMConfig", WAVE, ""),
    "wavlm-large": ("WavLMForXVector", "WavLMConfig", {**WAVE, **LARGE}, "wavlm"),
    "data2vec": ("Data2VecAudioForCTC", "Data2VecAudioConfig", {**SIZES, **FRONT}, "data2vec_audio"),
    "w2v-bert": ("Wav2Vec2BertForCTC", "Wav2Vec2BertConfig", {**SIZES, "vocab_size": 8}, "wav2vec2_bert"),
    "whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**MEL, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "vocab_size": 64,
         "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1},
        "model.encoder",
    ),
    "qwen2-audio": (
        "Qwen2AudioForConditionalGeneration", "Qwen2AudioConfig",
        {"audio_config": {"model_type": "qwen2_audio_encoder", **MEL, "num_mel_bins": 128},
         "text_config": {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "vocab_size": 64,
                         "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}},
        "model.audio_tower",
    ),
    "ast": (
        "ASTForAudioClassification", "ASTConfig", {**SIZES, "max_length": 256},
        "audio_spectrogram_transformer",
    ),
}  # fmt: skip
LENS = torch.tensor([24000, 17003, 9001])


def audio() -> Tensor:
    torch.manual_seed(1)
    return 0.1 * torch.randn(3, 24000) * (torch.arange(24000) < LENS[:, None])


@lru_cache
def stock(name: str, tower_width: int = 0) -> tuple[Any, Any]:
    """A random model of the class that people save, and its encoder, in evaluation mode. tower_width: of
    Qwen2-Audio's encoder, 0 for that of `MODELS`."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    cls, config, settings, path = MODELS[name]
    if tower_width:
        settings = {**settings, "audio_config": {**settings["audio_config"], "d_model": tower_width}}
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**settings)).eval()
    with torch.no_grad():
        for p in model.parameters():  # their start is small, so that differences would be too
            p.add_(0.1 * torch.randn_like(p))
    return model, model.get_submodule(path) if path else model


def save(model: Any, folder: Path, name: str) -> Path:
    """The folder of a model; of MMS with adapters for two languages that differ from those inside."""
    model.save_pretrained(folder)
    if name == "mms":
        from safetensors.torch import save_file

        for i, language in enumerate(("eng", "hin")):
            own = {
                k: v + 0.1 * i
                for k, v in model.state_dict().items()
                if "adapter_layer" in k or "lm_head" in k
            }
            save_file(own, folder / f"adapter.{language}.safetensors")
    return folder


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
