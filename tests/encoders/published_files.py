"""Tiny models in the formats in which SpeechTokenizer, BEATs and emotion2vec are published."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from maya.encoders import BeatsConfig, Emotion2vecConfig, SpeechTokenizerConfig

CODEC = {
    "n_filters": 4, "strides": [8, 5, 4, 2], "dimension": 16, "semantic_dimension": 12, "bidirectional": True,
    "dilation_base": 2, "residual_kernel_size": 3, "n_residual_layers": 1, "lstm_layers": 2,
    "activation": "ELU", "codebook_size": 32, "n_q": 4, "sample_rate": 16000, "learning_rate": 1e-4,
}  # fmt: skip
BEATS = {
    "input_patch_size": 16, "embed_dim": 16, "encoder_embed_dim": 32, "encoder_layers": 3, "conv_pos": 8,
    "encoder_attention_heads": 4, "encoder_ffn_embed_dim": 64, "conv_pos_groups": 4, "deep_norm": True,
    "layer_norm_first": False, "relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 32,
    "max_distance": 80, "activation_fn": "gelu", "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
EMOTION = {
    "embed_dim": 24, "depth": 2, "num_heads": 6, "norm_eps": 1e-5, "norm_affine": True, "normalize": True,
    "layer_norm_first": False, "encoder_dropout": 0.0, "attention_dropout": 0.0,
    "modalities": {"audio": {
        "feature_encoder_spec": "[(12, 10, 5)] + [(12, 3, 2)] * 4 + [(12,2,2)] + [(12,2,2)]",
        "extractor_mode": "layer_norm", "prenet_depth": 1, "conv_pos_depth": 5, "conv_pos_width": 95,
        "conv_pos_groups": 4, "conv_pos_pre_ln": False, "use_alibi_encoder": True, "num_extra_tokens": 3,
        "learned_alibi": False,
    }},
}  # fmt: skip


def shaken(module: nn.Module) -> Any:
    """With other weights, as starts are small or zero, so that differences would be too."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module.eval()


def split(weight: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """g and v of a weight norm over all dimensions but `kept`; v has another length than the weight."""
    over = [i for i in range(weight.dim()) if i != kept]
    return torch.linalg.vector_norm(weight, dim=over, keepdim=True), 1.7 * weight


def speech_tokenizer_folder(folder: Path, **changed: Any) -> nn.Module:
    """Write SpeechTokenizer.pt and config.json; returns the encoder that was written."""
    torch.manual_seed(0)
    cfg = SpeechTokenizerConfig(
        n_filters=4, dimension=16, semantic_dimension=12, codebook_size=32, levels=4, output="semantic"
    )
    encoder = shaken(cfg.build())
    with torch.no_grad():  # codes near the latents, so that many are in use
        latents, _ = encoder.latents(0.1 * torch.randn(1, 32 * 320, 1), torch.tensor([32 * 320]))
        encoder.codebooks.mul_(latents.std(1) / 2)
        encoder.codebooks[0] = latents[0]
    stored: dict[str, Tensor] = {"decoder.model.0.conv.conv.bias": torch.zeros(4)}
    for name, x in encoder.state_dict().items():
        published = name.replace("seanet.", "encoder.model.").replace(".conv.", ".conv.conv.")
        if published.endswith(".conv.conv.weight"):
            stored[published + "_g"], stored[published + "_v"] = split(x, 0)
        elif name != "codebooks":
            stored[published] = x
    for level, book in enumerate(encoder.codebooks):
        stored |= {f"quantizer.vq.layers.{level}._codebook.{n}": book for n in ("embed", "embed_avg")}
        stored[f"quantizer.vq.layers.{level}._codebook.inited"] = torch.ones(1)
    folder.mkdir(exist_ok=True)
    torch.save(stored, folder / "SpeechTokenizer.pt")
    (folder / "config.json").write_text(json.dumps(CODEC | changed))
    return encoder


def beats_file(path: Path, **changed: Any) -> nn.Module:
    """Write a fine-tuned BEATs file; returns the encoder that was written."""
    torch.manual_seed(0)
    cfg = BeatsConfig(
        patch_dim=16, d_model=32, n_layers=3, heads=4, ff_dim=64, position_kernel=8, position_groups=4,
        buckets=32, max_distance=80, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    encoder = shaken(cfg.build())
    stored = {"predictor.weight": torch.zeros(527, 32), "predictor.bias": torch.zeros(527)}
    for name, x in encoder.state_dict().items():
        if name == "pos_conv.weight":
            stored["encoder.pos_conv.0.weight_g"], stored["encoder.pos_conv.0.weight_v"] = split(x, 2)
        elif name == "pos_conv.bias":
            stored["encoder.pos_conv.0.bias"] = x
        elif name.startswith("relative_attention_bias"):
            stored |= {f"encoder.layers.{i}.self_attn.{name}": x for i in range(3)}
        elif name.startswith(("layers.", "layer_norm.")):
            stored[f"encoder.{name}"] = x
        else:
            stored[name.replace("patch_norm.", "layer_norm.")] = x
    torch.save({"cfg": BEATS | changed, "model": stored, "label_dict": {0: "/m/09x0r"}}, path)
    return encoder


def emotion2vec_folder(folder: Path, scales: int = 3, **changed: Any) -> nn.Module:
    """Write model.pt and config.yaml; returns the encoder that was written."""
    torch.manual_seed(0)
    cfg = Emotion2vecConfig(
        d_model=24, prenet_depth=1, depth=2, heads=6, ff_dim=96, conv_dim=12, position_groups=4,
        extra_tokens=3, scales=scales, scale_heads=6, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    encoder = shaken(cfg.build())
    audio, stored = "modality_encoders.AUDIO.", {"proj.weight": torch.zeros(9, 24), "_ema": torch.zeros(1)}
    for name, x in encoder.state_dict().items():
        part, _, rest = name.partition(".")
        number, _, leaf = rest.partition(".")
        block = leaf.replace("fc", "mlp.fc")
        stored[{
            "convolutions": f"{audio}local_encoder.conv_layers.{number}."
                            f"{leaf.replace('conv.', '0.').replace('norm.', '2.1.')}",
            "input_norm": f"{audio}project_features.1.{rest}", "input": f"{audio}project_features.2.{rest}",
            "positions": f"{audio}relative_positional_encoder.{int(number) + 1 if leaf else 0}.0.{leaf}",
            "norm": f"{audio}context_encoder.norm.{rest}",
            "layers": f"{audio}context_encoder.blocks.0.{block}" if number == "0"
                      else f"blocks.{int(number) - 1 if leaf else 0}.{block}",
        }.get(part, audio + name)] = x  # fmt: skip
    folder.mkdir(exist_ok=True)
    torch.save({"model": stored}, folder / "model.pt")
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"model": "Emotion2vec", "model_conf": EMOTION | changed})
    )
    return encoder
