"""Write Whisper models as folders of Hugging Face, which transformers opens with from_pretrained."""

from pathlib import Path
from typing import Any

from torch import Tensor

from maya.convert.hugging_face.card import model_card
from maya.convert.report import ConversionReport
from maya.convert.whisper.export import (
    alignment_pairs,
    export_report,
    openai_weights,
    whisper_head,
    whisper_tokenizer,
)
from maya.convert.whisper.load import TOKENIZER
from maya.convert.whisper.names import to_hugging_face_name
from maya.decode.recognizer import Recognizer
from maya.decode.whisper.rules import FIRST_TIMESTAMP
from maya.encoders.hugging_face.folder import WEIGHTS
from maya.encoders.whisper.encoder import WhisperEncoderConfig
from maya.features.whisper_mel import N_FFT
from maya.files import replacing, write_json
from maya.heads.whisper import TIMESTAMP_SECONDS, WhisperDecoderConfig, WhisperTokens
from maya.text.llm_tokenizer import MAGIC, LLMTokenizer

CLASS = "WhisperForConditionalGeneration"
_END = "<|endoftext|>"


def to_whisper_folder(model: Recognizer, out: str | Path, *, results: Path | None = None) -> ConversionReport:
    """Write the folder `out`: weights, configurations, tokenizer, and a model card. results: a run's folder
    decode/, whose scores the card shows. Raises MayaError for a model that is no Whisper."""
    from safetensors.torch import save_file

    out, head, tokenizer = Path(out), whisper_head(model), whisper_tokenizer(model)
    encoder = model.model.cfg.encoder
    assert isinstance(encoder, WhisperEncoderConfig)
    weights: dict[str, Tensor] = {
        to_hugging_face_name(name): tensor.contiguous().clone()
        for name, tensor in openai_weights(model).items()
    }
    report = export_report(model, out, CLASS)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", _config(encoder, head, model.model.cfg.vocab_size))
    write_json(out / "generation_config.json", _generation(head))
    write_json(out / "preprocessor_config.json", {
        "feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor",
        "feature_size": encoder.feat_in, "sampling_rate": 16000, "hop_length": 160, "n_fft": N_FFT,
        "chunk_length": encoder.positions // 50, "n_samples": 320 * encoder.positions,
        "nb_max_frames": 2 * encoder.positions, "padding_side": "right", "padding_value": 0.0,
        "return_attention_mask": False,
    })  # fmt: skip
    _write_tokenizer(out, tokenizer, head.positions)
    with replacing(out / WEIGHTS) as partial:
        save_file(weights, partial, metadata={"format": "pt"})
    count = sum(t.numel() for t in weights.values())
    with replacing(out / "README.md") as partial:
        partial.write_text(model_card(model, CLASS, count, report.warnings, results), encoding="utf-8")
    return report


def _config(encoder: WhisperEncoderConfig, head: WhisperDecoderConfig, vocab_size: int) -> dict[str, Any]:
    end = head.tokens.end
    return {
        "architectures": [CLASS], "model_type": "whisper", "dtype": "float32", "is_encoder_decoder": True,
        "vocab_size": vocab_size, "num_mel_bins": encoder.feat_in, "d_model": encoder.d_model,
        "encoder_layers": encoder.n_layers, "encoder_attention_heads": encoder.heads,
        "encoder_ffn_dim": 4 * encoder.d_model, "max_source_positions": encoder.positions,
        "decoder_layers": head.layers, "decoder_attention_heads": head.heads, "decoder_ffn_dim": 4 * head.dim,
        "max_target_positions": head.positions, "activation_function": "gelu", "scale_embedding": False,
        "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "tie_word_embeddings": True,
        "bos_token_id": end, "eos_token_id": end, "pad_token_id": end,
        "decoder_start_token_id": head.tokens.start,
    }  # fmt: skip


def _generation(head: WhisperDecoderConfig) -> dict[str, Any]:
    """generation_config.json, as transformers' generate reads it."""
    ids = head.tokens
    specials = {ids.start, ids.translate, ids.transcribe, ids.previous, ids.no_speech}
    values: dict[str, Any] = {
        "alignment_heads": alignment_pairs(head), "suppress_tokens": sorted({*head.suppress, *specials}),
        "begin_suppress_tokens": list(head.suppress_first), "bos_token_id": ids.end, "eos_token_id": ids.end,
        "pad_token_id": ids.end, "decoder_start_token_id": ids.start, "is_multilingual": bool(ids.languages),
        "max_initial_timestamp_index": round(FIRST_TIMESTAMP / TIMESTAMP_SECONDS),
        "max_length": head.positions, "no_timestamps_token_id": ids.no_timestamps,
        "prev_sot_token_id": ids.previous, "return_timestamps": False,
    }  # fmt: skip
    return values | (_languages(ids) if ids.languages else {})


def _languages(ids: WhisperTokens) -> dict[str, Any]:
    return {
        "lang_to_id": {f"<|{code}|>": ids.language(code) for code in ids.languages},
        "task_to_id": {"transcribe": ids.transcribe, "translate": ids.translate},
    }


def _write_tokenizer(out: Path, tokenizer: LLMTokenizer, positions: int) -> None:
    with replacing(out / TOKENIZER) as partial:
        partial.write_text(tokenizer.model_bytes.removeprefix(MAGIC).decode(), encoding="utf-8")
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "WhisperTokenizer", "processor_class": "WhisperProcessor",
        "model_max_length": positions, "add_prefix_space": False, "errors": "replace",
        "clean_up_tokenization_spaces": False, "bos_token": _END, "eos_token": _END, "unk_token": _END,
        "pad_token": _END,
    })  # fmt: skip
