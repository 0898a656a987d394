"""Options of the encoders that separate sources."""

from typing import Any, ClassVar, Literal

from maya.config import config
from maya.encoders.base import EncoderConfig
from maya.encoders.separation.filterbank import Framing
from maya.encoders.separation.norms import NormKind
from maya.ranges import OddInt, PosInt, Share


@config
class SeparatorConfig(EncoderConfig):
    """The filterbank of an encoder that reads the waveform and masks its frames for each source.

    sources: speakers to separate. filters: channels N of the filterbank; the output has one mask × frame of
    them after another, D = sources · N. kernel_size, stride, padded: see `Framing`.
    """

    traceless: ClassVar[tuple[str, ...]] = ("stride", "padded")

    sources: PosInt = 2
    filters: PosInt = 512
    kernel_size: PosInt = 16
    stride: PosInt = 8
    padded: bool = True

    @property
    def feat_in(self) -> int:
        """1: the waveform."""
        return 1

    @property
    def d_model(self) -> int:
        return self.sources * self.filters

    @property
    def subsampling_factor(self) -> int:
        return self.stride

    @property
    def framing(self) -> Framing:
        return Framing(self.kernel_size, self.stride, self.padded)

    def subsampled(self, frames: Any) -> Any:
        return self.framing.frames(frames)

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        return ()


@config
class ConvTasNetConfig(SeparatorConfig):
    """Conv-TasNet (Luo and Mesgarani 2019, arXiv:1809.07454). The defaults and the names of the weights are
    those of torchaudio's ConvTasNet.

    bottleneck, hidden, skip: channels B, H and Sc of the paper. layers, stacks: X and R. norm: see
    `SeparationNorm`. causal: no frame sees a later one; it needs a norm other than "global".
    encoder_activation, mask_activation: after the filterbank and after the masks.
    """

    traceless = ("stride", "padded", "norm", "causal", "encoder_activation", "mask_activation")

    kind: Literal["conv_tasnet"] = "conv_tasnet"
    bottleneck: PosInt = 128
    hidden: PosInt = 512
    skip: PosInt = 128
    conv_kernel: OddInt = 3
    layers: PosInt = 8
    stacks: PosInt = 3
    norm: NormKind = "global"
    causal: bool = False
    encoder_activation: Literal["linear", "relu"] = "linear"
    mask_activation: Literal["sigmoid", "relu"] = "sigmoid"


@config
class SepReformerConfig(SeparatorConfig):
    """SepReformer (Shin et al. 2024, arXiv:2406.05983) with the focused linear attention of FLASepformer
    (2025, arXiv:2508.19528). The defaults are those of the base model.

    channels: F of the paper, 64 tiny, 128 base, 256 large. stages: of the U-Net, each of half the frames.
    heads: of attention. local_kernel: of the depthwise convolution of local blocks. power: p of the focused
    function. encoder_blocks, decoder_blocks: pairs of a global and a local block in a stage.
    """

    kind: Literal["sepreformer"] = "sepreformer"
    filters: PosInt = 256
    stride: PosInt = 4
    channels: PosInt = 128
    stages: PosInt = 4
    heads: PosInt = 8
    local_kernel: OddInt = 65
    power: PosInt = 3
    encoder_blocks: PosInt = 2
    decoder_blocks: PosInt = 3
    dropout: Share = 0.05

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Layer i is the masked frames from before the decoder's stage i; 0 is the coarsest."""
        return (self.d_model,) * self.stages
