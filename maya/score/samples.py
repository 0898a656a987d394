"""Sample utterances of a report for a terminal, with reference and hypothesis aligned word by word."""

import unicodedata

import numpy as np

from maya.score.report import Report, ScoredUtterance, percent, score_utterances

WIDTH = 100  # columns
_LABELS = ("REF: ", "HYP: ")


def choose(report: Report, count: int) -> list[ScoredUtterance]:
    """`count` utterances, worst first: evenly spaced over those with errors, ranked by WER, and one without
    errors. With too few errors, more without. The same report gives the same utterances."""
    scored = score_utterances(report)
    wrong = [s for s in scored if s.words.errors]
    right = scored[len(wrong) :]
    best = min(len(right), max(count - len(wrong), 1 if count > 1 else 0))
    ranks = np.linspace(0, len(wrong) - 1, min(count - best, len(wrong))).round().astype(int).tolist()
    return [*(wrong[i] for i in ranks), *right[:best]]


def sample_table(report: Report, count: int) -> str:
    """`choose`d utterances as text: for each a line of scores, then aligned lines REF and HYP. [Words that
    differ] are in brackets; [*] is a missing word."""
    chosen = choose(report, count)
    lines = [f"{len(chosen)} of {len(report.utterances)} utterances, worst first; [words that differ] "
             "are in brackets; [*] is a missing word"]  # fmt: skip
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
    """Pairs of lines, REF and HYP, at most `width` columns wide, with aligned words in the same column."""
    rows: list[tuple[list[str], list[str]]] = [([], [])]
    used = len(_LABELS[0])
    for pair in pairs:
        cells = [word if pair[0] == pair[1] else f"[{word or '*'}]" for word in pair]
        wide = max(map(terminal_width, cells))
        if used + wide > width and rows[-1][0]:
            rows.append(([], []))
            used = len(_LABELS[0])
        for row, cell in zip(rows[-1], cells, strict=True):
            row.append(cell + " " * (wide - terminal_width(cell)))
        used += wide + 1
    return [
        (label + " ".join(row)).rstrip() for pair in rows for label, row in zip(_LABELS, pair, strict=True)
    ]


def terminal_width(text: str) -> int:
    """Terminal columns of a text: combining marks take none, wide letters two."""
    marks = sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)
    wide = sum(unicodedata.east_asian_width(c) in ("W", "F") for c in text)
    return len(text) - marks + wide
