"""Error rates of groups of utterances: by language, speaker, length, SNR and speaking rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from maya.pages import columns
from maya.score.report import Report, Utterance, finite, finite_pair, percent, span
from maya.score.wer import ErrorStats, Interval, interval, words_of

UNKNOWN = "unknown"
_MINUTE = 60.0
# Edges of buckets. Seconds: a command, a sentence, a long sentence, a paragraph. SNR: 10 dB is a noisy
# street, 30 dB a quiet room. Words a minute: under 120 is slow and above 180 is fast for English.
SECONDS = (2.0, 5.0, 10.0, 20.0, 30.0)
SNR = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)
WORDS_PER_MINUTE = (60.0, 120.0, 150.0, 180.0, 240.0)
_SPEAKERS_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupErrors:
    """The errors of one group. kind: a key of `KINDS`. name: of the speaker, language or bucket. rows: the
    places of its utterances in the report."""

    kind: str
    name: str
    rows: tuple[int, ...]
    words: ErrorStats
    characters: ErrorStats
    wer_interval: Interval
    cer_interval: Interval


def words_per_minute(utterance: Utterance) -> float | None:
    """The speaking rate, in reference words a minute; None without a duration or words."""
    count = len(words_of(utterance.ref))
    return _MINUTE * count / utterance.seconds if utterance.seconds > 0 and count else None


def bucket(value: float | None, edges: Sequence[float], unit: str) -> tuple[int, str]:
    """The place and the name of the bucket of a value; each holds its lower edge and not its upper."""
    if value is None:
        return len(edges) + 1, UNKNOWN
    place = sum(value >= edge for edge in edges)
    if place == 0:
        return 0, f"under {edges[0]:g} {unit}"
    if place == len(edges):
        return place, f"{edges[-1]:g} {unit} and more"
    return place, f"{edges[place - 1]:g} to {edges[place]:g} {unit}"


# By kind: the order and the name of an utterance's group.
KINDS: dict[str, Callable[[Utterance], tuple[int, str]]] = {
    "language": lambda u: (0, u.language),
    "speaker": lambda u: (0, u.speaker) if u.speaker else (1, UNKNOWN),
    "length": lambda u: bucket(u.seconds or None, SECONDS, "s"),
    "snr": lambda u: bucket(u.snr, SNR, "dB"),
    "rate": lambda u: bucket(words_per_minute(u), WORDS_PER_MINUTE, "words/min"),
}


def group_errors(report: Report, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, list[GroupErrors]]:
    """By kind the groups of a report's utterances, buckets in rising order, speakers and languages by name.

    A kind of which nothing is known, such as the SNR of audio that nobody measured, has no groups. Intervals
    are drawn over speakers where the report's are, except for those of a single speaker.
    """
    tables = {}
    for kind in kinds:
        members: dict[tuple[int, str], list[int]] = {}
        for i, u in enumerate(report.utterances):
            members.setdefault(KINDS[kind](u), []).append(i)
        if {name for _, name in members} == {UNKNOWN}:
            members = {}
        tables[kind] = [_group(report, kind, name, rows) for (_, name), rows in sorted(members.items())]
    return tables


def _group(report: Report, kind: str, name: str, rows: list[int]) -> GroupErrors:
    words = ErrorStats(counts=report.pooled.words.counts[rows])
    characters = ErrorStats(counts=report.pooled.characters.counts[rows])
    blocks = None
    if report.by_speaker and kind != "speaker":
        blocks = [report.utterances[i].speaker or ("id", report.utterances[i].id) for i in rows]
    options: dict[str, Any] = {"blocks": blocks, "replicates": report.replicates, "seed": report.seed}
    return GroupErrors(
        kind=kind, name=name, rows=tuple(rows), words=words, characters=characters,
        wer_interval=interval(words, **options), cer_interval=interval(characters, **options),
    )  # fmt: skip


def group_table(tables: dict[str, list[GroupErrors]]) -> str:
    """The groups as text for a terminal; of many speakers, the worst."""
    blocks = []
    for kind, groups in tables.items():
        shown = groups
        note = ""
        if kind == "speaker" and len(groups) > _SPEAKERS_SHOWN:
            shown = sorted(groups, key=lambda g: -g.words.rate)[:_SPEAKERS_SHOWN]
            note = f"the worst {len(shown)} of {len(groups)} speakers"
        if not shown or (kind == "language" and len(shown) == 1):
            continue
        rows = [[kind, "utts", "words", "WER %", "95 % interval", "CER %"]]
        for g in shown:
            rates = [percent(g.words.rate), span(g.wer_interval), percent(g.characters.rate)]
            rows.append([g.name, str(g.words.utterances), str(g.words.ref_length), *rates])
        blocks.append("\n".join([*columns(rows), *filter(None, [note])]))
    return "\n\n".join(blocks)


def group_result(tables: dict[str, list[GroupErrors]]) -> dict[str, Any]:
    """The groups as JSON values: rates are fractions, null where they cannot be computed."""
    return {
        kind: [
            {
                "name": g.name, "utterances": g.words.utterances, "words": g.words.ref_length,
                "wer": finite(g.words.rate), "wer_interval": finite_pair(g.wer_interval),
                "cer": finite(g.characters.rate), "cer_interval": finite_pair(g.cer_interval),
            }
            for g in groups
        ]
        for kind, groups in tables.items()
    }  # fmt: skip
