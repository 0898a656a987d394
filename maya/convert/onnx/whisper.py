"""Export Whisper as ONNX graphs, encoder and decoder with a cache, as sherpa-onnx reads them."""

import base64
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maya.convert.onnx.trace import Graph, packages, write
from maya.convert.whisper.export import whisper_head, whisper_tokenizer
from maya.convert.whisper.tokens import token_bytes
from maya.decode.recognizer import Recognizer
from maya.encoders import WhisperEncoder, WhisperEncoderConfig
from maya.heads.whisper import WhisperDecoder, WhisperDecoderConfig
from maya.models.speech_model import SpeechModel

TRACED_FRAMES = 100  # of features; the positions of a test model hold twice as many
CACHES = ("n_layer_self_k_cache", "n_layer_self_v_cache")


def to_whisper_onnx(model: Recognizer, out: str | Path, *, int8: bool = False) -> list[Path]:
    """Write encoder.onnx, decoder.onnx and tokens.txt into the folder `out`; returns the files.

    encoder: mel (N, mels, T), T frames of 10 ms, those of 30 s at most -> n_layer_cross_k and n_layer_cross_v
    (layers, N, S, D). decoder: tokens (N, U) int64, in_n_layer_self_k_cache and in_n_layer_self_v_cache
    (layers, N, positions, D), the encoder's outputs, offset (1,) int64, the tokens read before -> logits
    (N, U, V), and both caches. int8: also write graphs with weights of 8 bits. tokens.txt: base64 of each
    token's bytes, and its id.

    Each graph is run once and compared with the model. Raises MayaError without the packages of the extra
    [onnx], and for a model that is no Whisper.
    """
    packages()
    head, tokenizer = whisper_head(model), whisper_tokenizer(model)
    network = model.model.merge_adapters()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    table = out / "tokens.txt"
    pieces = token_bytes(tokenizer, head.tokens.end)
    lines = [f"{base64.b64encode(piece).decode()} {i}\n" for i, piece in enumerate(pieces)]
    table.write_text("".join(lines), encoding="ascii")
    facts = {"model_type": "whisper", "version": "1", "maintainer": "Maya"}
    written = [table, *write(_encoder(network), out, facts | metadata(model, head), int8=int8)]
    return [*written, *write(_decoder(network, head), out, facts, int8=int8)]


def metadata(model: Recognizer, head: WhisperDecoderConfig) -> dict[str, str]:
    """The metadata of the encoder."""
    cfg, ids = model.model.cfg, head.tokens
    encoder = cfg.encoder
    assert isinstance(encoder, WhisperEncoderConfig)
    prompt = [ids.start, ids.first_language, ids.transcribe] if ids.languages else [ids.start]
    values: dict[str, Any] = {
        "n_mels": encoder.feat_in, "n_audio_ctx": encoder.positions, "n_audio_state": encoder.d_model,
        "n_audio_head": encoder.heads, "n_audio_layer": encoder.n_layers, "n_vocab": cfg.vocab_size,
        "n_text_ctx": head.positions, "n_text_state": head.dim, "n_text_head": head.heads,
        "n_text_layer": head.layers, "sot_sequence": prompt, "sot": ids.start, "sot_index": 0, "eot": ids.end,
        "blank_id": model.tokenizer.encode(" ")[0], "is_multilingual": int(bool(ids.languages)),
        "all_language_tokens": [ids.language(code) for code in ids.languages],
        "all_language_codes": ids.languages, "no_speech": ids.no_speech, "non_speech_tokens": head.suppress,
        "transcribe": ids.transcribe, "translate": ids.translate, "sot_prev": ids.previous,
        "no_timestamps": ids.no_timestamps,
    }  # fmt: skip
    return {k: ",".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for k, v in values.items()}


class WhisperEncoderGraph(nn.Module):
    """Features to the keys and values of each layer of the decoder. The encoder reads as many frames as there
    are; `WhisperEncoder` fills 30 s, or masks."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        head = model.head("whisper")
        assert isinstance(model.encoder, WhisperEncoder) and isinstance(head, WhisperDecoder)
        self.encoder, self.head = model.encoder, head

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """mel (N, mels, T) -> keys and values, each (layers, N, S, D)."""
        x = self.encoder.frames(mel)
        for layer in self.encoder.layers:
            x = layer(x)
        x = self.encoder.ln_post(x)
        layers = self.head.blocks()
        keys = [layer.cross_attn.key(x) for layer in layers]
        return torch.stack(keys), torch.stack([layer.cross_attn.value(x) for layer in layers])


class WhisperDecoderGraph(nn.Module):
    """Tokens after `offset` others to the logits of each next one."""

    def __init__(self, head: WhisperDecoder) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, tokens: Tensor, k_cache: Tensor, v_cache: Tensor, cross_k: Tensor, cross_v: Tensor,
        offset: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """See `to_whisper_onnx`."""
        start, stop = offset[0], offset[0] + tokens.shape[1]
        places = torch.arange(k_cache.shape[2], device=tokens.device)
        x = self.head.token_embedding(tokens) + self.head.positional_embedding[start:stop]
        seen = places <= (torch.arange(tokens.shape[1], device=tokens.device) + start)[:, None]
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for i, layer in enumerate(self.head.blocks()):
            y, attn, cross = layer.attn_ln(x), layer.attn, layer.cross_attn
            keys.append(_written(k_cache[i], attn.key(y), start, stop))
            values.append(_written(v_cache[i], attn.value(y), start, stop))
            x = x + attn(y, (attn.split(keys[-1]), attn.split(values[-1])), seen)
            frames = (cross.split(cross_k[i]), cross.split(cross_v[i]))
            x = x + cross(layer.cross_attn_ln(x), frames)
            x = x + layer.mlp(layer.mlp_ln(x))
        logits = torch.nn.functional.linear(self.head.ln(x), self.head.token_embedding.weight)
        return logits, torch.stack(keys), torch.stack(values)


def _written(cache: Tensor, new: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """cache (N, positions, D) with new (N, U, D) at start to stop - 1."""
    return torch.cat([cache[:, :start], new, cache[:, stop:]], dim=1)


def _encoder(model: SpeechModel) -> Graph:
    module = WhisperEncoderGraph(model)
    mel = torch.randn(2, module.encoder.cfg.feat_in, TRACED_FRAMES)
    names = ("n_layer_cross_k", "n_layer_cross_v")
    return Graph(name="encoder", module=module, inputs={"mel": (mel, "N _ T")},
                 outputs={name: "_ N S" for name in names})  # fmt: skip


def _decoder(model: SpeechModel, cfg: WhisperDecoderConfig) -> Graph:
    head = model.head("whisper")
    assert isinstance(head, WhisperDecoder)
    cache, cross = "_ N", "_ N S"
    inputs = {"tokens": (torch.randint(0, cfg.tokens.end, (2, 4)), "N U")}
    for name in CACHES:
        inputs[f"in_{name}"] = torch.randn(cfg.layers, 2, cfg.positions, cfg.dim), cache
    for name in ("n_layer_cross_k", "n_layer_cross_v"):
        inputs[name] = torch.randn(cfg.layers, 2, TRACED_FRAMES // 2, cfg.dim), cross
    inputs["offset"] = torch.tensor([3]), "_"
    outputs = {"logits": "N U", **{f"out_{name}": cache for name in CACHES}}
    return Graph(name="decoder", module=WhisperDecoderGraph(head), inputs=inputs, outputs=outputs)
