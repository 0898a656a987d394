"""A trie of phrases with failure links: Aho and Corasick 1975, in the form "leftmost match, then the
longest".

Matches are searched from left to right. At each position the longest phrase counts, and the search goes on
behind it; matches do not overlap. A match must end where a word ends, unless its phrase is open.

The scores are loans. A node's loan is the bonus of the tokens matched so far. When a match breaks off, the
loan is taken back, except for the phrases that were complete by then. So the sum over a text is the bonus of
its matches, whichever way a search got there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPhrase:
    """A phrase as tokens. loans: the bonus after each of its tokens, in nats; the last is that of the whole
    phrase. open: whether it may end inside a word."""

    tokens: tuple[int, ...]
    loans: tuple[float, ...]
    open: bool = False


@dataclass(slots=True)
class Node:
    """A prefix of phrases. broken: for a next token that goes on with a word (0) or begins a word (1), which
    does not match: the node to go on from, and the bonus that stays."""

    token: int = -1
    parent: "Node | None" = None
    depth: int = 0
    loan: float = 0.0
    bonus: float | None = None  # of the phrase that ends here
    open: bool = False
    number: int = 0
    children: "dict[int, Node]" = field(default_factory=dict)
    broken: "list[tuple[Node, float]]" = field(default_factory=list)

    def path(self) -> "list[Node]":
        """The nodes from the first token to this one."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class PhraseTrie:
    """The trie of a list of phrases. begins: whether each token begins a word. nodes: in order of depth, the
    root first."""

    def __init__(self, phrases: Sequence[TokenPhrase], begins: Sequence[bool]) -> None:
        self.begins = begins
        self.root = Node()
        for phrase in phrases:
            self._add(phrase)
        self.nodes = [self.root]
        for node in self.nodes:  # grows
            self.nodes += node.children.values()
        self.root.broken = [(self.root, 0.0), (self.root, 0.0)]
        for number, node in enumerate(self.nodes):
            node.number = number
            if node is not self.root:
                node.broken = [self._broken(node, after=begins) for begins in (False, True)]

    def _add(self, phrase: TokenPhrase) -> None:
        node = self.root
        for token, loan in zip(phrase.tokens, phrase.loans, strict=True):
            if token not in node.children:
                node.children[token] = Node(token=token, parent=node, depth=node.depth + 1, loan=loan)
            node = node.children[token]
            node.loan = max(node.loan, loan)
        node.bonus = phrase.loans[-1] if node.bonus is None else max(node.bonus, phrase.loans[-1])
        node.open = node.open or phrase.open

    def _broken(self, node: Node, *, after: bool) -> tuple[Node, float]:
        """See `Node.broken`; after: whether the next token begins a word."""
        path = node.path()
        kept, bonus = 1, 0.0
        for length in range(len(path), 0, -1):
            last = path[length - 1]
            ends_word = after if length == len(path) else self.begins[path[length].token]
            if last.bonus is not None and (last.open or ends_word):
                kept, bonus = length, last.bonus
                break
        state = self.root
        for step in path[kept:]:  # shorter than `path`, so its links exist
            state, earned = self.advance(state, step.token)
            bonus += earned
        return state, bonus

    def advance(self, node: Node, token: int) -> tuple[Node, float]:
        """The node after a token, and the bonus of the phrases that are complete for good."""
        bonus = 0.0
        while token not in node.children and node is not self.root:
            node, earned = node.broken[self.begins[token]]
            bonus += earned
        return node.children.get(token, self.root), bonus

    def rest(self, node: Node, begins: bool) -> float:
        """The bonus that stays where nothing more matches: at a token of this class that no phrase begins
        with, and at the end of the text (begins=True)."""
        bonus = 0.0
        while node is not self.root:
            node, earned = node.broken[begins]
            bonus += earned
        return bonus

    def arcs(self, node: Node) -> dict[int, tuple[Node, float]]:
        """For each token that goes on with a match, other than a new one: the next node, and the bonus of the
        phrases that are complete for good."""
        result = {token: (child, 0.0) for token, child in node.children.items()}
        for begins in (False, True):
            state, bonus = node, 0.0
            while state is not self.root:
                state, earned = state.broken[begins]
                bonus += earned
                if state is not self.root:
                    for token, child in state.children.items():
                        if self.begins[token] == begins:
                            result.setdefault(token, (child, bonus))
        return result
