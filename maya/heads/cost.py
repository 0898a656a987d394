"""What a head costs on paper, for `maya plan`: operations and memory of training.

A head that says nothing about it is counted with every weight once a frame, and without activations.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from maya.data.plan import MemoryConfig

TERMS = ("fixed", "length", "utterance", "frame", "pair", "label", "node")


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Bytes as in MemoryConfig: for B utterances of S frames and U tokens,
    fixed + length·S + B·(utterance + frame·S + pair·S² + label·(U+1) + node·S·(U+1))."""

    fixed: float = 0.0
    length: float = 0.0
    utterance: float = 0.0
    frame: float = 0.0
    pair: float = 0.0
    label: float = 0.0
    node: float = 0.0

    def __add__(self, other: "Terms") -> "Terms":
        return Terms(**{name: getattr(self, name) + getattr(other, name) for name in TERMS})

    def views(self, count: int) -> "Terms":
        """The same where each utterance stands `count` times in the batch."""
        alike = {"fixed": self.fixed, "length": self.length}
        return Terms(**{name: count * getattr(self, name) for name in TERMS} | alike)

    def bytes(self, batch: float, frames: float, tokens: float) -> float:
        return float(self.config().bytes(batch, frames, tokens))

    def config(self, max_bytes: float | None = None) -> MemoryConfig:
        return MemoryConfig(max_bytes=max_bytes, **{f.name: getattr(self, f.name) for f in fields(self)})


def total(terms: Iterable[Terms]) -> Terms:
    """The sum of terms."""
    result = Terms()
    for each in terms:
        result = result + each
    return result


@dataclass(kw_only=True, slots=True)
class HeadFlops:
    """Operations for one utterance by component: forward, and a training step of forward and backward."""

    forward: dict[str, float] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class HeadMemory:
    """kept: from forward to backward, by component. released: components that its own backward pass frees,
    so that they are gone when an earlier part's runs. moments: bytes beside what is kept, at points where
    memory may be highest."""

    kept: dict[str, Terms] = field(default_factory=dict)
    released: frozenset[str] = frozenset()
    moments: dict[str, Terms] = field(default_factory=dict)
