"""Two passes: CTC's prefix search finds a few texts, the attention decoder says which of them reads best.

icefall's "attention-decoder-rescoring-no-ngram" and its form over a prefix beam; the way its CTC/AED models
are decoded.
"""

from collections.abc import Sequence
from dataclasses import field

import torch
from torch import Tensor

from maya.config import config
from maya.decode.ctc_beam import BeamConfig, align_texts, nbest_ctc
from maya.decode.hypothesis import Hypothesis
from maya.decode.ngram import NGram
from maya.heads.attention import AttentionDecoder
from maya.ranges import NonNegFloat

_MAX_LOGITS = 2**26  # at once: 256 MiB in fp32


@config
class RescoringConfig:
    """beam: of the first pass; what is left in it is rescored. The scales are of log probabilities in nats,
    CTC's (with language model and bonus where the beam has them) and the attention decoder's."""

    beam: BeamConfig = field(default_factory=lambda: BeamConfig(beam=8, token_bonus=0.0))
    ctc_scale: NonNegFloat = 1.0
    aed_scale: NonNegFloat = 1.0


@torch.no_grad()
def attention_rescoring(
    enc: Tensor,
    enc_lens: Tensor,
    log_probs: Tensor,
    decoder: AttentionDecoder,
    *,
    blank: int,
    cfg: RescoringConfig,
    lms: Sequence[NGram | None] | None = None,
) -> list[Hypothesis]:
    """enc (B, S, D) and CTC's log_probs (B, S, V) of it, enc_lens (B,) frames -> one Hypothesis per row.

    The text with the highest ctc_scale * CTC + aed_scale * attention wins; the latter counts the end of the
    sentence and is not divided by the length, which CTC keeps in check. Frames, durations and scores of the
    tokens are CTC's, as in `beam_ctc`. Put the modules in eval mode first.
    """
    nbest = nbest_ctc(log_probs, enc_lens, blank=blank, cfg=cfg.beam, lms=lms)
    attention = attention_scores(enc, enc_lens, decoder, [[text for text, _ in row] for row in nbest])
    best = []
    for row, scores in zip(nbest, attention, strict=True):
        totals = [
            cfg.ctc_scale * ctc + cfg.aed_scale * aed for (_, ctc), aed in zip(row, scores, strict=True)
        ]
        best.append(row[max(range(len(row)), key=totals.__getitem__)][0])
    return align_texts(log_probs, enc_lens, best, blank=blank)


@torch.no_grad()
def attention_scores(
    enc: Tensor, enc_lens: Tensor, decoder: AttentionDecoder, texts: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """Log probability in nats of each text of each row, its end included; texts: token ids, any number a row.

    All texts of several utterances go through the decoder at once, as many as fit into 256 MiB of logits.
    """
    most = max((len(row) for row in texts), default=0)
    longest = max((len(text) for row in texts for text in row), default=0)
    rows_at_once = max(1, _MAX_LOGITS // max(1, most * (longest + 1) * decoder.output_layer.out_features))
    found: list[list[float]] = []
    for first in range(0, len(texts), rows_at_once):
        part = texts[first : first + rows_at_once]
        here = slice(first, first + len(part))
        tokens = torch.full((len(part), most, longest), decoder.eos)
        lens = torch.zeros(len(part), most, dtype=torch.int64)
        for b, row in enumerate(part):
            for n, text in enumerate(row):
                tokens[b, n, : len(text)] = torch.tensor(text, dtype=torch.int64)
                lens[b, n] = len(text)
        memory = decoder.memory(enc[here], enc_lens[here])
        scores = decoder.score(tokens.to(enc.device), lens.to(enc.device), memory).tolist()
        found += [row[: len(texts)] for row, texts in zip(scores, part, strict=True)]
    return found
