"""Whisper's rules on the next token: suppressed tokens, and the grammar of timestamps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maya.heads.whisper import TIMESTAMP_SECONDS, WhisperDecoder

FIRST_TIMESTAMP = 1.0  # seconds, the latest with which a window may begin


class TokenRules:
    """Which tokens may follow those that were written, as OpenAI's decoding has it.

    Timestamps stand in pairs, the end of a segment and the start of the next, and never decrease; one stands
    first. Where all of them together are likelier than every other token, one of them is written.
    """

    def __init__(self, head: WhisperDecoder, timestamps: bool) -> None:
        ids, weight = head.cfg.tokens, head.token_embedding.weight
        self.end, self.zero, self.timestamps = ids.end, ids.zero, timestamps
        never = torch.zeros(len(weight), dtype=torch.bool)
        never[list(head.cfg.suppress)] = True
        never[[ids.start, ids.translate, ids.transcribe, ids.previous, ids.no_speech, ids.no_timestamps]] = (
            True
        )
        if not timestamps:
            never[self.zero :] = True
        first = never.clone()
        first[list(head.cfg.suppress_first)] = True
        if timestamps:
            first[: self.zero] = True
            first[self.zero + round(FIRST_TIMESTAMP / TIMESTAMP_SECONDS) + 1 :] = True
        self.never, self.first = never.to(weight.device), first.to(weight.device)

    def __call__(self, logits: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """logits (N, V), the tokens written so far of each row, equally many -> log-probabilities (N, V),
        -inf where a token may not follow."""
        banned = (self.never if written[0] else self.first).expand(logits.shape).clone()
        if self.timestamps and written[0]:
            for row, tokens in zip(banned, written, strict=True):
                self._ban_times(row, tokens)
        logp = logits.masked_fill(banned, -torch.inf).log_softmax(-1)
        if self.timestamps and written[0]:
            times = logp[:, self.zero :].logsumexp(-1)
            text = logp[:, : self.zero].amax(-1)
            logp[:, : self.zero] = logp[:, : self.zero].masked_fill((times > text)[:, None], -torch.inf)
            logp = logp.log_softmax(-1)
        return logp

    def _ban_times(self, row: Tensor, tokens: Sequence[int]) -> None:
        """Set what the grammar forbids after `tokens` in row (V,) bool."""
        ends_in_time = tokens[-1] >= self.zero
        paired = len(tokens) < 2 or tokens[-2] >= self.zero
        if ends_in_time and paired:
            row[self.zero :] = True
        elif ends_in_time:
            row[: self.end] = True
        if last := next((t for t in reversed(tokens) if t >= self.zero), 0):
            # A segment has a length; the start of the next may be the end of the last.
            row[self.zero : last + (0 if ends_in_time and not paired else 1)] = True
