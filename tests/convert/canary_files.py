"""Tiny Canary archives made to NeMo's specification, and a plain decoder of NeMo's arithmetic.

`PlainDecoder` has NeMo's names of tensors and NeMo's formulas, step for step: scores of attention with -10000
on masked places, no cache, and whole sequences read again for each token.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece as spm
import torch
from torch import Tensor

from maya.convert.nemo.archive import REFERENCE, artifact_name, write_archive
from maya.convert.nemo.export import encoder_section
from maya.convert.nemo.parts import nemo_parts
from maya.convert.nemo.weights import to_nemo_names
from maya.text.tokenizer import Tokenizer
from tests.convert import archives

DEFAULTS = ["<|nospeech|>", "<pad>", "<|endoftext|>", "<|startoftranscript|>", "<|pnc|>", "<|nopnc|>"]
SECOND = [
    "<|startofcontext|>", "<|itn|>", "<|noitn|>", "<|timestamp|>", "<|notimestamp|>", "<|diarize|>",
    "<|nodiarize|>", "<|emo:undefined|>", "<|emo:happy|>",
]  # fmt: skip
TIMES = [f"<|{n}|>" for n in range(40)]
FIRST = ["<|translate|>", "<|transcribe|>", "<|en|>", "<|hi|>"]
DIM, LAYERS, HEADS, POSITIONS = 32, 2, 4, 64
ENCODER_DIM = 32


def special_model(tokens: Sequence[str]) -> bytes:
    """A SentencePiece model whose pieces are these tokens, as NeMo builds its tokenizer of special tokens."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.Train(
        sentence_iterator=iter(tokens), model_writer=model, vocab_size=len(tokens) + 2, model_type="bpe",
        user_defined_symbols=list(tokens), bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2,
        character_coverage=1.0, hard_vocab_limit=False,
    )  # fmt: skip
    return model.getvalue()


def language_model(language: str, extra: Sequence[str] = ()) -> bytes:
    """A SentencePiece model of a language, with user-defined pieces first where there are any."""
    if not extra:
        return archives.tokenizer(language).model_bytes
    model = io.BytesIO()
    texts = [text for code in archives.TEXTS for text in archives.TEXTS[code]]
    spm.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=len(extra) + 70, model_type="bpe",
        user_defined_symbols=list(extra), bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def tokenizer_section(form: str, unified: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The yaml's tokenizer and its files: one model for each language, or one for all."""
    specials = [*DEFAULTS, *(SECOND + TIMES if form == "canary2" else []), *FIRST]
    files: dict[str, bytes] = {}

    def section(content: bytes) -> dict[str, Any]:
        name = artifact_name(content, "tokenizer.model")
        files[name] = content
        return {"dir": "", "type": "bpe", "model_path": REFERENCE + name}

    classes = "nemo.collections.common.tokenizers.canary_tokenizer."
    if unified:
        values = section(language_model("en", specials))
        return values | {"custom_tokenizer": {"_target_": classes + "CanaryBPETokenizer"}}, files
    langs = {"spl_tokens": section(special_model(specials))}
    langs |= {code: section(language_model(code)) for code in archives.TEXTS}
    custom = {"_target_": classes + "CanaryTokenizer", "tokenizers": None}
    return {"dir": None, "type": "agg", "langs": langs, "custom_tokenizer": custom}, files


def decoder_weights(
    outputs: int, *, dim: int = DIM, between: int = 0, learned: bool = False, pre_ln: bool = True,
    projected: bool = False, final_norm: bool = True,
) -> dict[str, Tensor]:  # fmt: skip
    """Random weights of the decoder and what stands before it, by NeMo's names."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 0.1)

    weights: dict[str, Tensor] = {}

    def linear(name: str, out: int, into: int) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = draw(out, into), draw(out)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = 1 + draw(dim), draw(dim)

    def attention(name: str) -> None:
        for part in ("query_net", "key_net", "value_net", "out_projection"):
            linear(f"{name}.{part}", dim, dim)

    if projected:
        linear("encoder_decoder_proj", dim, ENCODER_DIM)
    for n in range(between):
        layer = f"transf_encoder.layers.{n}."
        norm(layer + "layer_norm_1")
        attention(layer + "first_sub_layer")
        norm(layer + "layer_norm_2")
        linear(layer + "second_sub_layer.dense_in", 2 * dim, dim)
        linear(layer + "second_sub_layer.dense_out", dim, 2 * dim)
    if between and pre_ln and final_norm:
        norm("transf_encoder.final_layer_norm")
    embedding = "transf_decoder._embedding."
    weights[embedding + "token_embedding.weight"] = draw(outputs, dim)
    if learned:
        weights[embedding + "position_embedding.weight"] = draw(POSITIONS, dim)
    else:
        weights[embedding + "position_embedding.pos_enc"] = fixed_positions(POSITIONS, dim)
    norm(embedding + "layer_norm")
    for n in range(LAYERS):
        layer = f"transf_decoder._decoder.layers.{n}."
        for k in (1, 2, 3):
            norm(layer + f"layer_norm_{k}")
        attention(layer + "first_sub_layer")
        attention(layer + "second_sub_layer")
        linear(layer + "third_sub_layer.dense_in", 2 * dim, dim)
        linear(layer + "third_sub_layer.dense_out", dim, 2 * dim)
    if pre_ln and final_norm:
        norm("transf_decoder._decoder.final_layer_norm")
    weights["log_softmax.mlp.layer0.weight"] = weights[embedding + "token_embedding.weight"]
    weights["log_softmax.mlp.layer0.bias"] = draw(outputs)
    return weights


def fixed_positions(length: int, dim: int) -> Tensor:
    table = torch.zeros(length, dim)
    for place in range(length):
        for i in range(0, dim, 2):
            angle = place * math.exp(-math.log(10000.0) * i / dim)
            table[place, i], table[place, i + 1] = math.sin(angle), math.cos(angle)
    return table / math.sqrt(dim)


def transformers(between: int, learned: bool, pre_ln: bool, act: str, dim: int) -> dict[str, Any]:
    """The yaml's sections of the Transformers and of the outputs."""
    module = "nemo.collections.asr.modules.transformer."
    shape = {
        "num_attention_heads": HEADS, "inner_size": 2 * dim, "hidden_size": dim, "ffn_dropout": 0.1,
        "attn_score_dropout": 0.1, "attn_layer_dropout": 0.1, "hidden_act": act, "pre_ln": pre_ln,
    }  # fmt: skip
    return {
        "transf_encoder": {
            "_target_": module + "transformer_encoders.TransformerEncoder", "num_layers": between,
            "mask_future": False, "pre_ln_final_layer_norm": True, **shape,
        },
        "transf_decoder": {
            "_target_": module + "get_nemo_transformer", "model_name": None, "pretrained": False,
            "encoder": None, "pre_ln_final_layer_norm": True,
            "config_dict": {
                "max_sequence_length": POSITIONS, "num_token_types": 0, "embedding_dropout": 0.1,
                "learn_positional_encodings": learned, "num_layers": LAYERS, "vocab_size": "None", **shape,
            },
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1, "activation": "relu", "log_softmax": True, "hidden_size": dim,
            "num_classes": "None", "dropout": 0.0, "use_transformer_init": True,
        },
    }  # fmt: skip


def archive(
    path: Path, *, form: str = "canary2", unified: bool = False, between: int = 0, learned: bool = False,
    change: Any = None, **shape: Any,
) -> Path:  # fmt: skip
    """A `.nemo` file of a Canary. shape: pre_ln, act, dim. change: called with the yaml and the weights."""
    pre_ln, act, dim = shape.get("pre_ln", True), shape.get("act", "relu"), shape.get("dim", DIM)
    torch.manual_seed(7)
    speech = archives.recognizer(
        **{"transducer": "none", "ctc_weight": 1.0, "features.num_mels": 128, "encoder.feat_in": 128,
           "features.dither": 0.0}
    )  # fmt: skip
    parts = nemo_parts(speech.model.cfg, "NeMo")
    stored = to_nemo_names(speech.model.state_dict(), parts)
    weights = {n: t for n, t in stored.items() if n.startswith(("encoder.", "preprocessor."))}
    tokenizer, files = tokenizer_section(form, unified)
    size = sum(Tokenizer(content).vocab_size for content in files.values())
    weights |= decoder_weights(
        -(-size // 8) * 8, dim=dim, between=between, learned=learned, pre_ln=pre_ln,
        projected=dim != ENCODER_DIM,
    )  # fmt: skip
    module = "nemo.collections.asr.modules."
    slots = {"source_lang": "<|en|>", "target_lang": "<|en|>", "pnc": "<|pnc|>"}
    config: dict[str, Any] = {
        "sample_rate": 16000, "label_smoothing": 0.0, "use_loss_mask_for_prompt": False,
        "prompt_format": form, "prompt_defaults": [{"role": "user", "slots": slots}],
        "multitask_metrics_cfg": {"metrics": {"wer": {"_target_": "nemo.collections.asr.metrics.WER"}}},
        "model_defaults": {"asr_enc_hidden": ENCODER_DIM, "lm_enc_hidden": dim, "lm_dec_hidden": dim},
        "tokenizer": tokenizer,
        "preprocessor": {
            "_target_": module + "AudioToMelSpectrogramPreprocessor", "sample_rate": 16000,
            "normalize": "per_feature", "window_size": 0.025, "window_stride": 0.01, "window": "hann",
            "features": 128, "n_fft": 512, "log": True, "frame_splicing": 1, "dither": 0.0, "pad_to": 0,
        },
        "encoder": encoder_section(parts.encoder),
        **transformers(between, learned, pre_ln, act, dim),
        "decoding": {"strategy": "beam", "beam": {"beam_size": 1, "len_pen": 0.0}},
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.0, "pad_id": None,
        },
        "target": "nemo.collections.asr.models.aed_multitask_models.EncDecMultiTaskModel",
        "nemo_version": "2.6.0",
    }  # fmt: skip
    if change is not None:
        change(config, weights)
    write_archive(path, config, weights, files)
    return path


class PlainDecoder:
    """NeMo's TransformerDecoderNM and TokenClassifier, written out, over weights by NeMo's names."""

    def __init__(self, weights: dict[str, Tensor], *, pre_ln: bool = True, act: str = "relu") -> None:
        self.w, self.pre_ln = weights, pre_ln
        self.act = torch.relu if act == "relu" else torch.nn.functional.gelu

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, x: Tensor, memory: Tensor, mask: Tensor, name: str) -> Tensor:
        q, k, v = (
            self.linear(source, f"{name}.{part}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for source, part in ((x, "query_net"), (memory, "key_net"), (memory, "value_net"))
        )
        scale = math.sqrt(math.sqrt(q.shape[-1]))
        scores = (q / scale) @ (k / scale).transpose(-1, -2) + mask
        return self.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.out_projection")

    def feed_forward(self, x: Tensor, name: str) -> Tensor:
        return self.linear(self.act(self.linear(x, f"{name}.dense_in")), f"{name}.dense_out")

    def block(self, x: Tensor, name: str, sublayers: Sequence[Any]) -> Tensor:
        for k, sublayer in enumerate(sublayers, 1):
            if self.pre_ln:
                x = x + sublayer(self.norm(x, f"{name}.layer_norm_{k}"))
            else:
                x = self.norm(x + sublayer(x), f"{name}.layer_norm_{k}")
        return x

    def states(self, frames: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's frames (B, S, D) as the decoder reads them, and the mask of the frames."""
        if "encoder_decoder_proj.weight" in self.w:
            frames = self.linear(frames, "encoder_decoder_proj")
        seen = torch.arange(frames.shape[1])[None] < lens[:, None]
        mask = -10000.0 * (~seen).float()[:, None, None]
        n = 0
        while f"transf_encoder.layers.{n}.layer_norm_1.weight" in self.w:
            name = f"transf_encoder.layers.{n}"
            frames = self.block(frames, name, (
                lambda y, name=name: self.attention(y, y, mask, f"{name}.first_sub_layer"),
                lambda y, name=name: self.feed_forward(y, f"{name}.second_sub_layer"),
            ))  # fmt: skip
            n += 1
        if "transf_encoder.final_layer_norm.weight" in self.w:
            frames = self.norm(frames, "transf_encoder.final_layer_norm")
        return frames, mask

    def log_probs(self, frames: Tensor, lens: Tensor, tokens: Tensor) -> Tensor:
        """(B, S, D), (B,), (B, U) -> (B, U, V)."""
        states, mask = self.states(frames, lens)
        embedding = "transf_decoder._embedding."
        table = self.w.get(embedding + "position_embedding.pos_enc")
        table = self.w[embedding + "position_embedding.weight"] if table is None else table
        x = self.w[embedding + "token_embedding.weight"][tokens] + table[: tokens.shape[1]]
        x = self.norm(x, embedding + "layer_norm")
        size = tokens.shape[1]
        future = -10000.0 * (1 - torch.tril(torch.ones(size, size)))
        for n in range(LAYERS):
            name = f"transf_decoder._decoder.layers.{n}"
            x = self.block(x, name, (
                lambda y, name=name: self.attention(y, y, future, f"{name}.first_sub_layer"),
                lambda y, name=name: self.attention(y, states, mask, f"{name}.second_sub_layer"),
                lambda y, name=name: self.feed_forward(y, f"{name}.third_sub_layer"),
            ))  # fmt: skip
        if "transf_decoder._decoder.final_layer_norm.weight" in self.w:
            x = self.norm(x, "transf_decoder._decoder.final_layer_norm")
        return self.linear(x, "log_softmax.mlp.layer0").log_softmax(-1)

    def greedy(
        self, frames: Tensor, prompt: Sequence[int], end: int, never: Sequence[int], limit: int
    ) -> list[int]:
        """The text of one utterance (1, S, D): the likeliest token again and again, all read anew."""
        lens, tokens = torch.tensor([frames.shape[1]]), list(prompt)
        while len(tokens) - len(prompt) < limit:
            scores = self.log_probs(frames, lens, torch.tensor([tokens]))[0, -1]
            scores[list(never)] = -torch.inf
            best = int(scores.argmax())
            if best == end:
                break
            tokens.append(best)
        return tokens[len(prompt) :]
