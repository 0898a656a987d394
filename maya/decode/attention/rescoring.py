"""Two passes: CTC's prefix search gives a few texts, and the attention decoder rescores them.

icefall's "attention-decoder-rescoring-no-ngram" in its form over a prefix beam, the usual way to decode its
CTC/AED models.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.beams.fused_rows import FusionStart, fusion_start
from maya.decode.ctc.beam import BeamConfig, CTCBeam, nbest_ctc, placed
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.heads import AttentionDecoder, AttentionDecoderConfig, CTCConfig, HeadConfig
from maya.ranges import Count, Finite, NonNegFloat, PosInt

_MAX_LOGITS = 2**26  # at once: 256 MiB in fp32


@config
class RescoringConfig(BeamConfig):
    """The options of the first pass, of which the whole final beam is rescored, and two scales of log
    probabilities in nats: CTC's (with language model and bonus) and the attention decoder's."""

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (CTCConfig, AttentionDecoderConfig)

    kind: Literal["attention_rescoring"] = "attention_rescoring"  # type: ignore[assignment]
    beam: PosInt = 8
    lm_order: Count = 0
    token_bonus: Finite = 0.0
    ctc_scale: NonNegFloat = 1.0
    aed_scale: NonNegFloat = 1.0


class AttentionRescoring(CTCBeam, config=RescoringConfig):
    """`attention_rescoring` with the language models and hot words of `CTCBeam`."""

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        ctc, decoder = self.heads
        start = fusion_start(self, len(encoded.frames), langs)
        return attention_rescoring(
            encoded, ctc(encoded.frames), decoder, blank=ctc.blank, cfg=self.cfg, start=start
        )


@torch.no_grad()
def attention_rescoring(
    encoded: Encoded,
    log_probs: Tensor,
    decoder: AttentionDecoder,
    *,
    blank: int,
    cfg: RescoringConfig,
    start: FusionStart | None = None,
) -> list[Hypothesis]:
    """B encoded rows and CTC's log_probs (B, S, V) of them -> one Hypothesis per row.

    start: language models and hot words of the first pass. The text with the highest
    ctc_scale * CTC + aed_scale * attention wins. The attention score counts the end of the sentence and is
    not divided by the length, which CTC keeps in check. Frames, durations and scores of the tokens are CTC's,
    as in `beam_ctc`. Put the modules in eval mode first.
    """
    nbest = nbest_ctc(log_probs, encoded.lens, blank=blank, cfg=cfg, start=start)
    attention = attention_scores(encoded, decoder, [[text for text, _ in row] for row in nbest])
    ranked = []
    for row, scores in zip(nbest, attention, strict=True):
        totals = [
            (tokens, cfg.ctc_scale * ctc + cfg.aed_scale * aed)
            for (tokens, ctc), aed in zip(row, scores, strict=True)
        ]
        ranked.append(sorted(totals, key=lambda candidate: candidate[1], reverse=True)[: cfg.n_best])
    return placed(log_probs, encoded.lens, ranked, blank=blank)


@torch.no_grad()
def attention_scores(
    encoded: Encoded, decoder: AttentionDecoder, texts: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """Log probability in nats of each text of each row, its end included; texts: token ids, any number a row.

    All texts of several utterances go through the decoder at once, as many as fit into 256 MiB of logits.
    """
    enc, enc_lens = encoded
    most = max((len(row) for row in texts), default=0)
    longest = max((len(text) for row in texts for text in row), default=0)
    rows_at_once = max(1, _MAX_LOGITS // max(1, most * (longest + 1) * decoder.output_layer.out_features))
    all_scores: list[list[float]] = []
    for first in range(0, len(texts), rows_at_once):
        part = texts[first : first + rows_at_once]
        rows = slice(first, first + len(part))
        tokens = torch.full((len(part), most, longest), decoder.eos)
        lens = torch.zeros(len(part), most, dtype=torch.int64)
        for b, row in enumerate(part):
            for n, text in enumerate(row):
                tokens[b, n, : len(text)] = torch.tensor(text, dtype=torch.int64)
                lens[b, n] = len(text)
        memory = decoder.memory(enc[rows], enc_lens[rows])
        scores = decoder.score(tokens.to(enc.device), lens.to(enc.device), memory).tolist()
        all_scores += [row[: len(row_texts)] for row, row_texts in zip(scores, part, strict=True)]
    return all_scores
