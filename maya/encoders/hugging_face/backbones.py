"""transformers' encoders whose frames do not depend on padding, though the stock classes' do.

Three cures: the first convolution of base models is normalised over valid frames alone, the position layers
of data2vec see zeros beyond an utterance, and attention sees no padding. Layer drop and the masks inside the
models are off; Maya's SpecAugment masks features.
"""

import importlib
import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from maya.encoders.hugging_face.config import HuggingFaceConfig
from maya.errors import MayaError
from maya.features.frames import frame_mask

OFF = {
    "layerdrop": 0.0, "encoder_layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}  # fmt: skip
SILENCE = 2.0  # by which Whisper's silence is below the loudest filter
LEAST = -1.5  # and no filter is lower


def library() -> Any:
    """transformers. Raises MayaError where it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MayaError("encoders of Hugging Face need pip install 'maya-asr[llm]' (transformers)") from error


def stock_config(cfg: HuggingFaceConfig) -> Any:
    """transformers' configuration of the encoder, with everything random but dropout off."""
    kind, values = library().AutoConfig, {**cfg.values, **OFF}
    name = "qwen2_audio_encoder" if cfg.pools else values["model_type"]
    values = {
        k: v for k, v in values.items() if k not in ("model_type", "architectures", "torch_dtype", "dtype")
    }
    return kind.for_model(name, **json.loads(json.dumps(values)))


def stock_class(cfg: HuggingFaceConfig) -> Any:
    """transformers' class of the encoder."""
    module, _, name = cfg.family.cls.rpartition(".")
    if module:
        return getattr(importlib.import_module(f"transformers.{module}"), name)
    return getattr(library(), name)


def without_weight_norm(module: nn.Module) -> None:
    """Turn weight norms into plain weights, in place: LoRA is such a parametrisation too."""
    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)


class Backbone(nn.Module):
    """The base. model: transformers' module. front: its children before the first layer."""

    front: tuple[str, ...] = ()

    def __init__(self, cfg: HuggingFaceConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.model: Any = stock_class(cfg)(stock_config(cfg))
        if cfg.activation_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        without_weight_norm(self.model)

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.model.layers)

    def _check_length(self, x: Tensor) -> None:
        most = self.cfg.longest
        if most is not None and x.shape[1] > most:
            raise MayaError(
                f"the encoder takes {most} frames ({most / 100:g} s) and got {x.shape[1]}; cut audio, or "
                "leave longer utterances out"
            )

    @property
    def last_norm(self) -> nn.Module | None:
        """The norm behind the last layer, where the last of the states is taken before it."""
        return None

    def forward(self, x: Tensor, x_lens: Tensor, all_states: bool) -> tuple[Tensor, list[Tensor]]:
        """(B, T, F), (B,) → the output (B, S, D), and with `all_states` the states of layers 0 to L, as
        transformers' `output_hidden_states` gives them."""
        raise NotImplementedError


class WaveBackbone(Backbone):
    """wav2vec2, HuBERT, WavLM and data2vec."""

    front = ("feature_extractor", "feature_projection", "encoder.pos_conv_embed")

    def __init__(self, cfg: HuggingFaceConfig) -> None:
        super().__init__(cfg)
        self.model.feature_extractor._requires_grad = False  # or it would ask for the gradient of the audio
        first = self.model.feature_extractor.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        self.norm = [MaskedGroupNorm(norm)] if isinstance(norm, nn.GroupNorm) else []
        if self.norm:
            first.layer_norm = self.norm[0]
        self.zeros: list[ZeroBeyond] = []
        for layer in getattr(self.model.encoder.pos_conv_embed, "layers", ()):
            self.zeros.append(ZeroBeyond())
            layer.register_forward_hook(self.zeros[-1])

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.model.encoder.layers)

    @property
    def last_norm(self) -> nn.Module | None:
        norm: nn.Module = self.model.encoder.layer_norm
        return norm if self.cfg.values.get("do_stable_layer_norm") else None

    def forward(self, x: Tensor, x_lens: Tensor, all_states: bool) -> tuple[Tensor, list[Tensor]]:
        cfg, need = self.cfg, self.cfg.receptive
        wave = F.pad(x[:, :, 0], (0, max(0, need - x.shape[1])))
        enough = x_lens.clamp(min=need)  # a row that is too short has a frame here, and none in the end
        wave = wave * frame_mask(x_lens, wave.shape[1])
        kernel, stride = cfg.convolutions[0]
        for norm in self.norm:
            norm.lens = (enough - kernel) // stride + 1
        for zero in self.zeros:
            zero.lens = cfg.subsampled(enough)
        mask = frame_mask(enough, wave.shape[1]).long()
        out = self.model(wave, attention_mask=mask, output_hidden_states=all_states)
        return out.last_hidden_state, list(out.hidden_states or ())


class SeamlessBackbone(Backbone):
    """W2V-BERT 2.0, which is independent of padding with a mask."""

    front = ("feature_projection",)

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.model.encoder.layers)

    def forward(self, x: Tensor, x_lens: Tensor, all_states: bool) -> tuple[Tensor, list[Tensor]]:
        mask = frame_mask(x_lens.clamp(min=1), x.shape[1]).long()
        out = self.model(x, attention_mask=mask, output_hidden_states=all_states)
        return out.last_hidden_state, list(out.hidden_states or ())


class MelBackbone(Backbone):
    """The encoders of Whisper and Qwen2-Audio: whole windows as in the stock class, or any length."""

    front = ("conv1", "conv2")

    def forward(self, x: Tensor, x_lens: Tensor, all_states: bool) -> tuple[Tensor, list[Tensor]]:
        model = self.model
        self._check_length(x)
        if self.cfg.whole:
            x, mask, bias = _filled(x, x_lens, self.cfg.longest or 0), None, None
        else:
            mask = frame_mask(x_lens, x.shape[1])[:, None]
            bias = _attention_bias(((x_lens.clamp(min=1) - 1) // 2 + 1), (x.shape[1] - 1) // 2 + 1, x.dtype)
        y = F.gelu(model.conv1(x.mT if mask is None else x.mT * mask))
        y = F.gelu(model.conv2(y if mask is None else y * mask)).mT
        y = y + model.embed_positions.weight[: y.shape[1]]
        y = F.dropout(y, p=model.dropout, training=self.training)
        states = [y]
        for layer in model.layers:
            y = layer(y, bias)
            states.append(y)
        if self.cfg.pools:
            few = max(0, 2 - y.shape[1])  # fewer frames than are averaged
            states = [F.avg_pool1d(F.pad(s.mT, (0, few)), 2).mT for s in (states if all_states else [y])]
            y = states[-1]
        y = model.layer_norm(y)
        return y, [*states[:-1], y] if all_states else []


class PatchBackbone(Backbone):
    """The Audio Spectrogram Transformer: a frame is the mean of the patches that begin at one time."""

    front = ("embeddings",)

    @property
    def last_norm(self) -> nn.Module | None:
        norm: nn.Module = self.model.layernorm
        return norm

    def forward(self, x: Tensor, x_lens: Tensor, all_states: bool) -> tuple[Tensor, list[Tensor]]:
        self._check_length(x)
        x = F.pad(x, (0, 0, 0, (self.cfg.longest or 0) - x.shape[1]))
        out = self.model(x, output_hidden_states=all_states)
        return self._by_time(out.last_hidden_state), [self._by_time(h) for h in out.hidden_states or ()]

    def _by_time(self, tokens: Tensor) -> Tensor:
        """(B, 2 + bands · S, D) → (B, S, D), without the class and distillation tokens."""
        size, stride = (int(self.cfg.value(name)) for name in ("patch_size", "frequency_stride"))
        bands = (self.cfg.feat_in - size) // stride
        return tokens[:, 2:].unflatten(1, (bands + 1, -1)).mean(1)


BACKBONES = {"wave": WaveBackbone, "seamless": SeamlessBackbone, "mel": MelBackbone, "patches": PatchBackbone}


class MaskedGroupNorm(nn.Module):
    """A group norm of one channel a group over the first `lens` (B,) frames of (B, C, T), with the weights of
    the stock one, over which the length of the batch has no influence."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.lens = torch.zeros(0, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y = x.float()
            valid, count = frame_mask(self.lens, x.shape[2])[:, None], self.lens[:, None, None]
            centred = y - (y * valid).sum(2, keepdim=True) / count
            variance = (centred * valid).square().sum(2, keepdim=True) / count
            scale = self.weight.float()[:, None] * (variance + self.eps).rsqrt()
            return (centred * scale + self.bias.float()[:, None]).to(x.dtype)


class ZeroBeyond:
    """A hook that zeroes (B, C, T) beyond `lens` (B,)."""

    def __init__(self) -> None:
        self.lens = torch.zeros(0, dtype=torch.int64)

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * frame_mask(self.lens, output.shape[2])[:, None]


def _filled(x: Tensor, x_lens: Tensor, frames: int) -> Tensor:
    """(B, T, F) filled up to so many frames with Whisper's silence, which depends on the utterance's level.
    `WhisperMel` has done it already, unless its `seconds` are fewer."""
    if x.shape[1] == frames:
        return x
    valid = frame_mask(x_lens, x.shape[1])[:, :, None]
    loudest = x.masked_fill(~valid, -torch.inf).amax((1, 2), keepdim=True)
    silence = (loudest - SILENCE).clamp(min=LEAST)
    x = torch.where(valid, x, silence)
    return torch.cat([x, silence.expand(-1, frames - x.shape[1], x.shape[2])], 1)


def _attention_bias(lens: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, S, S): 0 for keys within lens (B,), and the lowest number beyond."""
    bias = torch.zeros(len(lens), 1, 1, size, dtype=dtype, device=lens.device)
    bias = bias.masked_fill(~frame_mask(lens, size)[:, None, None], torch.finfo(dtype).min)
    return bias.expand(-1, -1, size, -1)
