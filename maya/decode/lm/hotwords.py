"""Hot words: phrases that get a bonus, for all methods that take a `Fusion`.

The phrases of each list are a `PhraseTrie`, which is laid out in tensors: N hypotheses advance at once, on
the device. Memory is about 16 bytes a node, and 8 bytes a token of the vocabulary for each list.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from maya.decode.fusion import State
from maya.decode.lm.phrase_trie import PhraseTrie, TokenPhrase
from maya.decode.lm.sparse_rows import SparseRows

GROWTH_TOKENS = 4
"""A loan grows by one weight a token up to this many tokens: longer phrases need no larger push."""


class HotWords(nn.Module):
    """A scorer (see `maya.decode.fusion.Scorer`) of phrases.

    lists: of phrases as tokens. An utterance has one of them, by its index; -1 is none. Without indices all
    utterances have the first. begins: whether each of the V tokens, blank among them, begins a word.
    """

    begins: Tensor
    root_loans: Tensor
    root_targets: Tensor
    rest: Tensor
    scores_of_arcs: Tensor
    targets: Tensor
    roots: Tensor

    def __init__(self, lists: Sequence[Sequence[TokenPhrase]], begins: Tensor) -> None:
        super().__init__()
        width = len(begins)
        flags = begins.tolist()
        tries = [PhraseTrie(phrases, flags) for phrases in ([], *lists)]  # the first is that of index -1
        root_loans = np.zeros((len(tries), width), np.float32)
        root_targets = np.zeros((len(tries), width), np.int64)
        rest: list[list[float]] = []
        arcs: list[tuple[int, float, int]] = []
        roots, offset = [], 0
        for i, trie in enumerate(tries):
            roots.append(offset)
            root_targets[i] = offset
            for token, child in trie.root.children.items():
                root_loans[i, token], root_targets[i, token] = child.loan, offset + child.number
            for node in trie.nodes:
                rest.append([trie.rest(node, begins_word) - node.loan for begins_word in (False, True)])
                if node is not trie.root:
                    source = (offset + node.number) * width
                    arcs += [
                        (source + token, bonus + child.loan - node.loan, offset + child.number)
                        for token, (child, bonus) in trie.arcs(node).items()
                    ]
            offset += len(trie.nodes)
        arcs.sort()
        self.rows = SparseRows(np.array([key for key, _, _ in arcs], np.int64), offset, width)
        self.register_buffer("begins", begins.clone())
        self.register_buffer("root_loans", torch.from_numpy(root_loans))
        self.register_buffer("root_targets", torch.from_numpy(root_targets))
        self.register_buffer("rest", torch.tensor(rest))
        self.register_buffer("scores_of_arcs", torch.tensor([score for _, score, _ in arcs]))
        self.register_buffer("targets", torch.tensor([target for _, _, target in arcs], dtype=torch.int64))
        self.register_buffer("roots", torch.tensor(roots))
        self._default = 1 if len(tries) > 1 else 0

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        """The state is (node (N,), list + 1 (N,))."""
        device = self.roots.device
        index = torch.full((rows,), self._default, device=device) if lists is None else lists.to(device) + 1
        return self.roots[index], index

    def scores(self, state: State) -> Tensor:
        """(N, V) fp32: what each token adds to the loans."""
        node, index = state
        rest = self.rest[node]
        scores = torch.where(self.begins, rest[:, 1:], rest[:, :1]) + self.root_loans[index]
        if not self.rows.most:
            return scores
        # The last column takes what `entries` gives beyond a node's arcs.
        scores = nn.functional.pad(scores, (0, 1))
        row, place, token = self.rows.entries(node)
        scores[row, token] = self.scores_of_arcs[place]
        return scores[:, :-1]

    def advance(self, state: State, tokens: Tensor) -> State:
        """The state after tokens (N,)."""
        node, index = state
        place, hit = self.rows.find(node, tokens)
        root = self.root_targets[index, tokens]
        if not self.rows.most:
            return root, index
        return torch.where(hit, self.targets[place], root), index

    def final(self, state: State) -> Tensor:
        """(N,) fp32: takes back the loan of an unfinished phrase."""
        return self.rest[state[0], 1]  # the end of the text ends a word, too
