"""Weights of torchaudio's and asteroid's Conv-TasNet, by their names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from maya.convert.conversion import Conversion, strict, torch_content
from maya.convert.icefall.tokens import tokenizer_of
from maya.convert.report import ConversionReport, components
from maya.encoders import ConvTasNetConfig
from maya.errors import MayaError
from maya.models.separation import separation_model
from maya.train.checkpoints.checkpoint import Checkpoint

Mask = Literal["sigmoid", "relu"]
_DECODER = "heads.separation.decoder.weight"
_MASKS = "encoder.mask_generator"
# Names in torchaudio and in asteroid, and here.
_NAMES = {
    r"encoder\.weight|encoder\.filterbank\._filters": "encoder.encoder.weight",
    r"decoder\.weight|decoder\.filterbank\._filters": _DECODER,
    r"mask_generator\.(.+)": _MASKS + r".\1",
    r"masker\.bottleneck\.0\.(gamma|beta)": _MASKS + r".input_norm.\1",
    r"masker\.bottleneck\.1\.(.+)": _MASKS + r".input_conv.\1",
    # A causal block wraps its depthwise convolution, 3, with a step that cuts the end off.
    r"masker\.TCN\.(\d+)\.shared_block\.3\.0\.(.+)": _MASKS + r".conv_layers.\1.conv_layers.3.\2",
    r"masker\.TCN\.(\d+)\.shared_block\.(.+)": _MASKS + r".conv_layers.\1.conv_layers.\2",
    r"masker\.TCN\.(\d+)\.res_conv\.(.+)": _MASKS + r".conv_layers.\1.res_out.\2",
    r"masker\.TCN\.(\d+)\.skip_conv\.(.+)": _MASKS + r".conv_layers.\1.skip_out.\2",
    r"masker\.mask_net\.0\.(.+)": _MASKS + r".output_prelu.\1",
    r"masker\.mask_net\.1\.(.+)": _MASKS + r".output_conv.\1",
}
_NORMS = {"gLN": "global", "cgLN": "cumulative", "cLN": "channel"}


def our_name(name: str) -> str:
    """Maya's name of a tensor of either; the name itself where it is none of original."""
    for pattern, ours in _NAMES.items():
        if match := re.fullmatch(pattern, name):
            return re.sub("gamma$", "weight", re.sub("beta$", "bias", match.expand(ours)))
    return name


def import_conv_tasnet(
    source: str | Path, *, sample_rate: int = 8000, mask: Mask = "sigmoid", layers: int = 8
) -> Conversion:
    """A state dict of torchaudio's ConvTasNet, or a model that asteroid saved (`model.serialize()`).

    torchaudio's file does not hold sample_rate, mask (the activation of the masks: torchaudio's published
    model has relu) and layers (blocks in a stack); asteroid's file has its own. Raises MayaError for a file
    of other weights.
    """
    path = Path(source)
    content = torch_content(path)
    args: dict[str, Any] = {}
    if isinstance(content.get("state_dict"), Mapping):
        args = dict(content.get("model_args", {}))
        content = content["state_dict"]
    stored = {str(name): x for name, x in content.items() if isinstance(x, Tensor)}
    original = {our_name(name): name for name in stored}
    weights = {ours: stored[name].float() for ours, name in original.items()}
    encoder = _encoder(weights, path)
    encoder.mask_activation, encoder.layers = args.get("mask_act", mask), args.get("n_blocks", layers)
    blocks = encoder.stacks
    if blocks % encoder.layers:
        raise MayaError(f"{path} has {blocks} blocks, which are not stacks of {encoder.layers}: set --layers")
    encoder.stacks = blocks // encoder.layers
    rate = int(args.get("sample_rate", sample_rate))
    if any(name.startswith("masker.") for name in stored):
        _as_asteroid(encoder, args, stored)
        for leaf in ("weight", "bias"):  # of a residual that nothing reads; torchaudio leaves it out
            weights.pop(f"{_MASKS}.conv_layers.{blocks - 1}.res_out.{leaf}", None)
    config = separation_model(encoder, rate)
    checked = strict(
        weights, config, path, "a Conv-TasNet of its shape",
        lambda name, tensor: (original.get(name, name), weights.get(name, tensor)),
    )  # fmt: skip
    tokenizer = tokenizer_of(["<unk>", "<s>", "</s>"])  # a checkpoint has one; no head reads it
    notes = {"source": path.name, "trained": ["separation"]}
    checkpoint = Checkpoint(model_config=config, tokenizer=tokenizer, weights=checked, step=0, notes=notes)
    facts = {"sources": str(encoder.sources), "sample rate": f"{rate} Hz", "norm": encoder.norm}
    report = ConversionReport(
        title=f"{path}: Conv-TasNet", components=components(config, checked), facts=facts, warnings=[]
    )
    return Conversion(checkpoint=checkpoint, report=report)


def _encoder(weights: Mapping[str, Tensor], path: Path) -> ConvTasNetConfig:
    """The sizes that the shapes tell; `stacks` holds the number of blocks."""
    try:
        filters, _, kernel = weights["encoder.encoder.weight"].shape
        bottleneck = len(weights[f"{_MASKS}.input_conv.weight"])
        hidden = len(weights[f"{_MASKS}.conv_layers.0.conv_layers.0.weight"])
        skip = len(weights[f"{_MASKS}.conv_layers.0.skip_out.weight"])
        conv_kernel = weights[f"{_MASKS}.conv_layers.0.conv_layers.3.weight"].shape[2]
        sources = len(weights[f"{_MASKS}.output_conv.weight"]) // filters
    except (KeyError, ValueError, IndexError):
        raise MayaError(
            f"{path} holds no Conv-TasNet of torchaudio or asteroid with skip connections"
        ) from None
    blocks = {m[1] for name in weights if (m := re.match(rf"{_MASKS}\.conv_layers\.(\d+)\.", name))}
    return ConvTasNetConfig(
        sources=sources, filters=filters, kernel_size=kernel, stride=kernel // 2, bottleneck=bottleneck,
        hidden=hidden, skip=skip, conv_kernel=conv_kernel, stacks=len(blocks),
    )  # fmt: skip


def _as_asteroid(encoder: ConvTasNetConfig, args: Mapping[str, Any], stored: Mapping[str, Tensor]) -> None:
    """asteroid's windows, norm and activations."""
    encoder.padded, encoder.stride = False, int(args.get("stride", encoder.stride))
    encoder.causal = any(".shared_block.3.0." in name for name in stored)
    norm = _NORMS.get(args.get("norm_type", "gLN"))
    if norm is None:
        raise MayaError(f"asteroid's norm_type {args['norm_type']!r} is none of {', '.join(_NORMS)}")
    # asteroid saves gLN for a causal model, and computes cLN.
    encoder.norm = "channel" if encoder.causal and norm == "global" else norm  # type: ignore[assignment]
    if (activation := args.get("encoder_activation")) not in (None, "linear", "relu"):
        raise MayaError(f"asteroid's encoder_activation {activation!r} is not linear or relu")
    encoder.encoder_activation = activation or "linear"
