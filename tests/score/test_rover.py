"""ROVER's network and votes, by hand and by properties."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maya.decode.hypothesis import Word
from maya.errors import MayaError
from maya.score.rover import GAP, SUBSTITUTION, RoverOptions, network, rover


def _words(text: str, confidence: float | None = None) -> list[Word]:
    return [Word(text=word, confidence=confidence) for word in text.split()]


def _text(words: list[Word]) -> str:
    return " ".join(word.text for word in words)


def _sets(*systems: str) -> list[list[str]]:
    return [[arc.text if arc else "@" for arc in arcs] for arcs in network([_words(s) for s in systems])]


def test_network_by_hand() -> None:
    assert _sets("a b c", "a x c", "a b") == [["a", "a", "a"], ["b", "x", "b"], ["c", "c", "@"]]
    assert _sets("a c", "a b c") == [["a", "a"], ["@", "b"], ["c", "c"]]
    # The third system's x is free in the second set, because the second system had it.
    assert _sets("a b c d", "a x c d", "x c d") == [
        ["a", "a", "@"],
        ["b", "x", "x"],
        ["c", "c", "c"],
        ["d"] * 3,
    ]
    assert _sets("", "a") == [["@", "a"]] and _sets("", "") == []


def test_votes_by_hand() -> None:
    systems = [_words("the cat sat"), _words("the hat sat down"), _words("a cat sat down")]
    assert _text(rover(systems)) == "the cat sat down"
    assert _text(rover(systems[:2])) == "the cat sat"  # ties: the first system's arc wins, NULL too
    assert _text(rover(systems[1::-1])) == "the hat sat down"
    # Two systems say b without conviction, one is sure of c: the mean hears the majority, the maximum c.
    voters = [_words("b", 0.3), _words("b", 0.5), _words("c", 0.9)]
    assert _text(rover(voters)) == "b"
    assert _text(rover(voters, RoverOptions(vote="avgconf"))) == "c"  # .2 * 2/3 + .8 * .4 < .2 / 3 + .8 * .9
    assert _text(rover(voters, RoverOptions(vote="maxconf"))) == "b"  # .7 * 2/3 + .3 * .5 > .7 / 3 + .3 * .9
    # A NULL arc has a confidence of its own.
    unsure = [_words("a", 0.5), _words("", 0.5)]
    assert _text(rover(unsure, RoverOptions(vote="avgconf", alpha=0.0, null_confidence=0.4))) == "a"
    assert _text(rover(unsure, RoverOptions(vote="avgconf", alpha=0.0, null_confidence=0.6))) == ""


def test_times_and_confidence_of_a_winner() -> None:
    first = [Word(text="a", start=0.0, end=1.0, confidence=0.5)]
    second = [Word(text="a", start=0.2, end=1.2, confidence=0.7)]
    (word,) = rover([first, second], RoverOptions(vote="avgconf"))
    assert (word.start, word.end) == (0.1, 1.1)
    assert word.confidence == pytest.approx(0.2 * 1 + 0.8 * 0.6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"vote": "most"}, "unknown vote"), ({"alpha": 1.5}, "alpha"), ({"null_confidence": -1.0}, "null")],
)
def test_wrong_options(options: dict, complaint: str) -> None:
    with pytest.raises(MayaError, match=complaint):
        RoverOptions(**options)


def test_missing_confidences_and_systems() -> None:
    with pytest.raises(MayaError, match="confidences"):
        rover([_words("a")], RoverOptions(vote="maxconf"))
    with pytest.raises(MayaError, match="at least one"):
        rover([])


_SENTENCES = st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(
    systems=st.lists(_SENTENCES, min_size=1, max_size=4), vote=st.sampled_from(["freq", "avgconf", "maxconf"])
)
def test_properties(systems: list[str], vote: str) -> None:
    words = [_words(s, 0.9) for s in systems]
    options = RoverOptions(vote=vote)  # type: ignore[arg-type]
    sets = network(words)
    # Each system's words are in the network, in order, with one arc in every set.
    for i, own in enumerate(systems):
        assert _text([arcs[i] for arcs in sets if arcs[i] is not None]) == own  # type: ignore[misc]
    assert all(len(arcs) == len(systems) for arcs in sets)
    assert _text(rover(words[:1], options)) == systems[0]  # a single system
    assert _text(rover([words[0]] * 3, options)) == systems[0]  # identical systems
    if len(systems) >= 2:  # a majority of identical systems that come first wins by frequency
        assert _text(rover([words[0], words[0], words[1]])) == systems[0]
    # Each word that wins was said by a system, and the words of any set are those of its arcs.
    said = {word for own in systems for word in own.split()}
    assert {word.text for word in rover(words, options)} <= said


@settings(max_examples=150, deadline=None)
@given(first=_SENTENCES, second=_SENTENCES)
def test_alignment_has_least_cost(first: str, second: str) -> None:
    """Against the textbook recursion."""
    a, b = first.split(), second.split()
    costs = [[GAP * (i + j) for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            pair = costs[i - 1][j - 1] + (0 if a[i - 1] == b[j - 1] else SUBSTITUTION)
            costs[i][j] = min(pair, costs[i - 1][j] + GAP, costs[i][j - 1] + GAP)
    sets = _sets(first, second)
    cost = sum(GAP if "@" in s else SUBSTITUTION if s[0] != s[1] else 0 for s in sets)
    assert cost == costs[-1][-1]
