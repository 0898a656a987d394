"""Options of ECAPA-TDNN."""

from typing import Literal

from maya.config import config
from maya.encoders.base import EncoderConfig
from maya.ranges import OddInt, PosInt


@config
class EcapaConfig(EncoderConfig):
    """ECAPA-TDNN (Desplanques et al. 2020, arXiv:2005.07143), up to the pooling. The defaults are those of
    SpeechBrain's published model with 512 channels; `wespeaker` returns those of wespeaker.

    channels: of the blocks, of which there is one for each of `dilations`. d_model: channels of the layer
    after their concatenation (MFA). scale: chunks of a Res2 convolution, of which one passes `untouched`.
    padding: what convolutions see beyond the ends of an utterance. mfa_norm: batch norm after MFA.
    subtract_mean: of the features, over the utterance.
    """

    traceless = ("dilations", "untouched", "padding", "subtract_mean")

    kind: Literal["ecapa"] = "ecapa"
    feat_in: PosInt = 80
    d_model: PosInt = 1536
    channels: PosInt = 512
    kernel: OddInt = 3
    first_kernel: OddInt = 5
    dilations: tuple[PosInt, ...] = (2, 3, 4)
    scale: PosInt = 8
    se_channels: PosInt = 128
    untouched: Literal["first", "last"] = "first"
    padding: Literal["reflect", "zeros"] = "reflect"
    mfa_norm: bool = True
    subtract_mean: bool = True

    @property
    def subsampling_factor(self) -> int:
        """1: a frame for each feature frame."""
        return 1

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        return (self.channels,) * (len(self.dilations) + 1)


def wespeaker(channels: int = 512, feat_in: int = 80) -> EcapaConfig:
    """The options of wespeaker's ECAPA: MFA of 1536 channels whatever the others, without batch norm."""
    return EcapaConfig(channels=channels, feat_in=feat_in, untouched="last", padding="zeros", mfa_norm=False)
