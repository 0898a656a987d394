"""Modified adaptive expansion search of a transducer (Kim et al. 2020, "Accelerating RNN transducer inference
via adaptive expansion search"), batched over utterances and hypotheses.

The search goes from frame to frame. On a frame a hypothesis takes at most `num_steps` labels, then blank; an
expansion far below the best of its hypothesis is dropped. A TDT's hypothesis that was sent to a later frame
waits for it.
"""

from typing import Literal

import torch

from maya.config import config
from maya.decode.beams.fused_rows import FusionStart
from maya.decode.beams.transducer_beams import (
    StepRule,
    TransducerBeamConfig,
    TransducerBeamMethod,
    TransducerBeams,
    TransducerParts,
)
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.ranges import Count, Limit, PosInt


@config
class MAESConfig(TransducerBeamConfig):
    """The options of `TransducerBeamConfig`, with NeMo's defaults for its own:

    num_steps: labels on one frame at most.
    gamma: an expansion is dropped if it is so many nats below the best of its hypothesis; inf: none is.
    beta: tokens tried of each hypothesis, more than `beam`.
    """

    kind: Literal["maes"] = "maes"
    num_steps: PosInt = 2
    gamma: Limit = 2.3
    beta: Count = 2


class MAES(TransducerBeamMethod, config=MAESConfig):
    """`maes_search`."""

    def run(self, encoded: Encoded, parts: TransducerParts, start: FusionStart | None) -> list[Hypothesis]:
        return maes_search(encoded, parts, self.cfg, start)


@torch.no_grad()
def maes_search(
    encoded: Encoded, parts: TransducerParts, cfg: MAESConfig, start: FusionStart | None = None
) -> list[Hypothesis]:
    """B encoded rows -> one Hypothesis per row; put the modules in eval mode first.

    Hypotheses with the same labels that stand at the same frame become one, with their probabilities added.
    The paper joins prefixes of one another, too; here that happens only by the paths that lead to them.
    """
    beams = TransducerBeams(encoded, parts, cfg, start)
    rule = StepRule(expansions=cfg.beam + cfg.beta, gamma=cfg.gamma)
    for frame in range(encoded.frames.shape[1]):
        for symbols in range(cfg.num_steps + 1):
            active = beams.unfinished() & (beams.frame == frame)
            if beams.sparse and not bool(active.any()):
                break
            beams.step(active, rule, labels=symbols < cfg.num_steps)
    return beams.best()
