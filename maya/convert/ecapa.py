"""Weights of SpeechBrain's and wespeaker's ECAPA-TDNN, by their names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maya.convert.conversion import Conversion, strict, torch_content
from maya.convert.icefall.tokens import tokenizer_of
from maya.convert.report import ConversionReport, components
from maya.encoders import EcapaConfig
from maya.encoders.ecapa.config import wespeaker
from maya.errors import MayaError
from maya.features.voice_fbank import VoiceFbankConfig
from maya.heads import SpeakerConfig
from maya.models.config import SpeechModelConfig
from maya.train.checkpoints.checkpoint import Checkpoint

HEAD = "heads.speaker"
# The start of a name there, and here; {n} is a block, counted from {0}.
_SPEECHBRAIN = {
    r"blocks\.0\.conv\.conv": "encoder.input.conv",
    r"blocks\.0\.norm\.norm": "encoder.input.norm",
    r"blocks\.(\d+)\.tdnn1\.(conv|norm)\.\w+": "encoder.layers.{n}.before.{}",
    r"blocks\.(\d+)\.res2net_block\.blocks\.(\d+)\.(conv|norm)\.\w+": "encoder.layers.{n}.res2.convs.{}.{}",
    r"blocks\.(\d+)\.tdnn2\.(conv|norm)\.\w+": "encoder.layers.{n}.after.{}",
    r"blocks\.(\d+)\.se_block\.conv1\.conv": "encoder.layers.{n}.squeeze",
    r"blocks\.(\d+)\.se_block\.conv2\.conv": "encoder.layers.{n}.excite",
    r"mfa\.(conv|norm)\.\w+": "encoder.mfa.{}",
    r"asp\.tdnn\.conv\.conv": f"{HEAD}.pool.inner",
    r"asp\.tdnn\.norm\.norm": f"{HEAD}.pool.norm",
    r"asp\.conv\.conv": f"{HEAD}.pool.score",
    r"asp_bn\.norm": f"{HEAD}.pool_norm",
    r"fc\.conv": f"{HEAD}.out",
}
_BLOCK = r"layer(\d+)\.se_res2block"
_WESPEAKER = {
    r"layer1\.conv": "encoder.input.conv",
    r"layer1\.bn": "encoder.input.norm",
    _BLOCK + r"\.0\.conv": "encoder.layers.{n}.before.conv",
    _BLOCK + r"\.0\.bn": "encoder.layers.{n}.before.norm",
    _BLOCK + r"\.1\.convs\.(\d+)": "encoder.layers.{n}.res2.convs.{}.conv",
    _BLOCK + r"\.1\.bns\.(\d+)": "encoder.layers.{n}.res2.convs.{}.norm",
    _BLOCK + r"\.2\.conv": "encoder.layers.{n}.after.conv",
    _BLOCK + r"\.2\.bn": "encoder.layers.{n}.after.norm",
    _BLOCK + r"\.3\.linear1": "encoder.layers.{n}.squeeze",
    _BLOCK + r"\.3\.linear2": "encoder.layers.{n}.excite",
    r"conv": "encoder.mfa.conv",
    r"pool\.linear1": f"{HEAD}.pool.inner",
    r"pool\.linear2": f"{HEAD}.pool.score",
    r"bn": f"{HEAD}.pool_norm",
    r"linear": f"{HEAD}.out",
    r"bn2": f"{HEAD}.out_norm",
}
_LINEAR = re.compile(rf"({HEAD}\.(pool\.(inner|score)|out)|.*\.(squeeze|excite))\.weight")


def our_name(name: str) -> str:
    """Maya's name of a tensor of either; the name itself where it is none of original."""
    is_wespeaker = not name.startswith(("blocks.", "mfa.", "asp", "fc."))
    first = 2 if is_wespeaker else 1
    stem, _, leaf = name.rpartition(".")
    for pattern, ours in (_WESPEAKER if is_wespeaker else _SPEECHBRAIN).items():
        if match := re.fullmatch(pattern, stem):
            groups = list(match.groups())
            number = int(groups.pop(0)) - first if "{n}" in ours else 0
            return ours.format(*groups, n=number) + f".{leaf}"
    return name


def import_ecapa(source: str | Path) -> Conversion:
    """A file of weights: SpeechBrain's embedding_model.ckpt, or wespeaker's avg_model.pt with an ECAPA-TDNN.

    The dilations are not in the weights: 2, 3, 4 are assumed. The classifier of the training speakers is left
    out, because their names are not in the file. Raises MayaError for a file of other weights.
    """
    path = Path(source)
    stored = state_dict_of(path)
    is_wespeaker = "layer1.conv.weight" in stored
    if not is_wespeaker and "blocks.0.conv.conv.weight" not in stored:
        raise MayaError(f"{path} holds no ECAPA-TDNN of SpeechBrain (embedding_model.ckpt) or wespeaker")
    dropped = sorted(name for name in stored if name.startswith("projection."))
    kept = {name: x for name, x in stored.items() if name not in dropped}
    names = {our_name(name): (name, x) for name, x in kept.items()}
    weights = {ours: _shaped(ours, x) for ours, (_, x) in names.items()}
    config = SpeechModelConfig(
        features=VoiceFbankConfig(style="wespeaker" if is_wespeaker else "speechbrain"),
        encoder=_encoder(weights, path, is_wespeaker), heads={"speaker": _head(weights, path, is_wespeaker)},
    )  # fmt: skip
    config.features.num_mels = config.encoder.feat_in  # type: ignore[misc]
    variant = "wespeaker" if is_wespeaker else "SpeechBrain"
    return voice_conversion(path, config, weights, names, dropped, "ECAPA-TDNN", variant)


def voice_conversion(
    path: Path, config: SpeechModelConfig, weights: dict[str, Tensor],
    original: Mapping[str, tuple[str, Tensor]], dropped: Sequence[str], network: str,
    variant: str = "wespeaker",
) -> Conversion:  # fmt: skip
    """The model of a voice encoder, without training speakers. weights: by Maya's names. original: name and
    tensor in the file of each of them. dropped: names that were left out. See `strict` for the errors."""
    size = config.heads["speaker"].embedding  # type: ignore[attr-defined]
    weights = weights | {
        f"{HEAD}.centres": torch.zeros(0, size),
        f"{HEAD}.names": torch.zeros(0, 64, dtype=torch.uint8),
    }
    article = "an" if network[0] in "AEIO" else "a"
    checked = strict(
        weights, config, path, f"{article} {network} of its shape",
        lambda name, tensor: original.get(name, (name, tensor)),
    )  # fmt: skip
    tokenizer = tokenizer_of(["<unk>", "<s>", "</s>"])  # a checkpoint has one; no head reads it
    notes = {"source": path.name, "trained": ["speaker"]}
    checkpoint = Checkpoint(model_config=config, tokenizer=tokenizer, weights=checked, step=0, notes=notes)
    facts = {"variant": variant, "embedding": str(size)}
    warnings = [f"left out: {name}, the speakers of its training" for name in dropped]
    report = ConversionReport(
        title=f"{path}: {network}", components=components(config, checked), facts=facts, warnings=warnings
    )
    return Conversion(checkpoint=checkpoint, report=report)


def state_dict_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without `module.`. Raises MayaError for a file of other things."""
    content = torch_content(path)
    if not all(isinstance(x, Tensor) for x in content.values()):
        raise MayaError(f"{path} holds no state dict: save the model's own, with tensors by name")
    return {str(name).removeprefix("module."): x for name, x in content.items()}


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """A 1×1 convolution as the weight of a linear layer, in fp32."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.squeeze(-1) if _LINEAR.fullmatch(name) and tensor.dim() == 3 else tensor


def _encoder(weights: Mapping[str, Tensor], path: Path, is_wespeaker: bool) -> EcapaConfig:
    try:
        first, mfa = weights["encoder.input.conv.weight"], weights["encoder.mfa.conv.weight"]
        squeeze = weights["encoder.layers.0.squeeze.weight"]
        inner = weights["encoder.layers.0.res2.convs.0.conv.weight"]
    except KeyError as error:
        raise MayaError(f"{path} lacks the tensor that becomes {error.args[0]}") from None
    base = wespeaker() if is_wespeaker else EcapaConfig()
    base.channels, base.feat_in, base.first_kernel = first.shape
    base.d_model, base.se_channels = len(mfa), len(squeeze)
    base.scale, base.kernel = len(first) // len(inner), inner.shape[2]
    return base


def _head(weights: Mapping[str, Tensor], path: Path, is_wespeaker: bool) -> SpeakerConfig:
    try:
        inner, score = weights[f"{HEAD}.pool.inner.weight"], weights[f"{HEAD}.pool.score.weight"]
        out = weights[f"{HEAD}.out.weight"]
    except KeyError as error:
        raise MayaError(
            f"{path} lacks the tensor that becomes {error.args[0]}: is its pooling attentive?"
        ) from None
    return SpeakerConfig(
        variant="wespeaker" if is_wespeaker else "speechbrain", attention_dim=len(inner), embedding=len(out),
        global_context=inner.shape[1] == 3 * len(score),
        embedding_norm=f"{HEAD}.out_norm.weight" in weights,
    )  # fmt: skip
