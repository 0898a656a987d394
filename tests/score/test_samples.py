"""Utterances for people to read: chosen over the range of errors, words under each other."""

from maya.score.report import Utterance, make_report
from maya.score.samples import aligned, choose, sample_table, terminal_width


def _report(errors: list[int]):  # noqa: ANN202
    """Utterances of ten words, of which so many are wrong."""
    rows = [
        Utterance(id=f"u{i:02d}", language="en", ref=" ".join("abcdefghij"),
                  hyp=" ".join("x" * n + "abcdefghij"[n:]))
        for i, n in enumerate(errors)
    ]  # fmt: skip
    return make_report(rows, replicates=10)


def test_choose_takes_the_worst_first_and_one_without_errors() -> None:
    report = _report([0, 3, 9, 0, 1, 5, 7, 0, 2])
    assert [s.words.errors for s in choose(report, 4)] == [9, 5, 1, 0]
    assert [s.words.errors for s in choose(report, 2)] == [9, 0]
    assert [s.words.errors for s in choose(report, 1)] == [9]
    assert [s.words.errors for s in choose(report, 9)] == [9, 7, 5, 3, 2, 1, 0, 0, 0]
    assert len(choose(report, 50)) == 9
    assert [s.words.errors for s in choose(_report([4, 4, 6]), 2)] == [6, 4]
    assert [s.utterance.id for s in choose(report, 5)] == [s.utterance.id for s in choose(report, 5)]


def test_words_are_aligned() -> None:
    rows = [Utterance(id="a", language="hi", ref="मैं घर जाता हूँ", hyp="मैं जाता था हूँ", seconds=1.0)]
    lines = sample_table(make_report(rows, replicates=10), 3).splitlines()
    assert lines[0].startswith("1 of 1 utterances") and lines[2].startswith("a  hi  WER 50.00 %  CER ")
    assert lines[2].endswith("0 sub 1 del 1 ins of 4")
    ref, hyp = lines[3:]
    assert ref == "REF: मैं [घर] जाता [*]  हूँ" and hyp == "HYP: मैं [*]  जाता [था] हूँ"
    assert terminal_width(ref) == terminal_width(hyp)
    assert terminal_width("हूँ") == 1 and terminal_width("日本") == 4 and terminal_width("ab\u200d") == 2


def test_long_utterances_are_wrapped() -> None:
    pairs = [(word, word if i % 7 else "other") for i, word in enumerate(["speech"] * 40)]
    lines = aligned(pairs, width=60)
    assert len(lines) % 2 == 0 and len(lines) > 6 and max(map(len, lines)) <= 60
    for ref, hyp in zip(lines[::2], lines[1::2], strict=True):
        assert ref.startswith("REF: ") and hyp.startswith("HYP: ")
    assert " ".join(x[5:] for x in lines[::2]).split() == [
        f"[{w}]" if i % 7 == 0 else w for i, (w, _) in enumerate(pairs)
    ]
    assert aligned([("word" * 30, "")], width=60) == ["REF: [" + "word" * 30 + "]", "HYP: [*]"]
