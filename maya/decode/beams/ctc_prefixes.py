"""The prefixes of a CTC beam search for a batch of utterances at once, in tensors.

Each utterance goes from event to event (`maya.decode.beams.ctc_events`), at its own frames. What the frames
in between add is summed in one step.
"""

import math

import torch
from torch import Tensor

from maya.decode.beams.ctc_events import CTCEvents, ctc_events
from maya.decode.beams.fused_rows import FusedRows, FusionStart
from maya.decode.beams.hashing import extended
from maya.decode.beams.trace import Trace, TraceStep
from maya.decode.fusion import State, join, select

_NO_PARENT = -(2**63)  # the hash of no prefix
_HIDDEN = -1e30  # nats: a finite number, because 0 * inf is not a number
_DEAD = -1e29  # nats: what scores less is no prefix


class CTCPrefixes:
    """K prefixes of each of B utterances, best first; unused places score less than `_DEAD`.

    blank, label, text (B, K): log probability, in nats, of the paths of a prefix that end in blank and in its
    last token, and what the text adds. A prefix is recognised by a hash of its tokens. Rows stand in the
    order of `CTCEvents`; the last rows are put aside as they have no more events.
    """

    def __init__(
        self, log_probs: Tensor, lens: Tensor, *, blank: int, beam: int, token_beam: float,
        start: FusionStart | None,
    ) -> None:  # fmt: skip
        """log_probs (B, S, V), lens (B,) frames. Frames beyond `lens` change nothing."""
        device, self._blank_id, self._beam = log_probs.device, blank, beam
        self._events = ctc_events(log_probs, lens, blank=blank, token_beam=token_beam)
        self._log_probs = log_probs.contiguous()
        batch, self._most_frames, self._outputs = log_probs.shape
        self._lens = lens[self._events.order]
        self._event_places = self._places(self._events.rows, self._events.frames)
        self._gap_places = self._event_places - self._events.gaps * self._outputs
        self.blank = torch.full((batch, beam), -torch.inf, device=device, dtype=log_probs.dtype)
        self.blank[:, 0] = 0.0
        self.label = torch.full_like(self.blank, -torch.inf)
        self.text = torch.zeros_like(self.blank)
        self._hashes = torch.zeros(batch, beam, dtype=torch.int64, device=device)
        self._parent_hashes = torch.full_like(self._hashes, _NO_PARENT)
        self._last = torch.full_like(self._hashes, blank)  # blank: no token yet
        self._fused = None
        if start:
            like = torch.zeros(1, log_probs.shape[-1], device=device)
            own = FusionStart(start.fusion, select(start.state, self._events.order))
            self._fused = FusedRows(own, batch, beam, like)
        self._aside: list[tuple[Tensor, ...]] = []
        self._states_aside: list[State] = []
        self._trace = Trace(blank)
        self._frame_numbers = torch.arange(log_probs.shape[1], device=device)
        self._frame_places = self._frame_numbers * self._outputs
        self._last_place = log_probs.numel() - self._outputs
        self._first_prefixes = torch.arange(batch, device=device)[:, None] * beam

    def search(self, *, n_best: int, length_norm: bool) -> list[list[tuple[list[int], float]]]:
        """The tokens and the score of the best prefixes in the end, best first, for each row of the batch.
        length_norm: scores are those per token, the end counted as one."""
        begin = 0
        for number, active in enumerate(self._events.active):
            self._put_aside(active)
            self._step(self._events, number, slice(begin, begin + active))
            begin += active
        self._put_aside(0)
        parts = [torch.cat(column[::-1]) for column in zip(*self._aside, strict=True)]
        self.blank, self.label, text, self._last = parts
        if self._fused is not None:
            text = text + self._fused.final(join(self._states_aside[::-1]), text)
        self._pass_rest()
        totals, places = (self._total() + text).sort(descending=True)
        if not length_norm:
            totals, places = totals[:, :n_best], places[:, :n_best]
        by_row: list[list[tuple[list[int], float]]] = [[] for _ in totals]
        rows = zip(self._events.order.tolist(), self._trace.tokens(places), totals.tolist(), strict=True)
        for row, texts, scores in rows:
            pairs = zip(texts, scores, strict=True)
            nbest = [(tokens, score) for tokens, score in pairs if score > _DEAD] or [([], -math.inf)]
            if length_norm:
                nbest = [(tokens, score / (len(tokens) + 1)) for tokens, score in nbest]
                nbest.sort(key=lambda candidate: candidate[1], reverse=True)
            by_row[row] = nbest[:n_best]
        return by_row

    def _total(self) -> Tensor:
        return torch.logaddexp(self.blank, self.label)

    def _put_aside(self, active: int) -> None:
        """Keep the first `active` rows; the others have no more events."""
        if active == len(self.blank):
            return
        self._aside.append(tuple(x[active:] for x in (self.blank, self.label, self.text, self._last)))
        names = ("blank", "label", "text", "_hashes", "_parent_hashes", "_last")
        for name in names:
            setattr(self, name, getattr(self, name)[:active])
        if self._fused is not None:
            self._states_aside.append(self._fused.keep(active * self._beam))

    def _pass(self, first: Tensor, gaps: Tensor, longest: int) -> None:
        """Frames on which no token is tried: each prefix stays, by blanks or by its last token.

        first, gaps (n,): where the outputs of the first of these frames of each row begin among all log
        probabilities, and the number of the frames, at most `longest`. Of g frames a path repeats the last
        token on the first m, and takes blank on the others.
        """
        places = (first[:, None] + self._frame_places[:longest]).clamp_(max=self._last_place)
        outside = self._frame_numbers[:longest] >= gaps[:, None]
        blanks = self._log_probs.take(places + self._blank_id).masked_fill_(outside, 0.0)
        again = self._log_probs.take(places[:, None] + self._last[:, :, None])
        repeated = again.sub_(blanks[:, None]).masked_fill_(outside[:, None], 0.0).cumsum(-1)
        all_blank = blanks.sum(-1, keepdim=True)
        self.blank += all_blank
        self.label += all_blank
        # The m-th term is that of m repetitions; there are fewer than there are frames.
        some = self.label.masked_fill(gaps[:, None] == 0, -torch.inf)
        if longest > 1:
            repetitions = repeated[..., :-1].masked_fill_(outside[:, None, 1:], -torch.inf)
            some = torch.logaddexp(some, self.label + repetitions.logsumexp(-1))
        self.blank = torch.logaddexp(self.blank, some)
        self.label = self.label + repeated[..., -1]

    def _places(self, rows: Tensor, frames: Tensor) -> Tensor:
        """Where the outputs of frames begin among all log probabilities: `take` is quicker than an index by
        three tensors."""
        return (rows * self._most_frames + frames) * self._outputs

    def _pass_rest(self) -> None:
        """The frames after the last event of each row."""
        rest = self._events.rest
        longest = int(rest.max()) if len(rest) else 0
        if longest > 0:
            self._pass(self._places(self._events.order, self._lens - rest), rest, longest)

    def _step(self, events: CTCEvents, number: int, step: slice) -> None:
        """The event `number` of each row; `step` of all events."""
        tried = events.columns[number]
        if events.longest_gaps[number]:
            gaps = events.gaps[step]
            self._pass(self._gap_places[step], gaps, events.longest_gaps[number])
        tokens, log_probs = events.tokens[step, :tried], events.log_probs[step, :tried]
        total = self._total()
        again = self._log_probs.take(self._event_places[step, None] + self._last)
        longer, gain = self._longer(tokens, log_probs, total, again, events.least[step])
        blank = total + events.blanks[step, None]
        label = torch.logaddexp(self.label + again, gain)
        added = self._text_of(tokens)
        texts = torch.cat([self.text, (self.text[:, :, None] + added).flatten(1)], 1)
        labels = torch.cat([label, longer.flatten(1)], 1)
        acoustic = torch.cat([torch.logaddexp(blank, label), labels[:, self._beam :]], 1)
        best, picked = (acoustic + texts).topk(self._beam)
        place = picked - self._beam  # below 0: a prefix that stays; else one of K * C that are extended
        extends, column = place >= 0, place % tried
        parents = torch.where(extends, place // tried, picked)
        new = extends & (best > _DEAD)
        token = torch.where(new, tokens.gather(1, column), self._blank_id)
        self.blank = blank.gather(1, parents).masked_fill(extends, -torch.inf)
        self.label, self.text = labels.gather(1, picked), texts.gather(1, picked)
        self._take(parents, token, new, best)
        self._trace.add(TraceStep(parents, token, best))

    def _longer(
        self, tokens: Tensor, log_probs: Tensor, total: Tensor, again: Tensor, least: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The log probability of each prefix with each token more (n, K, C); and what each prefix gains from
        the prefix of the beam that it is with a token more (n, K).

        After itself a token comes only past a blank. again (n, K): log probability of the last token.
        """
        repeats = tokens[:, None] == self._last[:, :, None]
        longer = torch.where(repeats, self.blank[:, :, None], total[:, :, None]) + log_probs[:, None]
        # child (n, child, parent): the child is its parent with one token more.
        child = self._parent_hashes[:, :, None] == self._hashes[:, None]
        same_last = self._last[:, :, None] == self._last[:, None]
        tried = again.masked_fill(again <= least[:, None], -torch.inf)
        gain = torch.where(same_last, self.blank[:, None], total[:, None]) + tried[:, :, None]
        gain = gain.masked_fill(~child, -torch.inf).amax(-1)
        dtype = longer.dtype
        return torch.baddbmm(longer, child.mT.to(dtype), repeats.to(dtype), alpha=_HIDDEN), gain

    def _text_of(self, tokens: Tensor) -> Tensor:
        """(n, K, C): what each token adds to the text of each prefix."""
        shape = (*self.text.shape, tokens.shape[1])
        if self._fused is None:
            return self.text.new_zeros(shape)
        wide = tokens[:, None].expand(shape).flatten(0, 1)
        return self._fused.token_scores(wide).to(self.text.dtype).view(shape)

    def _take(self, parents: Tensor, token: Tensor, new: Tensor, best: Tensor) -> None:
        """Reorder the prefixes by `parents`, and add `token` where `new`."""
        hashes = self._hashes.gather(1, parents)
        parent_hashes = torch.where(new, hashes, self._parent_hashes.gather(1, parents))
        self._parent_hashes = parent_hashes.masked_fill(best <= _DEAD, _NO_PARENT)
        self._hashes = torch.where(new, extended(hashes, token), hashes)
        self._last = torch.where(new, token, self._last.gather(1, parents))
        if self._fused is not None:
            sources = (parents + self._first_prefixes[: len(parents)]).flatten()
            self._fused.advance(sources, token.flatten(), new.flatten())
