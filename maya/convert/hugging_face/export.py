"""Write Maya models as Parakeet or Whisper folders, which Hugging Face's transformers opens."""

from pathlib import Path
from typing import Any

from torch import Tensor

from maya.convert.heads import HeadName, exported_head, head_notes
from maya.convert.hugging_face.card import model_card
from maya.convert.hugging_face.config import CLASSES, check_parts, write_config, write_features
from maya.convert.hugging_face.names import hugging_face_name
from maya.convert.hugging_face.tokens import tokenizer_json
from maya.convert.nemo.export import with_language
from maya.convert.nemo.parts import NemoParts, nemo_parts
from maya.convert.report import ConversionReport, components
from maya.convert.whisper.hugging_face import to_whisper_folder
from maya.decode.recognizer import Recognizer
from maya.encoders import WhisperEncoderConfig
from maya.errors import MayaError
from maya.files import replacing, write_json
from maya.text.tokenizer import Tokenizer

TARGET = "Hugging Face's Parakeet"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def to_hugging_face(
    model: Recognizer, out: str | Path, *, head: HeadName | None = None, language: str | None = None,
    results: Path | None = None,
) -> ConversionReport:  # fmt: skip
    """Write `model` into the folder `out`: weights, configuration, features, tokenizer, and a model card.

    head: by default the transducer if it was trained, else CTC; a folder holds one. language: of a model with
    a language embedding, the language to keep, or "unknown". results: a run's folder decode/, whose scores
    the card shows. A Whisper becomes a folder of Whisper. Raises MayaError for a model that Parakeet cannot
    hold.
    """
    if isinstance(model.model.cfg.encoder, WhisperEncoderConfig):
        if head is not None or language is not None:
            raise MayaError("a Whisper folder holds the whole model; leave --head and --language out")
        return to_whisper_folder(model, out, results=results)
    out, cfg, notes = Path(out), model.model.cfg, head_notes(model, TARGET)
    parts = nemo_parts(cfg, TARGET)
    check_parts(parts)
    kept = exported_head(model, head)
    state: dict[str, Tensor] = {k: v.detach().cpu() for k, v in model.model.state_dict().items()}
    if cfg.language_embedding:
        state = with_language(state, cfg, language)
        notes.append(f"Parakeet has no language embedding: this model is for language {language!r} only")
    elif language is not None:
        raise MayaError("this model has no language embedding; leave --language out")
    if parts.features.legacy:
        notes.append("trained on features from before NeMo 2.5, which transformers does not compute")
    if kept == "transducer" and parts.durations != tuple(range(len(parts.durations))):
        notes.append("generate() of transformers reads a duration's place as the duration: decode with Maya")
    weights = {k: v for k, v in state.items() if k.startswith(("encoder.", f"heads.{kept}."))}
    kind = _kind(parts, kept)
    pieces, blank = model.tokenizer.pieces(range(model.tokenizer.vocab_size)), model.tokenizer.vocab_size
    # Ids must not move, so a transducer pads with a piece that is there already, or with its blank.
    blank_name = next(n for n in _blank_names(kind) if n not in pieces)
    pad = pieces.index("<pad>") if kind != "parakeet_ctc" and "<pad>" in pieces else blank
    out.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(out, model.tokenizer, blank_name, pieces[pad] if pad < blank else blank_name)
    features = write_features(parts.features)
    write_json(out / "config.json", write_config(parts, kind, blank, pad))
    write_json(out / "preprocessor_config.json", features | {"processor_class": "ParakeetProcessor"})
    write_json(out / "processor_config.json", {
        "processor_class": "ParakeetProcessor", "blank_token": blank_name,
        "decoder_type": kind.removeprefix("parakeet_"), "feature_extractor": features,
    })  # fmt: skip
    write_json(out / "generation_config.json", _generation(parts, kind, blank, pad))
    _write_weights(out / "model.safetensors", weights)
    count = sum(t.numel() for name, t in weights.items() if not name.endswith(STATISTICS))
    card = model_card(model, CLASSES[kind], count, [*notes, *_limits(kind)], results)
    with replacing(out / "README.md") as partial:
        partial.write_text(card, encoding="utf-8")
    return ConversionReport(
        title=f"{out}: {CLASSES[kind]} of Hugging Face", components=components(cfg, weights),
        facts={"vocabulary": f"{blank} pieces and a blank"}, warnings=notes,
    )  # fmt: skip


def _kind(parts: NemoParts, head: str) -> str:
    if head == "ctc" or parts.transducer is None:
        return "parakeet_ctc"
    return f"parakeet_{parts.transducer.loss}"


def _blank_names(kind: str) -> tuple[str, ...]:
    return ("<pad>", "<blank>", "<blk>") if kind == "parakeet_ctc" else ("<blank>", "<blk>", "<eps>")


def _limits(kind: str) -> list[str]:
    if kind == "parakeet_ctc":
        return []
    return [
        "in a batch of transformers a row that has ended goes on until the longest one ends: give it "
        "one recording at a time, or decode with Maya, whose rows do not depend on their batch"
    ]


def _generation(parts: NemoParts, kind: str, blank: int, pad: int) -> dict[str, Any]:
    """generation_config.json; the durations' outputs are no tokens."""
    if kind == "parakeet_ctc":
        return {"pad_token_id": pad}
    values: dict[str, Any] = {"decoder_start_token_id": blank, "pad_token_id": pad}
    if parts.durations:
        values["suppress_tokens"] = [blank + 1 + i for i in range(len(parts.durations))]
    return values


def _write_tokenizer(out: Path, tokenizer: Tokenizer, blank: str, pad: str) -> None:
    write_json(out / "tokenizer.json", tokenizer_json(tokenizer, blank))
    unknown = tokenizer.pieces([tokenizer.unk_id])[0]
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "ParakeetTokenizer", "pad_token": pad, "unk_token": unknown,
        "clean_up_tokenization_spaces": False, "model_max_length": 10**30,
    })  # fmt: skip
    with replacing(out / "tokenizer.model") as partial:
        partial.write_bytes(tokenizer.model_bytes)


def _write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    named = {hugging_face_name(name): tensor.contiguous().clone() for name, tensor in weights.items()}
    with replacing(path) as partial:
        save_file(named, partial, metadata={"format": "pt"})
