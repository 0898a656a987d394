"""Some utterances of a report, reference against hypothesis, word under word, for a terminal."""

import unicodedata

import numpy as np

from maya.score.report import Report, ScoredUtterance, percent, score_utterances

WIDTH = 100  # columns
_LABELS = ("REF: ", "HYP: ")


def choose(report: Report, count: int) -> list[ScoredUtterance]:
    """`count` utterances from the worst to one without an error: evenly over the ranks of those with errors,
    by word error rate; the same for the same report. Where errors are too few, more without."""
    scored = score_utterances(report)
    wrong = [s for s in scored if s.words.errors]
    right = scored[len(wrong) :]
    best = min(len(right), max(count - len(wrong), 1 if count > 1 else 0))
    ranks = np.linspace(0, len(wrong) - 1, min(count - best, len(wrong))).round().astype(int).tolist()
    return [*(wrong[i] for i in ranks), *right[:best]]


def sample_table(report: Report, count: int) -> str:
    """The chosen utterances as text: a line of facts each, then REF and HYP in columns, as many rows of them
    as a terminal needs. [Words that differ] stand in brackets, [*] where one side has no word."""
    chosen = choose(report, count)
    lines = [f"{len(chosen)} of {len(report.utterances)} utterances, the worst first; [words that differ], "
             "[*] where one side has no word"]  # fmt: skip
    for s in chosen:
        u, w = s.utterance, s.words
        lines += [
            "",
            f"{u.id}  {u.language}  WER {percent(w.rate)} %  CER {percent(s.characters.rate)} %  "
            f"{w.substitutions} sub {w.deletions} del {w.insertions} ins of {w.ref_length}",
            *aligned(s.pairs),
        ]
    return "\n".join(lines)


def aligned(pairs: list[tuple[str, str]], width: int = WIDTH) -> list[str]:
    """Two lines, or more where they would be wider than `width` columns: words that were aligned stand under
    each other."""
    rows: list[tuple[list[str], list[str]]] = [([], [])]
    used = len(_LABELS[0])
    for pair in pairs:
        cells = [word if pair[0] == pair[1] else f"[{word or '*'}]" for word in pair]
        wide = max(map(columns, cells))
        if used + wide > width and rows[-1][0]:
            rows.append(([], []))
            used = len(_LABELS[0])
        for row, cell in zip(rows[-1], cells, strict=True):
            row.append(cell + " " * (wide - columns(cell)))
        used += wide + 1
    return [
        (label + " ".join(row)).rstrip() for pair in rows for label, row in zip(_LABELS, pair, strict=True)
    ]


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: marks above and below letters none, wide letters two."""
    marks = sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)
    wide = sum(unicodedata.east_asian_width(c) in ("W", "F") for c in text)
    return len(text) - marks + wide
