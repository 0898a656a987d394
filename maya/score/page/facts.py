"""The utterances of a report page as compact JSON: columns, not a record for each utterance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.errors import MayaError
from maya.score.page.audio import link
from maya.score.page.details import NO_DETAILS, UtteranceDetails
from maya.score.report import Report, Utterance
from maya.score.wer import MISSING, align, words_of
from maya.text.languages import language_name

# The level of a confidence, 0 to 61, as a character; "-" where a word has none.
LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
UNKNOWN_LEVEL = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSystem:
    """One system on the page. details: by id of the utterance, as far as they are known."""

    name: str
    report: Report
    details: Mapping[str, UtteranceDetails]


def details_of(systems: Sequence[ScoredSystem], id_: str) -> UtteranceDetails:
    """The details of an utterance from the first system that knows its audio, else from the first at all."""
    details = [s.details[id_] for s in systems if id_ in s.details]
    return next((d for d in details if d.audio is not None), details[0] if details else NO_DETAILS)


def same_order(systems: Sequence[ScoredSystem]) -> list[NDArray[np.int64]]:
    """For each system the places of the first system's utterances in its report, (utterances,) int64. Raises
    MayaError if the systems were scored on different utterances."""
    first = systems[0].report.utterances
    orders = []
    for system in systems:
        rows = system.report.utterances
        place = {u.id: i for i, u in enumerate(rows)}
        if len(rows) != len(first) or any(u.id not in place for u in first):
            raise MayaError(
                f"{system.name} has other utterances than {systems[0].name}; decode both on the same set"
            )
        order = np.array([place[u.id] for u in first], np.int64)
        if any(words_of(u.ref) != words_of(rows[i].ref) for u, i in zip(first, order, strict=True)):
            raise MayaError(
                f"{system.name} has other references than {systems[0].name}; decode both on the same set"
            )
        orders.append(order)
    return orders


def display_order(systems: Sequence[ScoredSystem], orders: Sequence[NDArray[np.int64]]) -> list[int]:
    """Places of the first system's utterances in the order in which the page lists them.

    For one system: highest WER first, then most errors, CER, and id. For several: first where the systems
    differ by most word errors, then most errors.
    """
    rows = systems[0].report.utterances
    words = [s.report.pooled.words.counts[order] for s, order in zip(systems, orders, strict=True)]
    characters = systems[0].report.pooled.characters
    errors = np.stack([counts[:, :3].sum(axis=1) for counts in words])
    with np.errstate(divide="ignore", invalid="ignore"):
        # An error without reference words counts as infinite, no error as 0.
        rates = np.where(errors[0] == 0, 0.0, errors[0] / words[0][:, 3])
        lengths, wrong = characters.utterance_ref_lengths, characters.utterance_errors
        cers = np.where(wrong == 0, 0.0, wrong / lengths)
    if len(systems) == 1:
        return sorted(range(len(rows)), key=lambda i: (-rates[i], -errors[0, i], -cers[i], rows[i].id))
    spread = errors.max(axis=0) - errors.min(axis=0)
    return sorted(range(len(rows)), key=lambda i: (-spread[i], -errors[:, i].sum(), rows[i].id))


def page_facts(
    systems: Sequence[ScoredSystem],
    orders: Sequence[NDArray[np.int64]],
    shown: Sequence[int],
    folder: Path,
) -> dict[str, Any]:
    """The values that the page's script reads (static/data.js lists them), utterances in the order `shown`.

    folder: of the page, to which links to audio are relative.
    """
    rows = [systems[0].report.utterances[i] for i in shown]
    details = [details_of(systems, u.id) for u in rows]
    languages = list(dict.fromkeys(sorted(u.language for u in rows)))
    speakers = list(dict.fromkeys(sorted(u.speaker for u in rows if u.speaker is not None)))
    language_index, speaker_index = ({x: i for i, x in enumerate(xs)} for xs in (languages, speakers))
    pooled = systems[0].report.pooled
    links = [link(d.audio, folder) if d.audio is not None else "" for d in details]
    snrs = [shown_snr(u, d) for u, d in zip(rows, details, strict=True)]
    return {
        "systems": [s.name for s in systems],
        "languages": [[code, language_name(code)] for code in languages],
        "speakers": speakers,
        "id": [u.id for u in rows],
        "language": [language_index[u.language] for u in rows],
        "speaker": [-1 if u.speaker is None else speaker_index[u.speaker] for u in rows],
        "seconds": [shown_seconds(u) for u in rows],
        "snr": snrs if any(snr is not None for snr in snrs) else None,
        "audio": links if any(links) else None,
        "ref": [" ".join(words_of(u.ref)) for u in rows],
        "words": pooled.words.utterance_ref_lengths[list(shown)].tolist(),
        "characters": pooled.characters.utterance_ref_lengths[list(shown)].tolist(),
        "results": [
            system_facts(system, [int(order[i]) for i in shown])
            for system, order in zip(systems, orders, strict=True)
        ],
    }


def system_facts(system: ScoredSystem, shown: Sequence[int]) -> dict[str, Any]:
    """Hypotheses of a system and their errors; to save space, 0 for a hypothesis equal to its reference."""
    rows = [system.report.utterances[i] for i in shown]
    pooled = system.report.pooled
    counts = pooled.words.counts[list(shown)]
    texts = [operations(u) for u in rows]
    levels = [
        confidence_levels(u, system.details.get(u.id, NO_DETAILS).confidences) if system.details else ""
        for u in rows
    ]
    return {
        "hyp": [hyp if ops else 0 for hyp, ops in texts],
        "ops": [ops or 0 for _, ops in texts],
        "sub": counts[:, 0].tolist(),
        "del": counts[:, 1].tolist(),
        "ins": counts[:, 2].tolist(),
        "cer": pooled.characters.utterance_errors[list(shown)].tolist(),
        "confidence": levels if any(levels) else None,
    }


def shown_seconds(utterance: Utterance) -> float:
    """The duration as the page shows and filters it, in hundredths of a second."""
    return round(utterance.seconds, 2)


def shown_snr(utterance: Utterance, details: UtteranceDetails) -> float | None:
    """The signal-to-noise ratio as the page shows and filters it, in tenths of a dB."""
    snr = details.snr if utterance.snr is None else utterance.snr
    return None if snr is None else round(snr, 1)


def operations(utterance: Utterance) -> tuple[str, str]:
    """(hypothesis, alignment): a letter for each pair of aligned words, "=" same, "s" substituted, "d"
    deleted, "i" inserted; "" where all are the same."""
    ref, hyp = words_of(utterance.ref), words_of(utterance.hyp)
    text = " ".join(hyp)
    if ref == hyp:
        return text, ""
    letters = [
        "=" if r == h else "d" if h == MISSING else "i" if r == MISSING else "s" for r, h in align(ref, hyp)
    ]
    return text, "".join(letters)


def confidence_levels(utterance: Utterance, confidences: Sequence[float | None]) -> str:
    """A character of `LEVELS` for each word of the hypothesis; "" where the numbers do not fit the words."""
    if not confidences or len(confidences) != len(words_of(utterance.hyp)):
        return ""
    most = len(LEVELS) - 1
    return "".join(
        UNKNOWN_LEVEL if c is None else LEVELS[round(min(max(c, 0.0), 1.0) * most)] for c in confidences
    )


def json_element(name: str, value: object) -> str:
    """A `<script>` element that holds a value as JSON, safe for any text.

    "<" is escaped, so that no text can close the element or open a comment. Half of a surrogate pair, which
    UTF-8 cannot hold, stays an escape.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c")
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return f'<script type="application/json" id="{name}">{text}</script>'
