"""Write Whisper models for CTranslate2 (faster-whisper) and for whisper.cpp."""

import struct
from pathlib import Path
from typing import Any

from torch import Tensor

from maya.convert.report import ConversionReport, components
from maya.convert.whisper.ctranslate2 import Precision, settings, write_model
from maya.convert.whisper.load import HEAD_SIZE, TOKENIZER
from maya.convert.whisper.names import HEAD, openai_name, to_ctranslate2_names
from maya.convert.whisper.tokens import token_bytes
from maya.decode.recognizer import Recognizer
from maya.encoders.hugging_face.folder import CTRANSLATE2
from maya.encoders.whisper.encoder import WhisperEncoderConfig
from maya.errors import MayaError
from maya.features.logmel import slaney_filterbank
from maya.features.whisper_mel import N_FFT
from maya.files import replacing, write_json
from maya.heads.whisper import WhisperDecoderConfig
from maya.text.llm_tokenizer import MAGIC, LLMTokenizer

GGML_MAGIC = 0x67676D6C


def to_ctranslate2(
    model: Recognizer, out: str | Path, *, precision: Precision = "float32"
) -> ConversionReport:
    """Write the folder `out` that faster-whisper opens. Raises MayaError for a model that is no Whisper."""
    out, head, tokenizer = Path(out), whisper_head(model), whisper_tokenizer(model)
    out.mkdir(parents=True, exist_ok=True)
    weights = to_ctranslate2_names(openai_weights(model))
    write_model(out / CTRANSLATE2, weights | settings(head.heads), precision)
    ids = head.tokens
    specials = {ids.start, ids.translate, ids.transcribe, ids.previous, ids.no_speech}
    first = ids.first_language
    write_json(out / "config.json", {
        "alignment_heads": alignment_pairs(head), "suppress_ids": sorted({*head.suppress, *specials}),
        "suppress_ids_begin": list(head.suppress_first),
        "lang_ids": [first + n for n in range(len(ids.languages) or ids.translate - first)],
    })  # fmt: skip
    text = tokenizer.model_bytes.removeprefix(MAGIC).decode()
    with replacing(out / TOKENIZER) as partial:
        partial.write_text(text, encoding="utf-8")
    write_json(out / "vocabulary.json", tokenizer.pieces(range(tokenizer.vocab_size)))
    write_json(out / "preprocessor_config.json", {
        "feature_size": model.model.cfg.features.num_mels, "sampling_rate": 16000, "hop_length": 160,
        "n_fft": N_FFT, "chunk_length": 30,
    })  # fmt: skip
    return export_report(model, out, f"CTranslate2, {precision}")


def to_ggml(model: Recognizer, out: str | Path) -> ConversionReport:
    """Write the file `out` that whisper.cpp reads, its matrices in 16 bits: convolutions of 32 bits are read
    but end whisper.cpp on a CPU. Its own tool quantises the file. Raises MayaError for a model that is no
    Whisper."""
    out, head, tokenizer, cfg = Path(out), whisper_head(model), whisper_tokenizer(model), model.model.cfg
    encoder = cfg.encoder
    assert isinstance(encoder, WhisperEncoderConfig)
    dims = (
        cfg.vocab_size, encoder.positions, encoder.d_model, encoder.heads, encoder.n_layers,
        head.positions, head.dim, head.heads, head.layers, encoder.feat_in, 1,
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial, partial.open("wb") as file:
        file.write(struct.pack("<I11i", GGML_MAGIC, *dims))
        bank = slaney_filterbank(encoder.feat_in, N_FFT, 16000).float().reshape(encoder.feat_in, -1)
        file.write(struct.pack("<2i", *bank.shape) + bank.contiguous().numpy().astype("<f4").tobytes())
        pieces = token_bytes(tokenizer, head.tokens.end)
        file.write(struct.pack("<i", len(pieces)))
        for piece in pieces:
            file.write(struct.pack("<i", len(piece)) + piece)
        for name, tensor in openai_weights(model).items():
            tensor = tensor[:, None] if name in ("encoder.conv1.bias", "encoder.conv2.bias") else tensor
            wide = tensor.ndim == 1 or name.endswith(("positional_embedding", ".bias"))
            raw = tensor.contiguous().numpy().astype("<f4" if wide else "<f2").tobytes()
            label = name.encode()
            file.write(struct.pack("<3i", tensor.ndim, len(label), 0 if wide else 1))
            file.write(struct.pack(f"<{tensor.ndim}i", *reversed(tensor.shape)) + label + raw)
    return export_report(model, out, "whisper.cpp, 16 bits")


def whisper_head(model: Recognizer) -> WhisperDecoderConfig:
    """The decoder's configuration. Raises MayaError for a model that is no Whisper alone."""
    cfg = model.model.cfg
    encoder, head = cfg.encoder, cfg.heads.get(HEAD)
    if not isinstance(encoder, WhisperEncoderConfig) or not isinstance(head, WhisperDecoderConfig):
        raise MayaError("this model is no Whisper: its encoder or its head 'whisper' is of another kind")
    if encoder.heads != head.heads or encoder.d_model != HEAD_SIZE * encoder.heads:
        raise MayaError(f"its heads of attention are not of {HEAD_SIZE} channels, as those systems take them")
    if cfg.language_embedding or len(cfg.heads) > 1:
        raise MayaError(
            "this model has more than Whisper: a language embedding or other heads; export without"
        )
    return head


def whisper_tokenizer(model: Recognizer) -> LLMTokenizer:
    """The tokenizer. Raises MayaError for one that is not of bytes."""
    if not isinstance(model.tokenizer, LLMTokenizer):
        raise MayaError(
            "this model has another tokenizer than Whisper's; tune with tokenizer.file of the original"
        )
    return model.tokenizer


def openai_weights(model: Recognizer) -> dict[str, Tensor]:
    """The weights by OpenAI's names, LoRA made part of them."""
    network = model.model.merge_adapters()
    state = {k: v.detach().float().cpu() for k, v in network.state_dict().items()}
    return {openai_name(name): tensor for name, tensor in state.items()}


def alignment_pairs(head: WhisperDecoderConfig) -> list[list[int]]:
    """[layer, head] of each alignment head: those that are named, else the upper half of the layers."""
    chosen: Any = head.alignment_heads or range(head.layers // 2 * head.heads, head.layers * head.heads)
    return [[n // head.heads, n % head.heads] for n in chosen]


def export_report(model: Recognizer, out: Path, kind: str) -> ConversionReport:
    """The report of an export. kind: what was written."""
    cfg = model.model.cfg
    parts = components(cfg, model.model.state_dict())
    encoder, notes = cfg.encoder, []
    if isinstance(encoder, WhisperEncoderConfig) and not encoder.whole:
        notes.append("it was tuned without silence after utterances; these systems fill windows up to 30 s")
    facts = {"vocabulary": f"{cfg.vocab_size} tokens"}
    return ConversionReport(title=f"{out}: Whisper ({kind})", components=parts, facts=facts, warnings=notes)
