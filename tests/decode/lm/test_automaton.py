"""ARPA files and the n-gram automaton: the definition, our estimator, KenLM, and errors of files."""

import gzip
import importlib.util
import math
import random
from pathlib import Path

import pytest
import torch

from maya.decode.lm.arpa import Arpa, read_arpa, write_arpa
from maya.decode.lm.automaton import NGramAutomaton
from maya.decode.lm.kneser_ney import NGram
from maya.errors import MayaError

V = 12
WORDS = [f"w{i}" for i in range(V)]
SMALL = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-0.7\t<unk>
-99\t<s>\t-0.3
-0.5\ta\t-0.2
-0.9\tb\t-0.4
-0.6\t</s>

\\2-grams:
-0.1\t<s> a
-0.2\ta b
-0.3\tb </s>

\\end\\
"""


def texts(seed: int, count: int = 200) -> list[list[int]]:
    rng = random.Random(seed)
    return [[int(rng.random() ** 2 * V) for _ in range(rng.randint(1, 10))] for _ in range(count)]


def by_definition(arpa: Arpa, sentence: list[str]) -> float:
    """P(w | h) = the n-gram's, else the back-off weight of h times P(w | h without its first word)."""
    table = {tuple(arpa.words[i] for i in ids): (float(p), float(b)) for g in arpa.grams
             for ids, p, b in zip(g.words.tolist(), g.log_probs, g.backoffs, strict=True)}  # fmt: skip

    def log_prob(history: tuple[str, ...], word: str) -> float:
        if (*history, word) in table:
            return table[(*history, word)][0]
        if not history:
            return table[("<unk>",)][0]
        return table.get(history, (0.0, 0.0))[1] + log_prob(history[1:], word)

    history, total = ("<s>",), 0.0
    for word in [*sentence, "</s>"]:
        total += log_prob(history[max(0, len(history) - arpa.order + 1) :], word)
        history = (*history, word)
    return total


def score(lm: NGramAutomaton, sentence: list[str]) -> float:
    index = {word: i for i, word in enumerate(lm.words)}
    states, total = lm.starts[:1], 0.0
    for word in sentence:
        w = index.get(word, lm.unknown)
        every, targets = lm.advance(states)
        score, states = lm.step(states, torch.tensor([w]))
        assert float(every[0, w]) == pytest.approx(float(score), abs=1e-6)
        assert int(targets[0, w]) == int(states)
        total += float(score)
    return total + float(lm.final(states))


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_automaton_equals_estimator_and_definition(order: int, tmp_path: Path) -> None:
    ngram = NGram(texts(order), V, order=order)
    write_arpa(ngram.to_arpa(WORDS), tmp_path / "lm.arpa.gz")
    arpa = read_arpa(tmp_path / "lm.arpa.gz")
    lm = NGramAutomaton(arpa)
    for pads in (False, True):
        lm.arcs.pads = pads
        for text in texts(100 + order, 12):
            names = [WORDS[i] for i in text]
            assert score(lm, names) == pytest.approx(ngram.score(text), abs=1e-5 * (len(text) + 1))
            assert score(lm, names) == pytest.approx(by_definition(arpa, names), abs=1e-5 * (len(text) + 1))


@pytest.mark.skipif(importlib.util.find_spec("kenlm") is None, reason="the package kenlm is not installed")
def test_automaton_equals_kenlm(tmp_path: Path) -> None:
    kenlm = importlib.import_module("kenlm")
    write_arpa(NGram(texts(3), V, order=4).to_arpa(WORDS), tmp_path / "lm.arpa")
    lm, other = NGramAutomaton(read_arpa(tmp_path / "lm.arpa")), kenlm.Model(str(tmp_path / "lm.arpa"))
    for text in texts(5, 60):
        names = [WORDS[i] for i in text]
        assert score(lm, names) == pytest.approx(other.score(" ".join(names)) * math.log(10), abs=1e-4)


def test_states_of_several_models_stay_in_their_model() -> None:
    models = [NGram(texts(seed), V, order=n) for seed, n in ((1, 4), (2, 2))]
    joint = NGramAutomaton(*(model.to_arpa(WORDS) for model in models))
    alone = [NGramAutomaton(model.to_arpa(WORDS)) for model in models]
    states, singles = joint.starts, [lm.starts for lm in alone]
    for token in (3, 0, 0, 11, 1):
        scores, _ = joint.advance(states)
        for row, (lm, single) in enumerate(zip(alone, singles, strict=True)):
            assert torch.allclose(scores[row], lm.advance(single)[0][0])
        states = joint.step(states, torch.tensor([token, token]))[1]
        singles = [lm.step(s, torch.tensor([token]))[1] for lm, s in zip(alone, singles, strict=True)]
    assert joint.model_of(states).tolist() == [0, 1]


def test_small_file_by_hand(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text("a comment\n\n" + SMALL)
    lm = NGramAutomaton(read_arpa(tmp_path / "lm.arpa"))
    assert score(lm, ["a", "b"]) == pytest.approx((-0.1 - 0.2 - 0.3) * math.log(10), abs=1e-5)
    backed_off = -0.3 - 0.9 - 0.4 - 0.5 - 0.2 - 0.6
    assert score(lm, ["b", "a"]) == pytest.approx(backed_off * math.log(10), abs=1e-5)
    assert score(lm, ["zzz"]) == pytest.approx((-0.3 - 0.7 - 0.6) * math.log(10), abs=1e-5)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ngram 1=5", "ngram 1=6", r"1-grams from line 5 on are 5, and the header says 6"),
        ("-0.2\ta b", "-0.2\ta c", r"line 14: the word 'c' is not among the 1-grams"),
        ("-0.2\ta b", "x\ta b", r"line 14: .*does not begin and end with a number"),
        ("-0.2\ta b", "0.2\ta b", r"line 14: 0.2 .*not a log probability"),
        ("-0.2\ta b", "-0.2\tb", r"line 14: a 2-gram has 3 or 4 fields, and this line has 2"),
        ("-0.9\tb\t-0.4", "-0.9\ta\t-0.4", r"line 9: the word 'a' stands here for a second time"),
        ("\\end\\", "", "the file ends where"),
        ("\\data\\", "hello", r"the file ends where .data. is expected"),
        ("ngram 2=3", "ngram 3=3", r"line 3: expected ngram 2=COUNT"),
    ],
)
def test_errors_name_the_line(before: str, after: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(SMALL.replace(before, after, 1))
    with pytest.raises(MayaError, match=message):
        read_arpa(tmp_path / "lm.arpa")


def test_damaged_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(SMALL.encode())[:-20])
    with pytest.raises(MayaError, match="damaged"):
        read_arpa(tmp_path / "lm.arpa.gz")
    with pytest.raises(MayaError, match="cannot read"):
        read_arpa(tmp_path / "none.arpa")
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.raises(MayaError, match="binary of KenLM"):
        read_arpa(tmp_path / "lm.bin")
    text = SMALL.replace("ngram 2=3", "ngram 2=3\nngram 3=1").replace(
        "\\end\\", "\\3-grams:\n-0.1\tb a b\n\n\\end\\"
    )
    (tmp_path / "context.arpa").write_text(text)
    with pytest.raises(MayaError, match="3-gram 'b a b' has a context that is not among the 2-grams"):
        NGramAutomaton(read_arpa(tmp_path / "context.arpa"))
