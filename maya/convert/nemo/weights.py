"""NeMo's state dict to Maya's and back. Every tensor is checked."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.conversion import strict
from maya.convert.nemo.parts import Family, NemoParts, nemo_parts
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.features.logmel import LogMel
from maya.heads import MultisoftmaxCTCConfig, MultisoftmaxTransducerConfig
from maya.heads.multisoftmax import plain as plain_head
from maya.models.config import SpeechModelConfig

# State of a NeMo model that is not of its network: position tables, metrics, losses.
PASSED_OVER = re.compile(
    r"encoder\.pos_enc\.pe|(spec_augmentation|loss|ctc_loss|wer|_wer|ctc_wer|decoding)\..*|"
    r"preprocessor\.featurizer\.dtype_sentinel_tensor"
)
FEATURIZER = "preprocessor.featurizer."
# (NeMo's prefix, Maya's); the rest of a name is the same.
PREFIXES = (
    ("prompt_kernel.", "encoder.output_layer."),
    ("decoder.", "heads.transducer.decoder."),
    ("joint.", "heads.transducer.joint."),
    ("ctc_decoder.", "heads.ctc."),
)
CTC_PREFIXES = (("decoder.", "heads.ctc."),)  # of models with CTC alone
Shapes = Mapping[str, tuple[int, ...]]
SHARED = ("pos_bias_u", "pos_bias_v")  # one for all layers when encoder.untie_biases is false


def checked_weights(
    stored: Mapping[str, Tensor], config: SpeechModelConfig, path: Path, *, encoder_only: bool = False
) -> dict[str, Tensor]:
    """Maya's state dict (fp32) from NeMo's. encoder_only: without any heads. Raises MayaError for a tensor
    that is missing, unexpected or of another shape than the yaml gives it."""
    plain = of_one_language(config)
    parts = nemo_parts(plain, "NeMo")
    if encoder_only:
        stored = {name: x for name, x in stored.items() if name.startswith(("encoder.", "preprocessor."))}
        config = replace(config, heads={})
    weights = from_nemo_names(stored, parts)
    # A CTC head of several languages has the rows of all of them; its size is checked with the tokenizer.
    compared = {n: x for n, x in weights.items() if plain is config or not n.startswith("heads.ctc.")}
    for name, configured, value in contradictions(compared, plain):
        source = " in model_config.yaml" if "." in name else ""
        raise MayaError(f"{path}: {name} is {configured}{source}, but the weights have {value}")
    weights |= _front_end(stored, parts.features, path)
    return strict(weights, config, path, "the network of its yaml", lambda n, t: (nemo_name(n, parts), t))


def of_one_language(config: SpeechModelConfig) -> SpeechModelConfig:
    """The ordinary model that settings are compared with, for one with an output layer for each language."""
    kinds = MultisoftmaxCTCConfig, MultisoftmaxTransducerConfig
    if not any(isinstance(head, kinds) for head in config.heads.values()):
        return config
    heads = {name: plain_head(head) for name, head in config.heads.items()}
    return replace(config, heads=heads, vocab_size=config.vocab_size // len(config.languages))


def maya_name(name: str, family: Family) -> str:
    """Maya's name of a tensor of NeMo's."""
    # Without dropout NeMo's joint has one module fewer, and its last layer another number.
    name = re.sub(r"^joint\.joint_net\.1\.", "joint.joint_net.2.", name)
    for nemo, maya in CTC_PREFIXES if family == "ctc" else PREFIXES:
        if name.startswith(nemo):
            return maya + name.removeprefix(nemo)
    return name


def nemo_name(name: str, parts: NemoParts) -> str:
    """NeMo's name of a tensor of a Maya model with these parts."""
    for nemo, maya in CTC_PREFIXES if parts.family == "ctc" else PREFIXES:
        if name.startswith(maya):
            name = nemo + name.removeprefix(maya)
            break
    if parts.transducer is not None and parts.transducer.joint.dropout == 0:
        name = re.sub(r"^joint\.joint_net\.2\.", "joint.joint_net.1.", name)
    return name


def from_nemo_names(stored: Mapping[str, Tensor], parts: NemoParts) -> dict[str, Tensor]:
    """The tensors by Maya's names, in fp32, without those of metrics and losses."""
    weights: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if not PASSED_OVER.fullmatch(name):
            weights[maya_name(name, parts.family)] = tensor.float() if tensor.is_floating_point() else tensor
    if not parts.encoder.untie_biases:
        for bias in SHARED:
            if (first := weights.get(f"encoder.layers.0.self_attn.{bias}")) is not None:
                weights[f"encoder.{bias}"] = first
    return weights


def to_nemo_names(weights: Mapping[str, Tensor], parts: NemoParts) -> dict[str, Tensor]:
    """The inverse: the state dict that NeMo loads strictly."""
    shared = tuple(f"encoder.{bias}" for bias in SHARED)
    return {
        nemo_name(name, parts): tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
        if name not in shared
    }


def contradictions(
    weights: Mapping[str, Tensor], config: SpeechModelConfig
) -> Iterator[tuple[str, Any, Any]]:
    """(yaml name, configured value, value by the shapes) of every setting for which these two differ.
    weights: by Maya's names."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    parts = nemo_parts(config, "NeMo")
    for name, configured, value in (
        *_encoder_settings(shapes, parts),
        *_head_settings(shapes, parts, config),
    ):
        if value is not None and value != configured:
            yield name, configured, value


def _dim(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) else None


def _encoder_settings(shapes: Shapes, parts: NemoParts) -> Iterator[tuple[str, Any, Any]]:
    """(yaml name, configured value, value by the shapes or None if the tensors are missing)."""
    e, layer = parts.encoder, "encoder.layers.0."
    layers = {int(m[1]) for name in shapes if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    strided = [n for n in shapes if re.fullmatch(r"encoder\.pre_encode\.conv\.\d+\.weight", n)]
    width = _dim(shapes, "encoder.pre_encode.out.weight", 0)
    inner = _dim(shapes, layer + "feed_forward1.linear1.weight", 0)
    bias = layer + "self_attn.linear_q.bias" in shapes
    norm = "batch_norm" if layer + "conv.batch_norm.running_mean" in shapes else "layer_norm"
    separable = _dim(shapes, "encoder.pre_encode.conv.2.weight", 1) == 1
    # A full convolution, then for each further halving another, or a depthwise and a pointwise one.
    factor = 2 ** ((len(strided) + 1) // 2 if separable else len(strided)) if strided else None
    kernel = _dim(shapes, layer + "conv.depthwise_conv.weight", 2)
    channels = _dim(shapes, "encoder.pre_encode.conv.0.weight", 0)
    yield "encoder.n_layers", e.n_layers, len(layers) or None
    yield "encoder.d_model", e.d_model, width
    yield "encoder.n_heads", e.n_heads, _dim(shapes, layer + "self_attn.pos_bias_u", 0)
    yield "encoder.use_bias", e.use_bias, bias if layers else None
    yield "encoder.conv_kernel_size", e.conv_kernel, kernel
    yield "encoder.conv_norm_type", e.conv_norm, norm if layers else None
    yield "encoder.ff_expansion_factor", e.ff_expansion, inner // width if inner and width else None
    yield (
        "encoder.subsampling",
        e.subsampling,
        ("dw_striding" if separable else "striding") if strided else None,
    )
    yield "encoder.subsampling_factor", e.subsampling_factor, factor
    yield "encoder.subsampling_conv_channels", e.subsampling_channels, channels
    yield "preprocessor.features", parts.features.num_mels, _dim(shapes, FEATURIZER + "fb", 1)


def _head_settings(
    shapes: Shapes, parts: NemoParts, config: SpeechModelConfig
) -> Iterator[tuple[str, Any, Any]]:
    """The same of the heads."""
    if parts.transducer is not None and parts.predictor is not None:
        prefix, with_blank = "heads.transducer.", config.vocab_size + 1
        embed = prefix + "decoder.prediction.embed.weight"
        layers = sum(".lstm.weight_ih_l" in name for name in shapes) or None
        outputs = _dim(shapes, prefix + "joint.joint_net.2.weight", 0)
        yield "decoder.prednet.pred_hidden", parts.predictor.hidden, _dim(shapes, embed, 1)
        yield "decoder.prednet.pred_rnn_layers", parts.predictor.layers, layers
        yield "the vocabulary of the tokenizer", config.vocab_size, _without_blank(_dim(shapes, embed, 0))
        joint = _dim(shapes, prefix + "joint.enc.weight", 0)
        yield "joint.jointnet.joint_hidden", parts.transducer.joint.hidden, joint
        yield "the vocabulary with blank and durations", with_blank + len(parts.durations), outputs
    ctc = _dim(shapes, "heads.ctc.decoder_layers.0.weight", 0)
    yield "the vocabulary of the CTC head", config.vocab_size, _without_blank(ctc)


def _without_blank(outputs: int | None) -> int | None:
    return None if outputs is None else outputs - 1


def _front_end(stored: Mapping[str, Tensor], features: LogMelConfig, path: Path) -> dict[str, Tensor]:
    """Window and filter bank. They follow from the configuration: an archive may lack them, but not
    contradict them. Those stored in less than fp32 are replaced by exact ones, as in training."""
    exact = LogMel(features).state_dict()
    kept: dict[str, Tensor] = {}
    for name, tensor in exact.items():
        name = FEATURIZER + name
        saved = stored.get(name, tensor)
        # Rounding to the archive's precision may move a value by a unit in the last place.
        rounding = torch.finfo(saved.dtype).eps if saved.dtype in (torch.bfloat16, torch.float16) else 0.0
        same_shape = saved.shape == tensor.shape
        if same_shape and not torch.allclose(saved.float(), tensor, rtol=1e-3 + rounding, atol=1e-5):
            raise MayaError(f"{path}: {name} is not the one that the yaml's preprocessor section describes")
        kept[name] = tensor if rounding and same_shape else saved.float()
    return kept
