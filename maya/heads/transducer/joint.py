"""The joint network of a transducer: one score vector per (frame, label history).

Parameter names are NeMo's under `joint.` (`enc`, `pred`, `joint_net.2`). NeMo leaves the dropout module out
when its probability is 0, which moves the last Linear to index 1; here it is always index 2. icefall's joiner
is the same network with tanh; it calls the three `encoder_proj`, `decoder_proj` and `output_linear`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.errors import MayaError
from maya.heads.transducer.simple import shrink
from maya.ranges import BelowOne, PosFloat, PosInt

# In place is safe: every activation acts on the fresh sum f + g, whose own backward does not read it.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


@config
class JointConfig:
    """Width, non-linearity and dropout of the joint's hidden layer. icefall's is 512, tanh, 0, 0.25."""

    hidden: PosInt = 640
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    dropout: BelowOne = 0.2
    init_scale: PosFloat = 1.0  # of the two projections, relative to torch's default


class Joint(nn.Module):
    """Linear(act(enc f + pred g)): raw logits, tokens and blank, then durations.

    `vocab_size` does not count blank, whose id is `vocab_size` unless `blank` says otherwise (icefall: 0).
    `num_durations` is 0 for RNN-T; a TDT joint scores its durations with the last `num_durations` outputs.
    """

    def __init__(
        self,
        cfg: JointConfig,
        enc_dim: int,
        pred_dim: int,
        vocab_size: int,
        num_durations: int = 0,
        blank: int | None = None,
    ) -> None:
        super().__init__()
        if vocab_size < 1 or num_durations < 0:
            raise MayaError(
                "the joint needs a vocabulary of at least 1 and durations of at least 0, not "
                f"{vocab_size} and {num_durations}"
            )
        self.cfg = cfg
        self.blank = vocab_size if blank is None else blank
        self.num_tokens = vocab_size + 1  # with blank
        self.num_durations = num_durations
        self.enc = nn.Linear(enc_dim, cfg.hidden)
        self.pred = nn.Linear(pred_dim, cfg.hidden)
        if cfg.init_scale != 1:
            for layer in (self.enc, self.pred):
                shrink(layer, cfg.init_scale)
        self.joint_net = nn.Sequential(
            ACTIVATIONS[cfg.activation](),
            nn.Dropout(cfg.dropout),
            nn.Linear(cfg.hidden, vocab_size + 1 + num_durations),
        )

    def project_encoder(self, enc: Tensor) -> Tensor:
        """(..., D) -> f (..., H); done once per utterance when decoding."""
        return self.enc(enc)

    def project_predictor(self, pred: Tensor) -> Tensor:
        """(..., Hp) -> g (..., H)."""
        return self.pred(pred)

    def output(self, f: Tensor, g: Tensor) -> Tensor:
        """Logits (..., V + durations) of projected f and g, which broadcast against each other."""
        return self.joint_net(f + g)

    def output_layer(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views of the last Linear: weight (V, H) and bias (V,) of the tokens, then of the durations."""
        last = self.joint_net[2]
        assert isinstance(last, nn.Linear)
        weight, duration_weight = self._parts(last.weight, 0)
        bias, duration_bias = self._parts(last.bias, 0)
        return weight, bias, duration_weight, duration_bias

    def forward(self, enc: Tensor, pred: Tensor) -> Tensor:
        """enc (B, S, D), pred (B, U+1, Hp) -> logits (B, S, U+1, V + durations), V counting blank."""
        f, g = self.project_encoder(enc), self.project_predictor(pred)
        return self.output(f[:, :, None], g[:, None])

    def split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the token part (..., V), blank last, and the duration part (..., durations)."""
        return self._parts(logits, -1)

    def _parts(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        token, duration = torch.split(x, [self.num_tokens, self.num_durations], dim=dim)
        return token, duration
