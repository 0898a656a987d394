"""References beside hypotheses: by id, or by time where the references are segments of recordings."""

import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from maya.decode.hypothesis import Word
from maya.errors import MayaError
from maya.score.files.transcript import TranscriptRow
from maya.score.report import Utterance

Normalizer = Callable[[str, str], str]  # text, language → text


@dataclass(frozen=True, kw_only=True, slots=True)
class PairingOptions:
    """language: code of transcripts that name none. missing_as_empty: a reference without a hypothesis counts
    as an empty hypothesis, that is, all its words are deletions."""

    language: str | None = None
    missing_as_empty: bool = False


def pair_transcripts(
    refs: Sequence[TranscriptRow],
    hyps: Sequence[TranscriptRow],
    normalizer: Normalizer,
    options: PairingOptions,
) -> list[Utterance]:
    """The utterances to score, in the order of the references.

    With ids on both sides, texts are paired by id. Without ids (STM, CTM), words with times are given to the
    reference segment that holds the middle of the word, or else to the nearest one; without words' times, all
    that was said in a recording and channel is one utterance. Raises MayaError for an id that only one side
    has.
    """
    by_id = all(r.id for r in refs) and all(h.id for h in hyps)
    if by_id:
        pairs = _by_id(refs, hyps, options)
    elif any(r.id for r in refs) or any(h.id for h in hyps):
        raise MayaError(
            "one file names utterances and the other names recordings; give both in formats of one kind"
        )
    elif all(h.words for h in hyps) and not all(r.words for r in refs):
        pairs = _by_time(refs, hyps, options)
    else:
        pairs = _by_recording(refs, hyps, options)
    return [_utterance(ref, hyp, normalizer, options) for ref, hyp in pairs]


def _utterance(
    ref: TranscriptRow, hyp: TranscriptRow, normalizer: Normalizer, options: PairingOptions
) -> Utterance:
    language = ref.language or hyp.language or options.language or ""
    return Utterance(
        id=ref.id,
        language=language or "und",
        ref=normalizer(ref.text, language),
        hyp=normalizer(hyp.text, language),
        seconds=ref.seconds or hyp.seconds,
        speaker=ref.speaker or hyp.speaker,
        snr=ref.snr if ref.snr is not None else hyp.snr,
    )


def _by_id(
    refs: Sequence[TranscriptRow], hyps: Sequence[TranscriptRow], options: PairingOptions
) -> list[tuple[TranscriptRow, TranscriptRow]]:
    texts = _unique(hyps, "hypotheses")
    own = _unique(refs, "references")
    if extra := [id for id in texts if id not in own]:
        raise MayaError(f"{len(extra)} hypotheses have no reference, the first is {extra[0]!r}")
    missing = [id for id in own if id not in texts]
    if missing and not options.missing_as_empty:
        raise MayaError(
            f"{len(missing)} of {len(own)} references have no hypothesis, the first is {missing[0]!r}; "
            "--missing-as-empty counts their words as deletions"
        )
    return [(ref, texts.get(id) or TranscriptRow(id=id, text="")) for id, ref in own.items()]


def _unique(rows: Sequence[TranscriptRow], what: str) -> dict[str, TranscriptRow]:
    by_id: dict[str, TranscriptRow] = {}
    for row in rows:
        if row.id in by_id:
            raise MayaError(f"the {what} hold {row.id!r} twice; every id must appear once")
        by_id[row.id] = row
    return by_id


def _place(row: TranscriptRow) -> tuple[str, str]:
    return row.recording, row.channel


def _by_time(
    refs: Sequence[TranscriptRow], hyps: Sequence[TranscriptRow], options: PairingOptions
) -> list[tuple[TranscriptRow, TranscriptRow]]:
    segments = defaultdict(list)
    for ref in refs:
        segments[_place(ref)].append(ref)
    words: dict[tuple[str, str], list[Word]] = defaultdict(list)
    for hyp in hyps:
        words[_place(hyp)] += hyp.words
    _check_places(segments, words, options)
    pairs = []
    for place, own in segments.items():
        own.sort(key=lambda ref: (ref.start or 0.0, ref.end or 0.0))
        shares: list[list[str]] = [[] for _ in own]
        for word in words.get(place, []):
            shares[_segment_of(word, own)].append(word.text)
        pairs += [
            (_named(ref), TranscriptRow(id="", text=" ".join(share)))
            for ref, share in zip(own, shares, strict=True)
            if not ref.ignored
        ]
    return pairs


def _segment_of(word: Word, segments: Sequence[TranscriptRow]) -> int:
    """The index of the segment that holds the middle of the word, or of the nearest one; the later of two."""
    middle = ((word.start or 0.0) + (word.end or 0.0)) / 2
    last = bisect.bisect_right([s.start or 0.0 for s in segments], middle) - 1
    near = range(max(0, last - 8), min(len(segments), last + 2))  # segments of several speakers may overlap

    def distance(i: int) -> tuple[float, int]:
        start, end = segments[i].start or 0.0, segments[i].end or 0.0
        return max(start - middle, middle - end, 0.0), -i

    return min(near, key=distance)


def _by_recording(
    refs: Sequence[TranscriptRow], hyps: Sequence[TranscriptRow], options: PairingOptions
) -> list[tuple[TranscriptRow, TranscriptRow]]:
    sides = []
    for rows in (refs, hyps):
        groups: dict[tuple[str, str], list[TranscriptRow]] = defaultdict(list)
        for row in rows:
            groups[_place(row)].append(row)
        sides.append({place: _joined(place, group) for place, group in groups.items()})
    own, others = sides
    _check_places(own, others, options)
    return [(ref, others.get(place) or TranscriptRow(id="", text="")) for place, ref in own.items()]


def _joined(place: tuple[str, str], rows: list[TranscriptRow]) -> TranscriptRow:
    """The texts of one recording and channel as one, by time."""
    rows = sorted(rows, key=lambda row: row.start or 0.0)
    return TranscriptRow(
        id=" ".join(filter(None, place)), text=" ".join(row.text for row in rows if row.text),
        seconds=sum(row.seconds for row in rows), language=rows[0].language,
    )  # fmt: skip


def _named(ref: TranscriptRow) -> TranscriptRow:
    """A segment with an id of its place and time."""
    where = " ".join(filter(None, _place(ref)))
    return TranscriptRow(
        id=f"{where} {ref.start:.2f}-{ref.end:.2f} {ref.speaker or ''}".strip(), text=ref.text,
        speaker=ref.speaker, language=ref.language, seconds=ref.seconds,
    )  # fmt: skip


def _check_places(
    refs: Collection[tuple[str, str]], hyps: Collection[tuple[str, str]], options: PairingOptions
) -> None:
    names = [" ".join(filter(None, place)) for place in hyps if place not in refs]
    if names:
        raise MayaError(f"the references hold no recording {names[0]!r}, which the hypotheses hold")
    missing = [" ".join(filter(None, place)) for place in refs if place not in hyps]
    if missing and not options.missing_as_empty:
        raise MayaError(
            f"the hypotheses hold no recording {missing[0]!r}; --missing-as-empty counts its words as "
            "deletions"
        )
