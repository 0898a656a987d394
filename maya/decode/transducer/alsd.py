"""Label-synchronous beam search of a transducer, batched over utterances and hypotheses.

The alignment-length synchronous search of Saon et al. 2020 ("Alignment-length synchronous decoding for RNN
transducer") in the form that NeMo's `malsd_batch` has: in each step every hypothesis takes one output, blank
or a label, at its own frame. A TDT's token and duration are one choice, with their log probabilities added.
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
from maya.ranges import PosInt

_STEPS_BETWEEN_CHECKS = 16  # on a GPU, where each check waits for it


@config
class ALSDConfig(TransducerBeamConfig):
    """The options of `TransducerBeamConfig`, and max_symbols: labels on one frame, after which a hypothesis
    moves on to the next frame. With a beam of 1 the search is greedy search with the same max_symbols."""

    kind: Literal["alsd"] = "alsd"
    max_symbols: PosInt = 10


class ALSD(TransducerBeamMethod, config=ALSDConfig):
    """`alsd_search`."""

    def run(self, encoded: Encoded, parts: TransducerParts, start: FusionStart | None) -> list[Hypothesis]:
        return alsd_search(encoded, parts, self.cfg, start)


@torch.no_grad()
def alsd_search(
    encoded: Encoded, parts: TransducerParts, cfg: ALSDConfig, start: FusionStart | None = None
) -> list[Hypothesis]:
    """B encoded rows -> one Hypothesis per row; put the modules in eval mode first.

    In each step the `beam` best expansions of an utterance go on; complete hypotheses stay as they are and
    compete. Then those with the same labels at the same frame become one, with their probabilities added. A
    token's score is its log probability on the best path of those that were added up.
    """
    beams = TransducerBeams(encoded, parts, cfg, start)
    rule = StepRule(expansions=cfg.beam, max_symbols=cfg.max_symbols)
    between = 1 if beams.sparse else _STEPS_BETWEEN_CHECKS
    step = 0
    while True:
        active = beams.unfinished()
        if step % between == 0 and not bool(active.any()):
            return beams.best()
        beams.step(active, rule)
        step += 1
