"""NeMo's state dict ↔ Maya's: the names are the same but for a few, and every tensor is accounted for."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.nemo_config import Family
from maya.encoders.conformer.config import FastConformerConfig
from maya.errors import MayaError
from maya.features.logmel import LogMel
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, nemo_parts

# State that a NeMo model may carry beside its network: position tables, metrics, losses.
PASSED_OVER = re.compile(
    r"encoder\.pos_enc\.pe|(spec_augmentation|loss|ctc_loss|wer|_wer|ctc_wer|decoding)\..*|"
    r"preprocessor\.featurizer\.dtype_sentinel_tensor"
)
FEATURIZER = "preprocessor.featurizer."
SHARED = ("pos_bias_u", "pos_bias_v")  # one for all layers when encoder.untie_biases is false


def checked_weights(
    stored: Mapping[str, Tensor], config: SpeechModelConfig, family: Family, path: Path
) -> dict[str, Tensor]:
    """Maya's state dict (fp32) from NeMo's: every tensor that is expected, in its shape, and no other."""
    weights = from_nemo_names(stored, family, nemo_parts(config, "NeMo")[1])
    for name, said, found in contradictions(weights, config):
        source = " in model_config.yaml" if "." in name else ""
        raise MayaError(f"{path}: {name} is {said}{source}, but the weights have {found}")
    weights |= _front_end(stored, config, path)
    with torch.device("meta"):
        expected = SpeechModel(config).state_dict()
    if unknown := sorted(set(weights) - set(expected)):
        raise MayaError(f"{path} has weights that the network of its yaml does not have: {_some(unknown)}")
    if missing := sorted(set(expected) - set(weights)):
        raise MayaError(f"{path} lacks weights of the network of its yaml: {_some(missing)}")
    for name, tensor in expected.items():
        if not bool(weights[name].isfinite().all()):
            raise MayaError(f"{path}: {name} holds values that are not finite numbers; save the model again")
        if weights[name].shape != tensor.shape:
            raise MayaError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, but by its yaml it has "
                f"{tuple(tensor.shape)}"
            )
    return {name: weights[name] for name in expected}


def from_nemo_names(
    stored: Mapping[str, Tensor], family: Family, encoder: FastConformerConfig
) -> dict[str, Tensor]:
    """By Maya's names, in fp32, without what belongs to metrics and losses."""
    weights: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if PASSED_OVER.fullmatch(name):
            continue
        if family == "ctc" and name.startswith("decoder.decoder_layers."):
            name = "ctc_" + name
        # Without dropout NeMo's joint has one module fewer, and its last layer another number.
        name = re.sub(r"^joint\.joint_net\.1\.", "joint.joint_net.2.", name)
        weights[name] = tensor.float() if tensor.is_floating_point() else tensor
    if not encoder.untie_biases:
        for bias in SHARED:
            if (first := weights.get(f"encoder.layers.0.self_attn.{bias}")) is not None:
                weights[f"encoder.{bias}"] = first
    return weights


def to_nemo_names(weights: Mapping[str, Tensor], config: SpeechModelConfig) -> dict[str, Tensor]:
    """The inverse: what NeMo's strict loading of a model with this configuration wants."""
    stored = {}
    for name, tensor in weights.items():
        if name in tuple(f"encoder.{bias}" for bias in SHARED):
            continue
        if config.transducer == "none":
            name = re.sub(r"^ctc_decoder\.", "decoder.", name)
        if config.joint.dropout == 0:
            name = re.sub(r"^joint\.joint_net\.2\.", "joint.joint_net.1.", name)
        stored[name] = tensor.detach().cpu().contiguous()
    return stored


def contradictions(
    weights: Mapping[str, Tensor], config: SpeechModelConfig
) -> Iterator[tuple[str, Any, Any]]:
    """(yaml name, value by the configuration, value by the shapes) of every setting that shapes betray."""
    said = dict(_settings(config))
    for name, found in _betrayed(weights):
        if name in said and said[name] != found:
            yield name, said[name], found


def _settings(config: SpeechModelConfig) -> Iterator[tuple[str, Any]]:
    features, encoder, predictor = nemo_parts(config, "NeMo")
    yield "encoder.n_layers", encoder.n_layers
    yield "encoder.d_model", encoder.d_model
    yield "encoder.n_heads", encoder.n_heads
    yield "encoder.use_bias", encoder.use_bias
    yield "encoder.conv_kernel_size", encoder.conv_kernel
    yield "encoder.conv_norm_type", encoder.conv_norm
    yield "encoder.ff_expansion_factor", encoder.ff_expansion
    yield "encoder.subsampling_factor", encoder.subsampling_factor
    yield "encoder.subsampling_conv_channels", encoder.subsampling_channels
    yield "preprocessor.features", features.num_mels
    if config.transducer != "none":
        yield "decoder.prednet.pred_hidden", predictor.hidden
        yield "decoder.prednet.pred_rnn_layers", predictor.layers
        yield "the vocabulary of the tokenizer", config.vocab_size
        yield "joint.jointnet.joint_hidden", config.joint.hidden
        durations = len(config.durations) if config.transducer == "tdt" else 0
        yield "the vocabulary with blank and durations", config.vocab_size + 1 + durations
    yield "the vocabulary of the CTC head", config.vocab_size


def _betrayed(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    """The same settings as the shapes tell them, as far as the tensors are there."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}

    def dim(name: str, axis: int) -> int | None:
        shape = shapes.get(name, ())
        return shape[axis] if axis < len(shape) else None

    layer = "encoder.layers.0."
    layers = {int(m[1]) for name in shapes if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    strided = [n for n in shapes if re.fullmatch(r"encoder\.pre_encode\.conv\.\d+\.weight", n)]
    width, wide = dim("encoder.pre_encode.out.weight", 0), dim(layer + "feed_forward1.linear1.weight", 0)
    found = {
        "encoder.n_layers": len(layers) or None,
        "encoder.d_model": width,
        "encoder.n_heads": dim(layer + "self_attn.pos_bias_u", 0),
        "encoder.use_bias": layer + "self_attn.linear_q.bias" in shapes if layers else None,
        "encoder.conv_kernel_size": dim(layer + "conv.depthwise_conv.weight", 2),
        "encoder.conv_norm_type": _norm(shapes, layer) if layers else None,
        "encoder.ff_expansion_factor": wide // width if wide and width else None,
        # A full convolution, then a depthwise and a pointwise one for each further halving.
        "encoder.subsampling_factor": 2 ** ((len(strided) + 1) // 2) if strided else None,
        "encoder.subsampling_conv_channels": dim("encoder.pre_encode.conv.0.weight", 0),
        "preprocessor.features": dim(FEATURIZER + "fb", 1),
        "decoder.prednet.pred_hidden": dim("decoder.prediction.embed.weight", 1),
        "decoder.prednet.pred_rnn_layers": sum(".lstm.weight_ih_l" in name for name in shapes) or None,
        "joint.jointnet.joint_hidden": dim("joint.enc.weight", 0),
    }
    for name, key in (
        ("the vocabulary of the tokenizer", "decoder.prediction.embed.weight"),
        ("the vocabulary of the CTC head", "ctc_decoder.decoder_layers.0.weight"),
    ):
        with_blank = dim(key, 0)
        found[name] = None if with_blank is None else with_blank - 1
    found["the vocabulary with blank and durations"] = dim("joint.joint_net.2.weight", 0)
    yield from ((name, value) for name, value in found.items() if value is not None)


def _norm(shapes: Mapping[str, tuple[int, ...]], layer: str) -> str:
    return "batch_norm" if layer + "conv.batch_norm.running_mean" in shapes else "layer_norm"


def _front_end(stored: Mapping[str, Tensor], config: SpeechModelConfig, path: Path) -> dict[str, Tensor]:
    """Window and filter bank, which follow from the configuration: an archive may lack them, not contradict
    them. Those stored in less than fp32 are replaced by exact ones, with which the model was trained."""
    exact = LogMel(nemo_parts(config, "NeMo")[0]).state_dict()
    kept: dict[str, Tensor] = {}
    for name, tensor in exact.items():
        name = FEATURIZER + name
        theirs = stored.get(name, tensor)
        # Rounding to the archive's precision may move a value by a unit in the last place.
        rounding = torch.finfo(theirs.dtype).eps if theirs.dtype in (torch.bfloat16, torch.float16) else 0.0
        same_shape = theirs.shape == tensor.shape
        if same_shape and not torch.allclose(theirs.float(), tensor, rtol=1e-3 + rounding, atol=1e-5):
            raise MayaError(f"{path}: {name} is not the one that the yaml's preprocessor section describes")
        kept[name] = tensor if rounding and same_shape else theirs.float()
    return kept


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
