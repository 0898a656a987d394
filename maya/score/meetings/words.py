"""Word errors of recordings with several speakers, computed by meeteval.

| score | asks for |
|---|---|
| cpWER | the words of each speaker, under the best pairing of speakers |
| tcpWER | the same, and each word at its time, within a collar |
| ORC-WER | the words of each segment on any one output stream; names of speakers do not matter |

meeteval (MIT, Paderborn University) is an optional package: `pip install 'maya-asr[meetings]'`. It brings
scipy and builds a small extension when it is installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maya.errors import MayaError
from maya.score.files.transcript import TranscriptRow

COLLAR = 5.0  # seconds, meeteval's usual one for tcpWER


@dataclass(frozen=True, kw_only=True, slots=True)
class MeetingErrors:
    """One score of all recordings together. name: cpWER, tcpWER or ORC-WER."""

    name: str
    errors: int
    substitutions: int
    deletions: int
    insertions: int
    ref_length: int

    @property
    def rate(self) -> float:
        """errors / ref_length; 0 without words and errors, infinite without words only."""
        if self.ref_length:
            return self.errors / self.ref_length
        return float("inf") if self.errors else 0.0


def meeting_errors(
    refs: Sequence[TranscriptRow], hyps: Sequence[TranscriptRow], *, collar: float = COLLAR
) -> list[MeetingErrors]:
    """cpWER and ORC-WER of segments of recordings, and tcpWER where both sides have times.

    A recording that the hypotheses lack counts with all its words deleted. Texts are scored as they are:
    bring them into a normal form first. Raises MayaError without meeteval, for a segment without recording or
    speaker, and for recordings that the references lack.
    """
    meeteval = _meeteval()
    refs = [ref for ref in refs if not ref.ignored]
    for side, rows in (("references", refs), ("hypotheses", hyps)):
        if any(not row.recording for row in rows):
            raise MayaError(f"the {side} name no recording: give STM, CTM or SegLST files")
    if extra := {row.recording for row in hyps} - {row.recording for row in refs}:
        raise MayaError(f"the references hold no recording {min(extra)!r}, which the hypotheses hold")
    names = ["cpWER", "ORC-WER"]
    if all(row.start is not None and row.end is not None for row in (*refs, *hyps)):
        names.insert(1, "tcpWER")
    measure = {
        "cpWER": lambda r, h: meeteval.wer.cp_word_error_rate(r, h),
        "tcpWER": lambda r, h: meeteval.wer.time_constrained_minimum_permutation_word_error_rate(
            r, h, collar=collar
        ),
        "ORC-WER": lambda r, h: meeteval.wer.orc_word_error_rate(r, h),
    }
    recordings = sorted({row.recording for row in refs})
    scores = []
    for name in names:
        rates = [
            measure[name](_segments(meeteval, refs, r), _segments(meeteval, hyps, r)) for r in recordings
        ]
        scores.append(_total(name, rates))
    return scores


def _segments(meeteval: Any, rows: Sequence[TranscriptRow], recording: str) -> Any:
    """meeteval's list of the segments of a recording. Without a speaker, the channel parts the streams."""
    segments: list[dict[str, Any]] = []
    for row in rows:
        if row.recording == recording:
            segment: dict[str, Any] = {"session_id": recording, "words": row.text}
            segment["speaker"] = row.speaker or row.channel or "1"
            if row.start is not None and row.end is not None:
                segment |= {"start_time": row.start, "end_time": row.end}
            segments.append(segment)
    # meeteval 0.4 raises an AssertionError for ORC-WER of no segments at all.
    nothing = {"session_id": recording, "speaker": "1", "words": "", "start_time": 0.0, "end_time": 0.0}
    segments = segments or [nothing]
    return meeteval.io.SegLST(segments)


def _total(name: str, rates: Sequence[Any]) -> MeetingErrors:
    counts = {
        field: sum(int(getattr(rate, field)) for rate in rates)
        for field in ("errors", "substitutions", "deletions", "insertions")
    }
    return MeetingErrors(name=name, ref_length=sum(int(rate.length) for rate in rates), **counts)


def _meeteval() -> Any:
    try:
        import meeteval
    except ImportError:
        raise MayaError(
            "scores of several speakers need the package meeteval: pip install 'maya-asr[meetings]'"
        ) from None
    return meeteval
