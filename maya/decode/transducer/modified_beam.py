"""Transducer beam search with at most one label per frame, batched: icefall's `modified_beam_search`.

All hypotheses of an RNN-T stand at the same frame. Those of a TDT wait for the frame that their last duration
sent them to; a label of duration 0 moves on by one frame.
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


@config
class ModifiedBeamConfig(TransducerBeamConfig):
    """The options of `TransducerBeamConfig`. A beam of 1 is greedy search with max_symbols 1."""

    kind: Literal["modified_beam"] = "modified_beam"


class ModifiedBeam(TransducerBeamMethod, config=ModifiedBeamConfig):
    """`modified_beam_search`."""

    def run(self, encoded: Encoded, parts: TransducerParts, start: FusionStart | None) -> list[Hypothesis]:
        return modified_beam_search(encoded, parts, self.cfg, start)


@torch.no_grad()
def modified_beam_search(
    encoded: Encoded, parts: TransducerParts, cfg: ModifiedBeamConfig, start: FusionStart | None = None
) -> list[Hypothesis]:
    """B encoded rows -> one Hypothesis per row; put the modules in eval mode first.

    On each frame every hypothesis takes blank or one label. The `beam` best of an utterance go on; those with
    the same labels at the same frame become one, with their probabilities added. A token's score is its log
    probability on the best path of those that were added up.
    """
    beams = TransducerBeams(encoded, parts, cfg, start)
    rule = StepRule(expansions=cfg.beam, least_advance=1)
    for frame in range(encoded.frames.shape[1]):
        active = beams.unfinished() & (beams.frame == frame)
        if beams.sparse and not bool(active.any()):
            continue  # the frames of a TDT that no hypothesis stops at, and those beyond the lengths
        beams.step(active, rule)
    return beams.best()
