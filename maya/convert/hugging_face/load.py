"""Read Parakeet folders of Hugging Face (CTC, RNN-T and TDT) without transformers."""

import json
from pathlib import Path

import torch

from maya.convert.conversion import Conversion, strict
from maya.convert.hugging_face.config import CLASSES, read_parakeet
from maya.convert.hugging_face.names import hugging_face_name, maya_name
from maya.convert.hugging_face.tokens import read_tokenizer_json
from maya.convert.report import ConversionReport, components
from maya.decode.recognizer import Recognizer
from maya.encoders.hugging_face.folder import folder_of, tensors
from maya.errors import MayaError
from maya.features.logmel import LogMel, LogMelConfig
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint


def from_hugging_face(name: str | Path, *, device: str | torch.device = "cpu") -> Recognizer:
    """The model of a Parakeet folder, or of `hf:owner/name`, ready to use. See `import_hugging_face`."""
    return import_hugging_face(name).recognizer(device)


def import_hugging_face(name: str | Path) -> Conversion:
    """A Parakeet folder as a Maya checkpoint and a report.

    The features are those of transformers, which are NeMo's since 2.5. Nothing pickled is opened. Raises
    MayaError for another kind of model, a setting or a tokenizer that Maya lacks, and weights that contradict
    config.json.
    """
    folder = folder_of(name)
    described = read_parakeet(folder)
    config, features = described.config, described.config.features
    assert isinstance(features, LogMelConfig)
    network = f"the {CLASSES[described.kind]} of its config.json"
    weights = {maya_name(key): tensor for key, tensor in tensors(folder)}
    if stored := {str(t.dtype) for t in weights.values() if t.is_floating_point()} - {"torch.float32"}:
        described.warnings.append(f"weights stored as {', '.join(sorted(stored))} become torch.float32")
    weights = {key: t.float() if t.is_floating_point() else t for key, t in weights.items()}
    front = {f"preprocessor.featurizer.{key}": t for key, t in LogMel(features).state_dict().items()}
    weights = strict(weights | front, config, folder, network, lambda n, t: (hugging_face_name(n), t))
    checkpoint = Checkpoint(
        model_config=config, tokenizer=read_tokenizer(folder, config.vocab_size), weights=weights, step=0,
        notes={"source": folder.name, "hugging_face": {"model_type": described.kind}, "untrained": []},
    )  # fmt: skip
    report = ConversionReport(
        title=f"{folder}: {CLASSES[described.kind]} of Hugging Face",
        components=components(config, weights),
        facts={"vocabulary": f"{config.vocab_size} pieces and a blank"},
        warnings=described.warnings,
    )
    return Conversion(checkpoint=checkpoint, report=report)


def read_tokenizer(folder: Path, size: int) -> Tokenizer:
    """The tokenizer of a folder: tokenizer.model where it is there and fits, else that of tokenizer.json."""
    model = folder / "tokenizer.model"
    if model.is_file():
        tokenizer = Tokenizer(model.read_bytes())
        if tokenizer.vocab_size == size:
            return tokenizer
    try:
        values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MayaError(f"{folder} has no readable tokenizer.json ({error}); take the whole folder") from None
    try:
        return read_tokenizer_json(values, size)
    except MayaError as error:
        raise MayaError(f"{folder}: {error}") from None
