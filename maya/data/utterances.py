"""A CutSet as columns: what planning and loading need of each utterance, in little memory.

Cuts stay serialised (maya.data.packed) and the columns are arrays, so that a million utterances cost well
under 1 GB however many workers there are.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from numpy.typing import NDArray

from maya.data.batch import check_cut, language_index
from maya.data.packed import PackedCuts
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

_ENCODE_AT_ONCE = 4096


class Utterances:
    """n utterances, each a cut with one supervision, in the order of the CutSet.

    ids: n names; durations: (n,) seconds; langs: (n,) index into `languages`, -1 if not there;
    token_counts: (n,).
    """

    def __init__(
        self,
        ids: list[str],
        durations: Sequence[float],
        langs: Sequence[int],
        token_ids: Sequence[NDArray[np.int32]],
        cuts: PackedCuts,
    ) -> None:
        self.ids = ids
        self.durations: NDArray[np.float64] = np.asarray(durations, dtype=np.float64)
        self.langs: NDArray[np.int64] = np.asarray(langs, dtype=np.int64)
        self.token_counts: NDArray[np.int64] = np.array([len(t) for t in token_ids], dtype=np.int64)
        self._tokens = np.concatenate(token_ids) if len(token_ids) else np.zeros(0, np.int32)
        self._token_ends = np.cumsum(self.token_counts)
        self._cuts = cuts

    @classmethod
    def from_cuts(cls, cuts: CutSet, tokenizer: Tokenizer, languages: Sequence[str]) -> "Utterances":
        """Read a CutSet once, lazily or not, and encode its texts (already normalised).

        Raises MayaError when it is empty, an id occurs twice, or a cut is not one utterance at 16 kHz.
        """
        ids: list[str] = []
        durations: list[float] = []
        langs: list[int] = []
        texts: list[str] = []
        packed = PackedCuts()
        for cut in cuts:
            check_cut(cut)
            supervision = cut.supervisions[0]
            ids.append(cut.id)
            durations.append(cut.duration)
            langs.append(language_index(supervision.language, languages))
            texts.append(supervision.text or "")
            packed.append(cut)
        if not ids:
            raise MayaError("the set of cuts is empty")
        if len(set(ids)) != len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise MayaError(f"the set of cuts has two utterances with the id {twice!r}")
        return cls(ids, durations, langs, _encode(texts, tokenizer), packed)

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, index: int) -> Cut:
        """The lhotse cut of an utterance."""
        return self._cuts[index]

    def tokens(self, index: int) -> NDArray[np.int32]:
        """(U,) token ids of an utterance."""
        begin = self._token_ends[index - 1] if index else 0
        return self._tokens[begin : self._token_ends[index]]


def encode_cuts(cuts: Iterable[Cut], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each cut's text, in order."""
    return [ids.tolist() for ids in _encode([cut.supervisions[0].text or "" for cut in cuts], tokenizer)]


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[NDArray[np.int32]]:
    encoded: list[NDArray[np.int32]] = []
    for begin in range(0, len(texts), _ENCODE_AT_ONCE):
        some = tokenizer.encode_batch(texts[begin : begin + _ENCODE_AT_ONCE])
        encoded += [np.asarray(ids, dtype=np.int32) for ids in some]
    return encoded
