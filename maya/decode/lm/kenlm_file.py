"""Binaries of KenLM, through the optional package `kenlm`.

A binary answers questions and does not list its n-grams, so it stays on the host: each new context is asked
for all tokens once and kept. An ARPA file of the same model is searched on the device and needs no package.
"""

import importlib
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.decode.fusion import State
from maya.errors import MayaError

_LN10 = math.log(10.0)
_HELD_CONTEXTS = 50_000


class KenLMBinary:
    """A scorer (see `maya.decode.fusion.Scorer`) by a binary over tokens. words (V,): what it calls each
    token.

    Its state is the last order - 1 tokens (N, order - 1), -1 for the beginning of the text. `scores` waits
    for the device.
    """

    def __init__(self, path: Path, words: Sequence[str]) -> None:
        """Raises MayaError where the package is missing or cannot read the file."""
        try:
            kenlm = importlib.import_module("kenlm")
        except ImportError:
            raise MayaError(
                f"{path} is a binary of KenLM, which needs pip install 'maya-asr[kenlm]'; without it give "
                "the ARPA file that the binary was built from, which decodes faster, too"
            ) from None
        try:
            self._model: Any = kenlm.Model(str(path))
        except OSError as error:
            raise MayaError(f"KenLM cannot read {path}: {str(error).splitlines()[0]}") from None
        self._kenlm, self._words = kenlm, list(words)
        self.order = int(self._model.order)
        self._row = lru_cache(_HELD_CONTEXTS)(self._scores_after)

    def knows(self) -> float:
        """The share of the tokens that are words of the model."""
        words = [word for word in self._words if word]
        return sum(word in self._model for word in words) / len(words)

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        device = langs.device if langs is not None else None
        return (torch.full((rows, max(1, self.order - 1)), -1, device=device),)

    def scores(self, state: State) -> Tensor:
        (tokens,) = state
        rows = [self._row(tuple(row)) for row in tokens.tolist()]
        return torch.stack([row[:-1] for row in rows]).to(tokens.device)

    def advance(self, state: State, tokens: Tensor) -> State:
        return (torch.cat([state[0][:, 1:], tokens[:, None]], 1),)

    def final(self, state: State) -> Tensor:
        (tokens,) = state
        return torch.stack([self._row(tuple(row))[-1] for row in tokens.tolist()]).to(tokens.device)

    def _scores_after(self, context: tuple[int, ...]) -> Tensor:
        """(V + 1,) of the next token and of the end."""
        state, after = self._kenlm.State(), self._kenlm.State()
        if context[-1] < 0 or -1 in context:
            self._model.BeginSentenceWrite(state)
        else:
            self._model.NullContextWrite(state)
        for token in context:
            if token >= 0:
                self._model.BaseScore(state, self._words[token], after)
                state, after = after, state
        asked = [self._model.BaseScore(state, word, after) if word else 0.0 for word in self._words]
        return torch.tensor([*asked, self._model.BaseScore(state, "</s>", after)]) * _LN10
