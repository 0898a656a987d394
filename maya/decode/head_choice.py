"""Which text head of a model decodes: the best on dev of those that were trained."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from maya.errors import MayaError

Scores = Mapping[str, Mapping[str, float]]
"""The error rates of each head on dev, "wer" and "cer", as fractions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The head that decodes, and the reason for it in a few words."""

    head: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedHeads:
    """Names of a model's text heads in the order of preference, of the trained ones among them, and the dev
    scores that are known."""

    heads: tuple[str, ...]
    trained: tuple[str, ...]
    dev: Scores = field(default_factory=dict)

    def best(self, among: Collection[str] | None = None) -> Choice:
        """The trained head with the lowest CER on dev; without dev scores the first of them. Raises MayaError
        where none (of `among`) was trained."""
        present = [head for head in self.heads if among is None or head in among]
        usable = [head for head in present if head in self.trained]
        if not usable:
            raise MayaError(_none_usable(present))
        scored = {head: self.dev[head] for head in usable if head in self.dev}
        head = best_head(scored) if scored else usable[0]
        return Choice(head=head, reason=self._reason(head, usable, scored))

    def require(self, head: str, user: str) -> None:
        """Raises MayaError unless the model has the head and it was trained. `user` names what needs it, such
        as "decode.method=ctc"."""
        if head not in self.heads:
            raise MayaError(f"{user} needs the head {head}, and this model has no such head")
        if head not in self.trained:
            alternatives = f"; use {' or '.join(self.trained)}" if self.trained else ""
            raise MayaError(f"{user} needs the head {head}, which was never trained{alternatives}")

    def _reason(self, head: str, usable: Sequence[str], scored: Scores) -> str:
        reasons = []
        if len(scored) > 1:
            others = ", ".join(f"{h} {100 * scored[h]['cer']:.2f} %" for h in scored if h != head)
            reasons.append(f"best on dev, CER {100 * scored[head]['cer']:.2f} % against {others}")
        elif len(usable) > 1:
            reasons.append("the default, as the checkpoint has no dev scores")
        if untrained := [h for h in self.heads if h not in self.trained]:
            verb = "was" if len(untrained) == 1 else "were"
            reasons.append(f"{' and '.join(untrained)} {verb} not trained")
        return "; ".join(reasons) or "the only head"


def best_head(scores: Scores) -> str:
    """The head with the lowest CER; on a tie with the lowest WER, then the first."""
    return min(scores, key=lambda head: [scores[head].get(name, math.inf) for name in ("cer", "wer")])


def _none_usable(present: Sequence[str]) -> str:
    if not present:
        return "this model cannot decode: it has no head for it that writes text"
    verb = "was" if len(present) == 1 else "were"
    return (
        f"this model cannot decode: {' and '.join(present)} {verb} never trained; train first, see "
        "train.init_from"
    )
