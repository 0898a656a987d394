"""Options that the commands of evaluation share: normal form, groups, rare and hot words."""

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maya.data.corpus.manifest import read_lines
from maya.errors import MayaError
from maya.recipes.arguments import POSITIVE
from maya.score.measures.normalizers import DEFAULT, NORMALIZERS, make_normalizer
from maya.score.measures.summary import MeasureOptions
from maya.score.measures.word_lists import RARE_BELOW, count_words


def add_normalizer(p: argparse.ArgumentParser) -> None:
    """The option --normalizer."""
    text = "the normal form in which texts are compared; whisper ... leaderboard need maya-asr[score]"
    p.add_argument("--normalizer", default=DEFAULT, choices=NORMALIZERS, help=text)


def add_measures(p: argparse.ArgumentParser) -> None:
    """The options --groups, --hot-words, --training-texts and --rare-below."""
    text = "print error rates by speaker, length, SNR and speaking rate, too"
    p.add_argument("--groups", action="store_true", help=text)
    text = "a phrase a line: print their recall, precision and F"
    p.add_argument("--hot-words", type=Path, metavar="FILE", help=text)
    text = "a text a line: print the recall of words that are rare in them; default with --rare-below: the "
    text += "training set of the prepared data"
    p.add_argument("--training-texts", type=Path, metavar="FILE", help=text)
    text = f"a word is rare if training has it fewer than N times (with --training-texts: {RARE_BELOW})"
    p.add_argument("--rare-below", type=POSITIVE, metavar="N", help=text)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringOptions:
    """The values of these options; see their help."""

    normalizer: str = DEFAULT
    groups: bool = False
    hot_words: Path | None = None
    training_texts: Path | None = None
    rare_below: int | None = None


def scoring_options(args: argparse.Namespace) -> ScoringOptions:
    """The options of a command line."""
    return ScoringOptions(**{name: getattr(args, name) for name in ScoringOptions.__dataclass_fields__})


def measure_options(
    args: ScoringOptions, language: str, training_counts: Counter[str] | None = None
) -> MeasureOptions:
    """The measures that the options ask for. language: of the lists' normal form, "" to take them as they
    are. training_counts: of words, where --training-texts is not given. Raises MayaError for a file that
    cannot be read or is empty."""
    normalizer = make_normalizer(args.normalizer)
    if args.training_texts is not None:
        training_counts = count_words(normalizer(t, language) for t in lines_of(args.training_texts))
    phrases: list[str] = []
    if args.hot_words is not None:
        phrases = [normalizer(line, language) for line in lines_of(args.hot_words)]
    if args.rare_below is not None and training_counts is None:
        raise MayaError("--rare-below counts words of training: give their texts with --training-texts")
    return MeasureOptions(
        training_counts=training_counts,
        rare_below=args.rare_below or RARE_BELOW,
        hot_words=tuple(filter(None, phrases)),
    )


def list_language(codes: Iterable[str]) -> str:
    """The language of lists of words: that of the utterances if they have one, else ""."""
    languages = set(codes)
    return languages.pop() if len(languages) == 1 else ""


def lines_of(path: Path) -> Iterable[str]:
    """The lines of a file that are not empty. Raises MayaError if there are none."""
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    if not lines:
        raise MayaError(f"{path} is empty; write a text or a phrase a line")
    return lines
