"""Checkpoints of icefall's Zipformer recipe (pruned RNN-T, CTC, CR-CTC, CTC with attention decoder) in,
without icefall and k2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maya.convert.icefall_checkpoint import IcefallCheckpoint, Which, averaged, read_icefall
from maya.convert.icefall_config import IcefallModel, icefall_name, read_config
from maya.convert.icefall_names import from_icefall_name, from_icefall_tensor, to_icefall_tensor
from maya.convert.icefall_tokens import BLANK, SENTENCE_END, read_tokenizer
from maya.convert.report import ConversionReport, components
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoint import Checkpoint, build


@dataclass(kw_only=True, slots=True)
class IcefallImport:
    """A converted model: the checkpoint to save, and what there is to say about it."""

    checkpoint: Checkpoint
    report: ConversionReport


def from_icefall(
    path: str | Path,
    tokenizer: str | Path | Tokenizer,
    *,
    average_with: str | Path | None = None,
    which: Which = "model",
    overrides: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> Recognizer:
    """The model of an icefall checkpoint, ready to use. See `import_icefall` for the arguments and errors."""
    made = import_icefall(
        path, tokenizer, average_with=average_with, which=which, overrides=overrides
    ).checkpoint
    where = torch.device(device)
    return Recognizer(model=build(made).to(where), tokenizer=made.tokenizer, device=where)


def import_icefall(
    path: str | Path,
    tokenizer: str | Path | Tokenizer,
    *,
    average_with: str | Path | None = None,
    which: Which = "model",
    overrides: Sequence[str] = (),
) -> IcefallImport:
    """A checkpoint of icefall as one of Maya, and a report.

    path: epoch-N.pt, checkpoint-N.pt, epoch-E-avg-A.pt, pretrained.pt, or a bare state dict.
    tokenizer: the bpe.model or tokens.txt that the model was trained with, or the former read already.
    average_with: an earlier checkpoint of the same training, epoch-(E - A).pt for icefall's `--epoch E --avg
        A --use-averaged-model 1`.
    which: without `average_with`, the weights themselves ("model") or their mean since the training began
        ("average", icefall's `model_avg`).
    overrides: "encoder.heads=4,4,4,8,4,4" and so on, for what neither shapes nor the file's options tell.

    Nothing pickled is run. Raises MayaError for a damaged file, one with objects that icefall does not save,
    another kind of model, missing, further or misshapen tensors, and another vocabulary.
    """
    found = read_icefall(path)
    if average_with is not None:
        first = read_icefall(average_with)
        stored, count = averaged(first, found)
        source = f"mean of {count} batches, after {first.path.name} up to {found.path.name}"
    else:
        stored = found.weights(which)
        source = "model_avg, the mean of all batches" if which == "average" else "model"
    described = read_config(stored, found.settings, found.path, overrides)
    if average_with is None and which == "model" and found.average is not None:
        described.warnings.append(
            "the file also has model_avg: averaging with an earlier checkpoint mostly gives a better model"
        )
    own = tokenizer if isinstance(tokenizer, Tokenizer) else read_tokenizer(tokenizer)
    named = "the tokenizer" if isinstance(tokenizer, Tokenizer) else str(tokenizer)
    _fit_vocabulary(described.config, own, named, found.path)
    weights = checked_weights(stored, described.config, found.path)
    if dtypes := {str(v.dtype) for v in stored.values()} - {"torch.float32"}:
        described.warnings.append(f"weights stored as {', '.join(sorted(dtypes))} become torch.float32")
    checkpoint = Checkpoint(
        model_config=described.config,
        tokenizer=own,
        weights=weights,
        step=0,
        notes={"source": found.path.name, "icefall": {"weights": source}, "untrained": []},
    )
    return IcefallImport(checkpoint=checkpoint, report=_report(found, described, checkpoint, source))


def checked_weights(stored: Mapping[str, Tensor], config: SpeechModelConfig, path: Path) -> dict[str, Tensor]:
    """Maya's state dict (fp32) from icefall's: every tensor that is expected, in its shape, and no other."""
    renamed = {name: from_icefall_name(name) for name in stored}
    with torch.device("meta"):
        expected = SpeechModel(config).state_dict()
    unknown = sorted(name for name, ours in renamed.items() if ours not in expected)
    if unknown:
        raise MayaError(f"{path} has tensors that a Zipformer of its shape does not have: {_some(unknown)}")
    weights = {
        ours: from_icefall_tensor(ours, stored[name]).float() for name, ours in renamed.items() if ours
    }
    if missing := [icefall_name(name) for name in expected if name not in weights]:
        raise MayaError(f"{path} lacks tensors of a Zipformer of its shape: {_some(missing)}")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            theirs, right = icefall_name(name), to_icefall_tensor(name, tensor)
            raise MayaError(
                f"{path}: {theirs} has shape {tuple(stored[theirs].shape)}, but by the other tensors it has "
                f"{tuple(right.shape)}"
            )
    return {name: weights[name] for name in expected}


def _fit_vocabulary(config: SpeechModelConfig, tokenizer: Tokenizer, named: str, path: Path) -> None:
    """MayaError unless the tokenizer has as many pieces as the model, the first one <blk>; sets `eos`."""
    if tokenizer.vocab_size != config.vocab_size:
        raise MayaError(
            f"{named} has {tokenizer.vocab_size} pieces, but {path} was trained with {config.vocab_size}; "
            "give the bpe.model or tokens.txt of that training"
        )
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    if pieces[0] != BLANK:
        raise MayaError(f"{named}: piece 0 is {pieces[0]!r}, but in icefall's models it is {BLANK!r}")
    if config.attention_weight and config.attention_decoder.eos is None:
        if SENTENCE_END not in pieces:
            raise MayaError(
                f"{named} has no piece {SENTENCE_END!r}, with which the attention decoder of {path} begins "
                "and ends; give attention_decoder.eos=..."
            )
        config.attention_decoder.eos = pieces.index(SENTENCE_END)


def _report(
    found: IcefallCheckpoint, described: IcefallModel, checkpoint: Checkpoint, source: str
) -> ConversionReport:
    config = described.config
    return ConversionReport(
        title=f"{found.path}: Zipformer of icefall",
        components=components(config, checkpoint.weights),
        facts={
            "weights": source,
            "size": described.size,
            "heads": described.heads,
            "vocabulary": f"{config.vocab_size} pieces, the first one blank",
            "padding": "icefall's for an utterance alone, whatever it is batched with"
            if config.encoder.kind == "zipformer" and config.encoder.padding == "invariant"
            else "icefall's, which depends on the batch",
        },
        warnings=described.warnings,
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
