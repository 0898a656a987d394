"""Import checkpoints of icefall's Zipformer recipe (pruned RNN-T, CTC, CR-CTC, CTC with attention decoder)
without icefall and k2."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.conversion import Conversion, strict
from maya.convert.icefall.checkpoint import IcefallCheckpoint, Which, averaged, read_icefall
from maya.convert.icefall.config import IcefallModel, read_config
from maya.convert.icefall.names import (
    from_icefall_name,
    from_icefall_tensor,
    to_icefall_name,
    to_icefall_tensor,
)
from maya.convert.icefall.tokens import BLANK, SENTENCE_END, read_tokenizer
from maya.convert.report import ConversionReport, components
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import AttentionDecoderConfig
from maya.models.config import SpeechModelConfig
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint


def from_icefall(
    path: str | Path, tokenizer: str | Path | Tokenizer, *, device: str | torch.device = "cpu", **options: Any
) -> Recognizer:
    """The model of an icefall checkpoint, ready to use. See `import_icefall` for the options and errors."""
    return import_icefall(path, tokenizer, **options).recognizer(device)


def import_icefall(
    path: str | Path,
    tokenizer: str | Path | Tokenizer,
    *,
    average_with: str | Path | None = None,
    which: Which = "model",
    overrides: Sequence[str] = (),
) -> Conversion:
    """A checkpoint of icefall as one of Maya, and a report.

    path: epoch-N.pt, checkpoint-N.pt, epoch-E-avg-A.pt, pretrained.pt, jit_script.pt, or a bare state dict.
    tokenizer: the bpe.model or tokens.txt that the model was trained with, or the tokenizer itself.
    average_with: an earlier checkpoint of the same training, epoch-(E - A).pt for icefall's `--epoch E --avg
        A --use-averaged-model 1`.
    which: without `average_with`, the weights themselves ("model") or their mean over the whole training
        ("average", icefall's `model_avg`).
    overrides: "encoder.heads=4,4,4,8,4,4" and so on, for settings that neither shapes nor options show.

    Nothing pickled is run. Raises MayaError for a damaged file, one with objects that icefall does not save,
    another kind of model, missing, unexpected or misshapen tensors, and another vocabulary.
    """
    file = read_icefall(path)
    if average_with is not None:
        first = read_icefall(average_with)
        stored, count = averaged(first, file)
        source = f"mean of {count} batches, after {first.path.name} up to {file.path.name}"
    else:
        stored = file.weights(which)
        source = "model_avg, the mean of all batches" if which == "average" else "model"
    described = read_config(stored, file.settings, file.path, overrides)
    if average_with is None and which == "model" and file.average is not None:
        described.warnings.append(
            "the file also has model_avg: averaging with an earlier checkpoint usually gives a better model"
        )
    tokenizer_name = "the tokenizer" if isinstance(tokenizer, Tokenizer) else str(tokenizer)
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else read_tokenizer(tokenizer)
    _fit_vocabulary(described.config, tokenizer, tokenizer_name, file.path)
    weights = checked_weights(stored, described.config, file.path)
    if dtypes := {str(v.dtype) for v in stored.values()} - {"torch.float32"}:
        described.warnings.append(f"weights stored as {', '.join(sorted(dtypes))} become torch.float32")
    notes = {"source": file.path.name, "icefall": {"weights": source}, "untrained": []}
    checkpoint = Checkpoint(
        model_config=described.config, tokenizer=tokenizer, weights=weights, step=0, notes=notes
    )
    return Conversion(checkpoint=checkpoint, report=_report(file, described, checkpoint, source))


def checked_weights(stored: Mapping[str, Tensor], config: SpeechModelConfig, path: Path) -> dict[str, Tensor]:
    """Maya's state dict (fp32) from icefall's. Raises MayaError for a tensor that is missing, unexpected or
    of another shape."""
    names = {name: from_icefall_name(name) or name for name in stored}
    weights = {ours: from_icefall_tensor(ours, stored[name]).float() for name, ours in names.items()}
    return strict(
        weights, config, path, "a Zipformer of its shape",
        lambda name, tensor: (to_icefall_name(name) or name, to_icefall_tensor(name, tensor)),
    )  # fmt: skip


def _fit_vocabulary(config: SpeechModelConfig, tokenizer: Tokenizer, name: str, path: Path) -> None:
    """Check that the tokenizer has as many pieces as the model, the first one <blk>. Sets the attention
    decoder's `eos`."""
    if tokenizer.vocab_size != config.vocab_size:
        raise MayaError(
            f"{name} has {tokenizer.vocab_size} pieces, but {path} was trained with {config.vocab_size}; "
            "give the bpe.model or tokens.txt of that training"
        )
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    if pieces[0] != BLANK:
        raise MayaError(f"{name}: piece 0 is {pieces[0]!r}, but in icefall's models it is {BLANK!r}")
    attention = config.heads.get("attention")
    if isinstance(attention, AttentionDecoderConfig) and attention.eos is None:
        if SENTENCE_END not in pieces:
            raise MayaError(
                f"{name} has no piece {SENTENCE_END!r}, with which the attention decoder of {path} begins "
                "and ends; give heads.attention.eos=..."
            )
        attention.eos = pieces.index(SENTENCE_END)


def _report(
    file: IcefallCheckpoint, described: IcefallModel, checkpoint: Checkpoint, source: str
) -> ConversionReport:
    config = described.config
    return ConversionReport(
        title=f"{file.path}: Zipformer of icefall",
        components=components(config, checkpoint.weights),
        facts={
            "weights": source,
            "size": described.size,
            "attention heads": described.heads_source,
            "vocabulary": f"{config.vocab_size} pieces, the first one blank",
            "padding": "as in icefall for an utterance alone, so results do not depend on the batch"
            if config.encoder.padding == "invariant"  # type: ignore[attr-defined]
            else "as in icefall, so results depend on the batch",
        },
        warnings=described.warnings,
    )
