"""Which head of a model decodes: the best on dev of those that were trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from maya.errors import MayaError
from maya.models.text_heads import HEADS, NAMES, Head

Scores = Mapping[Head, Mapping[str, float]]
"""By head its error rates on dev, "wer" and "cer", as fractions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The head that decodes, and the reason for it in a few words."""

    head: Head
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedHeads:
    """The heads of a model, those of them that were trained, and their scores on dev where known."""

    heads: tuple[Head, ...]
    trained: tuple[Head, ...]
    dev: Scores = field(default_factory=dict)

    def best(self, among: Sequence[Head] = HEADS) -> Choice:
        """The trained head with the lowest CER on dev; without scores the transducer, else the CTC head, else
        the attention decoder. Raises MayaError where none of `among` was trained."""
        usable = [head for head in self.trained if head in among]
        if not usable:
            raise MayaError(self._none_usable(among))
        scored = {head: self.dev[head] for head in usable if head in self.dev}
        head = best_head(scored) if scored else min(usable, key=HEADS.index)
        return Choice(head=head, reason=self._reason(head, usable, scored))

    def require(self, head: Head, asked: str) -> None:
        """Raises MayaError unless the model has the head and it was trained; `asked` is what needs it, such
        as "decode.method=ctc"."""
        article = "an" if head == "attention" else "a"
        if head not in self.heads:
            raise MayaError(f"{asked} needs {article} {NAMES[head]}, and this model has none")
        if head not in self.trained:
            instead = f"; use {' or '.join(self.trained)}" if self.trained else ""
            raise MayaError(f"{asked} needs the {NAMES[head]}, which was never trained{instead}")

    def _none_usable(self, among: Sequence[Head]) -> str:
        wanted = [head for head in self.heads if head in among]
        if not wanted:
            names = " or a ".join(NAMES[head] for head in among)
            return f"this needs a {names}, and the model has none; its heads are {', '.join(self.heads)}"
        names = ", ".join(f"the {NAMES[head]}" for head in wanted)
        return f"this model cannot decode: {names} was never trained; train it first, see train.init_from"

    def _reason(self, head: Head, usable: Sequence[Head], scored: Scores) -> str:
        reasons = []
        if len(scored) > 1:
            others = ", ".join(f"{h} {100 * scored[h]['cer']:.2f} %" for h in scored if h != head)
            reasons.append(f"best on dev, CER {100 * scored[head]['cer']:.2f} % against {others}")
        elif len(usable) > 1:
            reasons.append("the default, as the checkpoint has no dev scores")
        untrained = [f"the {NAMES[h]}" for h in self.heads if h not in self.trained]
        if untrained:
            reasons.append(
                f"{' and '.join(untrained)} {'was' if len(untrained) == 1 else 'were'} not trained"
            )
        return "; ".join(reasons) or "the only head"


def best_head(scores: Scores) -> Head:
    """The head with the lowest CER; on a tie with the lowest WER, then the first of `HEADS`."""

    def rank(head: Head) -> tuple[float, float, int]:
        cer, wer = (scores[head].get(name, math.inf) for name in ("cer", "wer"))
        return cer, wer, HEADS.index(head)

    return min(scores, key=rank)
