"""A Zipformer layer with fast weights instead of attention."""

from torch import Tensor

from maya.encoders.conformer.attention import Frames
from maya.encoders.lact.mixer import FastWeightMixer
from maya.encoders.zipformer.attention import StackFrames
from maya.encoders.zipformer.config import ZipformerConfig
from maya.encoders.zipformer.layer import LayerCache, ZipformerLayer, add_masked
from maya.encoders.zipformer.regularizers import Number


class FastWeightZipformerLayer(ZipformerLayer):
    """`ZipformerLayer` whose two self-attentions are fast weights.

    It has no non-linear attention, which needs attention weights. The cost grows linearly with the sequence.
    The layer cannot stream.
    """

    def __init__(self, cfg: ZipformerConfig, stack: int, **options: Number) -> None:
        super().__init__(cfg, stack, **options)
        del self.self_attn_weights, self.self_attn1, self.self_attn2
        del self.nonlin_attention, self.balancer_na, self.uniform_attention
        assert cfg.fast_weights is not None
        self.fast1 = FastWeightMixer(cfg.dims[stack], cfg.fast_weights)
        self.fast2 = FastWeightMixer(cfg.dims[stack], cfg.fast_weights)

    def forward(
        self, x: Tensor, span: StackFrames, cache: LayerCache | None = None
    ) -> tuple[Tensor, LayerCache | None]:
        """x (B, S, D) -> (B, S, D), and None. Only `span.valid` is read."""
        source, skip = x, self._mask(x, self.attention_skip)
        frames = Frames(valid=span.valid[..., 0] > 0, positions=x.new_empty(0))
        x = x + self.feed_forward1(x)
        x = add_masked(x, self.fast1(x, frames), skip)
        x = add_masked(x, self.conv_module1(x, span)[0], self._mask(x, self.conv_skip))
        x = add_masked(x, self.balancer_ff2(self.feed_forward2(x)), self._mask(x, self.ff2_skip))
        x = self.bypass_mid(source, x)
        x = add_masked(x, self.fast2(x, frames), skip)
        x = add_masked(x, self.conv_module2(x, span)[0], self._mask(x, self.conv_skip))
        x = add_masked(x, self.balancer_ff3(self.feed_forward3(x)), self._mask(x, self.ff3_skip))
        x = self.bypass(source, self.norm(self.balancer1(x)))
        return self.whiten(self.balancer2(x)), None
