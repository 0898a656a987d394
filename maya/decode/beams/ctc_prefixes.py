"""The prefixes of a CTC beam search for a batch of utterances at once, in tensors."""

import torch
from torch import Tensor

from maya.decode.beams.fused_rows import FusedRows, FusionStart
from maya.decode.beams.hashing import extended
from maya.decode.trace import Trace, TraceStep


class CTCPrefixes:
    """K prefixes of each of B utterances; unused places score -inf.

    blank, label (B, K): log probability, in nats, of the paths of a prefix that end in blank and in its last
    token. text (B, K): the share of the text. A prefix is recognised by a hash of its tokens.
    """

    def __init__(
        self, log_probs: Tensor, lens: Tensor, *, blank: int, beam: int, least: Tensor,
        start: FusionStart | None,
    ) -> None:  # fmt: skip
        """log_probs (B, S, V), lens (B,) frames. Frames beyond `lens` change nothing. least (B, S): only
        tokens above it are tried."""
        batch, device = len(log_probs), log_probs.device
        self._log_probs, self._lens, self._blank_id, self._beam = log_probs, lens[:, None], blank, beam
        self._least = least
        self.blank = torch.full((batch, beam), -torch.inf, device=device, dtype=log_probs.dtype)
        self.blank[:, 0] = 0.0
        self.label = torch.full_like(self.blank, -torch.inf)
        self.text = torch.zeros_like(self.blank)
        self.counts, self._hashes, self._parent_hashes = torch.zeros(
            3, batch, beam, dtype=torch.int64, device=device
        )
        self._last = torch.full_like(self.counts, -1)
        like = torch.zeros(1, log_probs.shape[-1], device=device)
        self._fused = FusedRows(start, batch, beam, like) if start else None
        self._first_rows = torch.arange(0, batch * beam, beam, device=device)[:, None]
        self.trace = Trace(blank)

    @property
    def acoustic(self) -> Tensor:
        """(B, K): log probability of each prefix."""
        return torch.logaddexp(self.blank, self.label)

    def final_text(self) -> Tensor:
        """(B, K): what the text and its end add to each prefix."""
        return self.text if self._fused is None else self.text + self._fused.final(self.text)

    def pass_frame(self, frame: int) -> None:
        """A frame on which no token is tried: each prefix stays, by a blank or by its last token."""
        live = frame < self._lens
        blank, label = self._stay(frame)
        self.blank = torch.where(live, blank, self.blank)
        self.label = torch.where(live, label, self.label)

    def step(self, frame: int, tokens: Tensor, log_probs: Tensor) -> None:
        """A frame on which tokens (B, C) may follow, with these log probabilities; -inf: not tried."""
        tried = tokens.shape[1]
        blank, label = self._stay(frame)
        longer, label = self._longer(frame, tokens, log_probs, label)
        gained = self._text_of(tokens)
        candidates = torch.cat(
            [torch.logaddexp(blank, label) + self.text, (longer + self.text[:, :, None] + gained).flatten(1)],
            dim=1,
        )
        best, picked = candidates.topk(self._beam)
        extends = picked >= self._beam
        place = (picked - self._beam).clamp(min=0)
        parents = torch.where(extends, place // tried, picked)
        live = frame < self._lens
        parents = torch.where(live, parents, torch.arange(self._beam, device=parents.device))
        new = extends & live & best.isfinite()
        token = torch.where(new, tokens.gather(1, place % tried), self._blank_id)
        taken = torch.where(new, longer.flatten(1).gather(1, place), -torch.inf)
        old_blank, old_label = (x.gather(1, parents) for x in (self.blank, self.label))
        blank = torch.where(live, blank.gather(1, parents), old_blank)
        label = torch.where(live, label.gather(1, parents), old_label)
        drop = extends & live  # also those of a score of -inf
        self.blank = blank.masked_fill(drop, -torch.inf)
        self.label = torch.where(drop, taken, label)
        own_text = torch.where(new, gained.flatten(1).gather(1, place), 0.0)
        self.text = self.text.gather(1, parents) + own_text
        self._take(parents, token, new)
        self.trace.add(TraceStep(parents, token, best))

    def _stay(self, frame: int) -> tuple[Tensor, Tensor]:
        """`blank` and `label` of each prefix that stays as it is on a frame."""
        now = self._log_probs[:, frame, self._blank_id, None]
        return self.acoustic + now, self.label + self._last_again(frame)

    def _last_again(self, frame: int) -> Tensor:
        """(B, K): log probability of the last token of each prefix; -inf without one."""
        again = self._log_probs[:, frame].gather(1, self._last.clamp(min=0))
        return again.masked_fill(self._last < 0, -torch.inf)

    def _longer(self, frame: int, tokens: Tensor, log_probs: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The log probability of each prefix with each token more (B, K, C), and `label` (B, K) with what a
        prefix gains from the prefix of the beam that it is with a token more.

        After itself a token comes only past a blank.
        """
        total = self.acoustic
        repeats = tokens[:, None] == self._last[:, :, None]
        before = torch.where(repeats, self.blank[:, :, None], total[:, :, None])
        longer = before + log_probs[:, None]
        # child (B, child, parent): the child is its parent with one token more.
        alive = total.isfinite()
        child = self._parent_hashes[:, :, None] == self._hashes[:, None]
        child &= (alive & (self._last >= 0))[:, :, None] & alive[:, None]
        again = self._last_again(frame)
        same_last = self._last[:, :, None] == self._last[:, None]
        gain = torch.where(same_last, self.blank[:, None], total[:, None]) + again[:, :, None]
        is_tried = (again > self._least[:, frame, None])[:, :, None]
        gain = gain.masked_fill(~(child & is_tried), -torch.inf).amax(-1)
        taken = torch.bmm(child.mT.to(longer.dtype), repeats.to(longer.dtype)) > 0
        return longer.masked_fill(taken, -torch.inf), torch.logaddexp(label, gain)

    def _text_of(self, tokens: Tensor) -> Tensor:
        """(B, K, C): what each token adds to the text of each prefix."""
        if self._fused is None:
            return self.text.new_zeros(*self.text.shape, tokens.shape[1])
        scores = self._fused.scores.view(*self.text.shape, -1)
        index = tokens[:, None].expand(-1, self._beam, -1)
        return scores.gather(2, index).to(self.text.dtype)

    def _take(self, parents: Tensor, token: Tensor, new: Tensor) -> None:
        """Reorder the prefixes by `parents`, and add `token` where `new`."""
        hashes = self._hashes.gather(1, parents)
        self._parent_hashes = torch.where(new, hashes, self._parent_hashes.gather(1, parents))
        self._hashes = torch.where(new, extended(hashes, token), hashes)
        self._last = torch.where(new, token, self._last.gather(1, parents))
        self.counts = self.counts.gather(1, parents) + new
        if self._fused is not None:
            sources = (parents + self._first_rows).flatten()
            self._fused.advance(sources, token.flatten(), new.flatten())
