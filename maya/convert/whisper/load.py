"""Read Whisper models: OpenAI's .pt, folders of Hugging Face (safetensors) and of CTranslate2 (model.bin)."""

import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.conversion import Conversion, strict
from maya.convert.report import ConversionReport, components
from maya.convert.whisper.ctranslate2 import read_model, setting
from maya.convert.whisper.names import HEAD, from_ctranslate2, from_hugging_face, maya_name, openai_name
from maya.convert.whisper.published import published_heads
from maya.convert.whisper.tokens import MULTILINGUAL, non_speech, read_tokenizer, special_tokens
from maya.encoders.hugging_face.folder import CTRANSLATE2, INDEX, WEIGHTS, folder_of, tensors
from maya.encoders.whisper.encoder import WhisperEncoderConfig
from maya.errors import MayaError
from maya.features.specaugment import SpecAugmentConfig
from maya.features.whisper_mel import WhisperMelConfig
from maya.files import read_json
from maya.heads.whisper import WhisperDecoderConfig
from maya.models.config import SpeechModelConfig
from maya.train.checkpoints.checkpoint import Checkpoint

TOKENIZER = "tokenizer.json"
HEAD_SIZE = 64  # channels of a head of attention in OpenAI's models


@dataclass(kw_only=True, slots=True)
class Stored:
    """What a file or folder holds. weights: by OpenAI's names. heads: of attention. suppress, first: tokens,
    None where it does not tell. alignment: (layer, head) pairs. multilingual: None where it does not tell."""

    kind: str
    weights: dict[str, Tensor]
    heads: int
    suppress: tuple[int, ...] | None = None
    first: tuple[int, ...] | None = None
    alignment: tuple[tuple[int, int], ...] = ()
    multilingual: bool | None = None
    notes: list[str] = field(default_factory=list)


def import_whisper(name: str | Path, *, tokenizer: str | Path | None = None) -> Conversion:
    """A Whisper model as a Maya checkpoint and a report. tokenizer: a tokenizer.json; None: the folder's.

    Nothing pickled is executed. Raises MayaError for another kind of model, damaged files, and settings that
    Whisper does not have.
    """
    path = Path(name) if Path(str(name)).is_file() else folder_of(name)
    path = path.parent if path.name in (CTRANSLATE2, WEIGHTS, INDEX) else path
    stored = _read(path)
    config = model_config(stored, path)
    folder = path if path.is_dir() else path.parent
    own = read_tokenizer(Path(tokenizer) if tokenizer else folder / TOKENIZER, config.vocab_size)
    head = config.head(HEAD, WhisperDecoderConfig)
    multilingual = stored.multilingual
    head.tokens = special_tokens(
        own, config.vocab_size >= MULTILINGUAL if multilingual is None else multilingual
    )
    config.languages = head.tokens.languages or ("en",)
    head.suppress = non_speech(own) if stored.suppress is None else stored.suppress
    head.suppress_first = (*own.encode(" "), head.tokens.end) if stored.first is None else stored.first
    dtypes = {str(t.dtype) for t in stored.weights.values()} - {"torch.float32"}
    if dtypes:
        stored.notes.append(f"weights stored as {', '.join(sorted(dtypes))} become torch.float32")
    if not stored.alignment:
        stored.notes.append("no alignment heads are named: word times come from the upper half of the layers")
    weights = {maya_name(key): t.float() for key, t in stored.weights.items()}
    weights = strict(weights, config, path, "Whisper", lambda n, t: (openai_name(n), t))
    checkpoint = Checkpoint(
        model_config=config, tokenizer=own, weights=weights, step=0,
        notes={"source": path.name, "whisper": {"format": stored.kind}, "untrained": []},
    )  # fmt: skip
    languages = f"{len(config.languages)} languages" if head.tokens.languages else "English"
    report = ConversionReport(
        title=f"{path}: Whisper ({stored.kind})", components=components(config, weights),
        facts={"vocabulary": f"{config.vocab_size} tokens", "languages": languages}, warnings=stored.notes,
    )  # fmt: skip
    return Conversion(checkpoint=checkpoint, report=report)


def model_config(stored: Stored, path: Path) -> SpeechModelConfig:
    """The configuration that the shapes of the weights tell. Raises MayaError where they tell none."""
    shapes = {name: tuple(t.shape) for name, t in stored.weights.items()}
    try:
        dim, mels, _ = shapes["encoder.conv1.weight"]
        vocab_size, _ = shapes["decoder.token_embedding.weight"]
        frames, tokens = (shapes[f"{side}.positional_embedding"][0] for side in ("encoder", "decoder"))
    except (KeyError, ValueError, IndexError):
        raise MayaError(f"{path} holds no weights of Whisper; give a Whisper model") from None
    layers = [len({n.split(".")[2] for n in shapes if n.startswith(f"{side}.blocks.")})
              for side in ("encoder", "decoder")]  # fmt: skip
    if stored.heads < 1 or dim % stored.heads or not all(layers):
        raise MayaError(f"{path} names {stored.heads} heads of attention for {dim} channels; copy it again")
    encoder = WhisperEncoderConfig(
        feat_in=mels, d_model=dim, n_layers=layers[0], heads=stored.heads, positions=frames
    )
    if bad := [pair for pair in stored.alignment if pair[0] >= layers[1] or pair[1] >= stored.heads]:
        raise MayaError(f"{path} names the alignment head {list(bad[0])}, which its decoder does not have")
    head = WhisperDecoderConfig(
        layers=layers[1], dim=dim, heads=stored.heads, positions=tokens,
        alignment_heads=tuple(layer * stored.heads + head for layer, head in stored.alignment),
    )  # fmt: skip
    return SpeechModelConfig(
        features=WhisperMelConfig(num_mels=mels, seconds=frames / 50), encoder=encoder, heads={HEAD: head},
        vocab_size=vocab_size, specaugment=SpecAugmentConfig(time_masks=0, freq_masks=0),
    )  # fmt: skip


def _read(path: Path) -> Stored:
    if not path.is_dir():
        return _openai(path)
    return _ctranslate2(path) if (path / CTRANSLATE2).is_file() else _hugging_face(path)


def _ctranslate2(folder: Path) -> Stored:
    values = read_model(folder / CTRANSLATE2)
    expected = {"pre_norm": 1, "activation": 3, "scale_embeddings": 0, "alibi": 0}
    for side in ("encoder", "decoder"):
        for name, right in expected.items():
            if setting(values, f"{side}/{name}", right) != right:
                raise MayaError(
                    f"{folder / CTRANSLATE2}: {side}/{name} is not Whisper's; Maya cannot read it"
                )
    names = _json(folder / "config.json")
    weights = {name: t for name, t in values.items() if t.is_floating_point()}
    return Stored(
        kind="CTranslate2", weights=dict(from_ctranslate2(weights)),
        heads=setting(values, "encoder/num_heads", 0), suppress=_ids(names, "suppress_ids"),
        first=_ids(names, "suppress_ids_begin"), alignment=_pairs(names),
    )  # fmt: skip


def _hugging_face(folder: Path) -> Stored:
    values, names = _json(folder / "config.json"), read_json(folder / "generation_config.json")
    if values.get("model_type") != "whisper":
        raise MayaError(f"{folder} holds a model of type {values.get('model_type')!r}, and not Whisper")
    weights = {from_hugging_face(name): t for name, t in tensors(folder)}
    weights.pop("proj_out.weight", None)  # tied to the embeddings
    if values.get("activation_function", "gelu") != "gelu" or values.get("scale_embedding"):
        raise MayaError(f"{folder}: activation_function or scale_embedding is not Whisper's; Maya lacks it")
    return Stored(
        kind="Hugging Face", weights=weights, heads=int(values.get("encoder_attention_heads", 0)),
        suppress=_ids(names, "suppress_tokens"), first=_ids(names, "begin_suppress_tokens"),
        alignment=_pairs(names), multilingual=names.get("is_multilingual"),
    )  # fmt: skip


def _openai(path: Path) -> Stored:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MayaError(f"{path} is no checkpoint of tensors alone ({reason}); give OpenAI's .pt") from None
    try:
        dims, weights = values["dims"], values["model_state_dict"]
        heads = int(dims["n_audio_head"])
        mismatch = dims["n_audio_head"] != dims["n_text_head"]
    except (TypeError, KeyError):
        raise MayaError(
            f"{path} has no dims and model_state_dict; give a checkpoint of OpenAI's Whisper"
        ) from None
    if mismatch or not all(isinstance(t, Tensor) for t in weights.values()):
        raise MayaError(f"{path} has other heads in encoder and decoder, or no tensors; Maya cannot read it")
    layers = len({name.split(".")[2] for name in weights if name.startswith("decoder.blocks.")})
    return Stored(
        kind="OpenAI", weights={k: t for k, t in weights.items() if k != "decoder.mask"}, heads=heads,
        alignment=published_heads(path.stem, layers, heads),
    )  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MayaError(
            f"{path.parent} has no readable {path.name} ({error}); take the whole folder"
        ) from None
    return values if isinstance(values, dict) else {}


def _ids(values: dict[str, Any], name: str) -> tuple[int, ...] | None:
    entries = values.get(name)
    return tuple(int(i) for i in entries) if isinstance(entries, list) else None


def _pairs(values: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    entries: Iterable[Any] = values.get("alignment_heads") or ()
    return tuple((int(layer), int(head)) for layer, head in entries)
