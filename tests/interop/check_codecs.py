"""SpeechTokenizer, BEATs and emotion2vec against the published classes, with tiny random weights.

    pip install --no-deps einops omegaconf antlr4-python3-runtime==4.9.3
    pip download --no-deps speechtokenizer==1.0.1 funasr==1.4.16
    unzip -d peers/speechtokenizer speechtokenizer-*.whl
    unzip -d peers/funasr funasr-*.whl
    git clone https://github.com/microsoft/unilm
    cp -r unilm/beats peers/beats
    python tests/interop/check_codecs.py peers

The packages are not installed: they would bring much that the classes do not need.
"""

import functools
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from maya.encoders import beats, emotion2vec, speech_tokenizer
from tests.encoders.published_files import BEATS, CODEC, EMOTION, shaken

BAR = 1e-5
SAMPLES = (16000, 15873, 3210, 640, 400)


def package(name: str, path: Path) -> None:
    """Make a folder a package without running its __init__."""
    module = types.ModuleType(name)
    module.__path__ = [str(path)]
    sys.modules[name] = module


def encoder_of(cfg: Any) -> Any:
    encoder = cfg.build().eval()
    encoder.read_start()
    return encoder


def check_speech_tokenizer(peers: Path, top: Path) -> float:
    package("speechtokenizer", peers / "speechtokenizer" / "speechtokenizer")
    model = shaken(importlib.import_module("speechtokenizer.model").SpeechTokenizer(CODEC))
    for layer in model.quantizer.vq.layers:
        layer._codebook.embed.normal_(std=0.1)
        layer._codebook.inited.fill_(1)
    torch.save(model.state_dict(), top / "SpeechTokenizer.pt")
    (top / "config.json").write_text(json.dumps(CODEC))
    worst = 0.0
    for output in ("latents", "quantized", "semantic"):
        ours = encoder_of(speech_tokenizer(top, output=output)[1])
        for n in (*SAMPLES, 5, 1):
            x, lens = 0.3 * torch.randn(1, n), torch.tensor([n])
            codes = model.encode(x[:, None])
            assert torch.equal(ours.codes(x[:, :, None], lens)[0].permute(2, 0, 1), codes)
            expected = {
                "latents": model.encoder(x[:, None]).mT,
                "quantized": model.quantizer.decode(codes).mT,
                "semantic": model.transform(model.forward_feature(x[:, None], [0])[0].mT),
            }[output]
            worst = max(worst, float((ours(x[:, :, None], lens).frames - expected).abs().max()))
    return worst


def check_beats(peers: Path, top: Path) -> float:
    sys.path.insert(0, str(peers / "beats"))
    for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
        sys.modules[name] = types.ModuleType(name)  # of the features, which are compared elsewhere
    published = importlib.import_module("BEATs")
    model = shaken(published.BEATs(published.BEATsConfig({**BEATS, "finetuned_model": True})))
    torch.save({"cfg": BEATS, "model": model.state_dict()}, top / "beats.pt")
    ours, worst = encoder_of(beats(top / "beats.pt")[1]), 0.0
    for frames in (330, 48, 16):
        feats = torch.randn(1, frames, 128)
        x = model.layer_norm(model.patch_embedding(feats[:, None]).flatten(2).mT)
        expected = model.encoder(model.post_extract_proj(x))[0].unflatten(1, (-1, 8)).mean(2)
        worst = max(worst, float((ours(feats, torch.tensor([frames])).frames - expected).abs().max()))
    return worst


class Emotion2vec(nn.Module):
    """FunASR's model out of its own parts, without its registry."""

    def __init__(self, modules: Any, audio: Any, settings: Any) -> None:
        super().__init__()
        norm = functools.partial(nn.LayerNorm, eps=1e-5)

        def block(*args: Any) -> Any:
            options = {"qkv_bias": True, "norm_layer": norm, "layer_norm_first": False, "ffn_targets": True}
            return modules.AltBlock(settings.embed_dim, settings.num_heads, 4.0, **options)

        encoder = audio.AudioEncoder(settings.modalities.audio, settings.embed_dim, block, norm, False, {})
        self.modality_encoders = nn.ModuleDict({"AUDIO": encoder})
        self.blocks = nn.ModuleList(block() for _ in range(settings.depth))
        self.proj = nn.Linear(settings.embed_dim, 9)
        self.extra = settings.modalities.audio.num_extra_tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.modality_encoders["AUDIO"](x, None, False, False)
        y, bias, scales = out["x"], out["alibi_bias"], out["alibi_scale"]
        for number, block in enumerate(self.blocks):
            y, _ = block(y, None, bias if scales is None else bias * scales[number])
        return y[:, self.extra :]


def check_emotion2vec(peers: Path, top: Path) -> float:
    base = peers / "funasr" / "funasr"
    package("funasr", base)
    package("funasr.models", base / "models")
    package("funasr.models.emotion2vec", base / "models" / "emotion2vec")
    modules, audio = (importlib.import_module(f"funasr.models.emotion2vec.{n}") for n in ("modules", "audio"))
    omegaconf, worst = importlib.import_module("omegaconf").OmegaConf, 0.0
    for each in (True, False):
        settings = json.loads(json.dumps(EMOTION))
        settings["modalities"]["audio"] |= {
            "start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0, "prenet_layerdrop": 0.0,
            "prenet_dropout": 0.0, "decoder": None, "local_grad_mult": 1.0, "init_extra_token_zero": True,
            "learned_alibi_scale_per_layer": each, "model_depth": settings["depth"], "num_alibi_heads": 6,
            "learned_alibi_scale_per_head": True, "alibi_scale": 1.0, "learned_alibi_scale": True,
        }  # fmt: skip
        model = shaken(Emotion2vec(modules, audio, omegaconf.create(settings)))
        torch.save({"model": model.state_dict()}, top / "model.pt")
        (top / "config.yaml").write_text(yaml.safe_dump({"model_conf": settings}))
        features, cfg = emotion2vec(top)
        ours = encoder_of(cfg)
        for n in SAMPLES:
            x = 0.1 * torch.randn(1, n)
            got = ours(*features.build()(x, torch.tensor([n]))).frames
            worst = max(worst, float((got - model(nn.functional.layer_norm(x, x.shape))).abs().max()))
    return worst


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    checks = {
        "SpeechTokenizer": check_speech_tokenizer,
        "BEATs": check_beats,
        "emotion2vec": check_emotion2vec,
    }
    results = {}
    for name, check in checks.items():
        with tempfile.TemporaryDirectory() as top:
            results[name] = check(Path(sys.argv[1]), Path(top))
        print(f"{name}: largest difference {results[name]:.1e}", flush=True)
    sys.exit(max(results.values()) > BAR)


if __name__ == "__main__":
    main()
