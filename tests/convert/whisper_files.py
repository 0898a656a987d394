"""Tiny random Whisper models in the folders and files that people have."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.convert.whisper.load import import_whisper
from maya.convert.whisper.names import from_hugging_face
from maya.decode.recognizer import Recognizer

POSITIONS = 100  # of the encoder: windows of 2 s
LANGUAGES = ("en", "hi", "zh")


def tokenizer_json(path: Path, *, timestamps: bool = True) -> int:
    """Write a BPE of bytes with Whisper's special tokens, and return the number of tokens with timestamps."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in set(plain)]
    pieces = [chr(b) for b in plain] + [chr(256 + n) for n in range(len(rest))]
    merges = [pair.split("+") for pair in ("_+t", "_t+h", "_th+e", "i+n", "in+g", "_+a")]
    merges = [[part.replace("_", "\u0120") for part in pair] for pair in merges]
    pieces += ["".join(pair) for pair in merges]
    names = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm",
             "startofprev", "nospeech", "notimestamps"]  # fmt: skip
    names = [f"<|{name}|>" for name in names]
    times = [f"<|{n * 0.02:.2f}|>" for n in range(1501)]
    added = [
        {"id": len(pieces) + n, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for n, name in enumerate([*names, *times] if timestamps else names)
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    path.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "vocab": {p: i for i, p in enumerate(pieces)}, "merges": merges},
    }))  # fmt: skip
    return len(pieces) + len(names) + len(times)


def stock(folder: Path, *, seed: int = 0, multilingual: bool = True, **settings: Any) -> Any:
    """A model of transformers, and its folder."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    size = tokenizer_json(folder / "tokenizer.json")
    cfg = transformers.WhisperConfig(
        vocab_size=size, d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=512, decoder_ffn_dim=512, num_mel_bins=80,
        max_source_positions=POSITIONS, max_target_positions=448, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=1, **settings,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(cfg).eval()
    for p in model.model.parameters():  # norms and biases other than at the start
        if p.ndim == 1:
            torch.nn.init.normal_(p, mean=float(p.detach().mean()), std=0.1)
    model.model.decoder.embed_tokens.weight.data.mul_(8.0)  # decisions that are not close
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({
        "is_multilingual": multilingual, "alignment_heads": [[1, 0], [1, 1]], "suppress_tokens": [1, 5],
        "begin_suppress_tokens": [220, 262],
    }))  # fmt: skip
    return model


def recognizer(folder: Path, **options: Any) -> Recognizer:
    stock(folder, **options)
    return import_whisper(folder).recognizer("cpu")


def openai_checkpoint(path: Path, model: Any) -> None:
    """The same weights as OpenAI has them."""
    weights = {from_hugging_face(n): t for n, t in model.state_dict().items() if n != "proj_out.weight"}
    torch.save({"dims": {"n_audio_head": 2, "n_text_head": 2}, "model_state_dict": weights}, path)


def speech(seconds: float, seed: int = 0) -> Tensor:
    """Sound that changes (N,)."""
    generator = torch.Generator().manual_seed(seed)
    n = int(seconds * 16000)
    slow = torch.randn(n // 1600 + 2, generator=generator).repeat_interleave(1600)[:n]
    return 0.1 * slow * torch.randn(n, generator=generator)
