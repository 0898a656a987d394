"""Hot words: the automaton equals a search by definition; loans are taken back; batches and lists."""

import random

import pytest
import torch

from maya.decode.fusion import Fusion, Part, select
from maya.decode.lm.hotwords import HotWords
from maya.decode.lm.phrase_trie import TokenPhrase

V, BLANK = 9, 8
BEGINS = torch.tensor([token % 2 == 0 and token != BLANK for token in range(V)])


def phrase(tokens: tuple[int, ...], weight: float = 1.0, *, opened: bool = False) -> TokenPhrase:
    loans = tuple(weight * min(n, 4) for n in range(1, len(tokens) + 1))
    return TokenPhrase(tokens=tokens, loans=loans, open=opened)


def by_definition(phrases: list[TokenPhrase], text: list[int]) -> float:
    """The bonus of the leftmost matches, each as long as possible, that end where a word ends."""
    total, i = 0.0, 0
    while i < len(text):
        matches: dict[int, float] = {}
        for p in phrases:
            n = len(p.tokens)
            at_end = i + n == len(text)
            if tuple(text[i : i + n]) != p.tokens:
                continue
            # Several phrases of the same tokens count as the most generous of them.
            same = [q for q in phrases if q.tokens == p.tokens]
            if at_end or bool(BEGINS[text[i + n]]) or any(q.open for q in same):
                matches[n] = max(q.loans[-1] for q in same)
        if matches:
            total += matches[max(matches)]
            i += max(matches)
        else:
            i += 1
    return total


def score(scorer: HotWords, text: list[int], lists: torch.Tensor | None = None) -> float:
    state, total = scorer.start(1, None, lists), 0.0
    for token in text:
        total += float(scorer.scores(state)[0, token])
        state = scorer.advance(state, torch.tensor([token]))
    return total + float(scorer.final(state)[0])


def draw(rng: random.Random, longest: int) -> tuple[int, ...]:
    return tuple(rng.choice((0, 0, 1, 2, 3, 4)) for _ in range(rng.randint(1, longest)))


@pytest.mark.parametrize("seed", range(12))
def test_automaton_equals_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    phrases = [
        phrase(draw(rng, 5), rng.choice((0.5, 1.0, 2.0)), opened=rng.random() < 0.3)
        for _ in range(rng.randint(1, 8))
    ]
    scorer = HotWords([phrases], BEGINS)
    for pads in (False, True):
        scorer.rows.pads = pads
        for _ in range(20):
            text = list(draw(rng, 14))
            assert score(scorer, text) == pytest.approx(by_definition(phrases, text), abs=1e-4), text


def test_bonus_grows_and_is_taken_back() -> None:
    scorer = HotWords([[phrase((0, 1, 3))]], BEGINS)
    state = scorer.start(1, None, None)
    assert scorer.scores(state)[0].tolist() == [1.0] + [0.0] * 8
    state = scorer.advance(state, torch.tensor([0]))
    assert scorer.scores(state)[0].tolist() == [0.0, 1.0, *[-1.0] * 7]  # token 0 begins the phrase anew
    state = scorer.advance(state, torch.tensor([1]))
    assert scorer.scores(state)[0].tolist() == [-1.0, -2.0, -2.0, 1.0, *[-2.0] * 5]
    assert float(scorer.final(state)) == -2.0
    state = scorer.advance(state, torch.tensor([3]))
    assert float(scorer.final(state)) == 0.0
    # Complete if a word begins next (even tokens), and taken back inside a longer word.
    assert scorer.scores(state)[0].tolist() == [1.0, -3.0, 0.0, -3.0, 0.0, -3.0, 0.0, -3.0, -3.0]


def test_word_inside_a_longer_word_has_no_bonus_unless_asked() -> None:
    cat, catalog = [0, 1], [0, 1, 3]
    assert score(HotWords([[phrase((0, 1))]], BEGINS), catalog) == 0.0
    assert score(HotWords([[phrase((0, 1))]], BEGINS), cat) == 2.0
    assert score(HotWords([[phrase((0, 1), opened=True)]], BEGINS), catalog) == 2.0


def test_complete_phrase_inside_a_broken_longer_phrase_keeps_its_bonus() -> None:
    scorer = HotWords([[phrase((0, 1)), phrase((0, 1, 2, 3, 4))]], BEGINS)
    assert score(scorer, [0, 1, 2, 3, 6]) == 2.0
    assert score(scorer, [0, 1, 2, 3, 4]) == 4.0


def test_each_utterance_has_its_own_list() -> None:
    scorer = HotWords([[phrase((0, 1))], [phrase((2,), 3.0)]], BEGINS)
    text = [0, 1, 2]
    assert score(scorer, text) == 2.0  # the first list without indices
    assert [score(scorer, text, torch.tensor([i])) for i in (-1, 0, 1)] == [0.0, 2.0, 3.0]
    state = scorer.start(3, None, torch.tensor([1, -1, 0]))
    alone = [scorer.scores(scorer.start(1, None, torch.tensor([i])))[0] for i in (1, -1, 0)]
    assert torch.equal(scorer.scores(state), torch.stack(alone))
    assert torch.equal(scorer.scores(select(state, torch.tensor([2, 0]))), torch.stack([alone[2], alone[0]]))


def test_fusion_keeps_rows_with_blank_and_scores_blank_0() -> None:
    fusion = Fusion([Part(weight=2.0, scorer=HotWords([[phrase((0, 1))]], BEGINS))], blank=BLANK)
    like = torch.zeros(2, V)
    state = fusion.advance(fusion.start(2), torch.tensor([0, BLANK]))
    scores = fusion.scores(state, like)
    assert scores[:, BLANK].tolist() == [0.0, 0.0]
    assert scores[:, 1].tolist() == [2.0, 0.0]
    assert fusion.final(state, like[:, 0]).tolist() == [-2.0, 0.0]
