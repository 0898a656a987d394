"""`maya score --ref FILE --hyp FILE`: the scores of transcripts that any tool wrote."""

import argparse
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.files import write_json
from maya.pages import columns
from maya.ranges import Range
from maya.recipes.arguments import number
from maya.recipes.evaluation.options import list_language, measure_options, scoring_options
from maya.score.files.objects import holds_both
from maya.score.files.pairing import PairingOptions, pair_transcripts
from maya.score.files.transcript import TranscriptRow
from maya.score.files.transcripts import FORMATS, format_of, read_transcripts
from maya.score.measures.normalizers import DROPS_EMPTY, make_normalizer
from maya.score.measures.summary import measure, measures_result, measures_table
from maya.score.meetings.diarization import diarization_errors
from maya.score.meetings.words import COLLAR, meeting_errors
from maya.score.page import write_page
from maya.score.report import (
    Report,
    Utterance,
    finite,
    make_report,
    percent,
    table,
    write_errors,
    write_result,
)
from maya.score.samples import sample_table
from maya.text.languages import language_code


def add_files(p: argparse.ArgumentParser, instead: argparse._MutuallyExclusiveGroup) -> None:
    """The options of `maya score` without a run folder. instead: the group of the run folder."""
    text = (
        "hypotheses that any tool wrote, instead of a run folder: Kaldi text, .trn, .ctm, .stm, .rttm, JSON "
    )
    text += "lines (NeMo, Maya) or SegLST; JSON lines may hold the references, too"
    instead.add_argument("--hyp", type=Path, metavar="FILE", help=text)
    group = p.add_argument_group("options of --hyp")
    text = "references, in one of the formats of --hyp"
    group.add_argument("--ref", type=Path, metavar="FILE", help=text)
    group.add_argument("--ref-format", default="auto", choices=FORMATS, help="default: by the file's name")
    group.add_argument("--hyp-format", default="auto", choices=FORMATS, help="default: by the file's name")
    group.add_argument("--language", help="code of texts that name no language, for their normal form")
    text = "count the words of a reference without a hypothesis as deletions, instead of an error"
    group.add_argument("--missing-as-empty", action="store_true", help=text)
    text = "score recordings of several speakers: cpWER, tcpWER, ORC-WER (maya-asr[meetings]) and DER"
    group.add_argument("--speakers", action="store_true", help=text)
    seconds = number(float, Range(min=0))
    text = f"seconds that a word may be off in tcpWER (default: {COLLAR:g})"
    group.add_argument("--collar", type=seconds, default=COLLAR, metavar="S", help=text)
    text = "seconds around a boundary that DER leaves out (default: 0)"
    group.add_argument("--der-collar", type=seconds, default=0.0, metavar="S", help=text)
    text = "DER without the time in which several speakers speak"
    group.add_argument("--no-overlap", action="store_true", help=text)
    group.add_argument("--json", type=Path, metavar="FILE", help="write all scores as JSON, too")
    group.add_argument("--html", type=Path, metavar="FILE", help="write the report page, too")
    group.add_argument("--errors", type=Path, metavar="FILE", help="write all utterances with errors")


def score_files(args: argparse.Namespace) -> Report | dict[str, Any]:
    """Score two files and print the tables; returns the report, or of several speakers the scores.

    Raises MayaError where the files cannot be read or do not fit.
    """
    refs, hyps = _read(args)
    if args.speakers:
        return _score_speakers(refs, hyps, args)
    language = language_code(args.language) if args.language else None
    normalizer = make_normalizer(args.normalizer)
    options = PairingOptions(language=language, missing_as_empty=args.missing_as_empty)
    pairs = pair_transcripts(refs, hyps, normalizer, options)
    if args.normalizer in DROPS_EMPTY:
        pairs = _without_empty(pairs)
    report = make_report(pairs, by_speaker=args.by_speaker)
    of_lists = language or list_language(u.language for u in pairs)
    measures = measure(report, measure_options(scoring_options(args), of_lists))
    print(table(report))
    if args.normalizer == "maya" and "und" in {u.language for u in pairs}:
        print("texts without a language are compared as they are: name it with --language")
    print("\n" + measures_table(measures, groups=args.groups))
    if args.num_samples:
        print("\n" + sample_table(report, args.num_samples))
    if args.errors is not None:
        write_errors(report, args.errors)
    if args.html is not None:
        write_page(report, args.html, title=f"{args.hyp.name} against {(args.ref or args.hyp).name}")
    if args.json is not None:
        facts = {"ref": str(args.ref or args.hyp), "hyp": str(args.hyp), "normalizer": args.normalizer}
        write_result(report, args.json, facts | {"measures": measures_result(measures)})
    return report


def _read(args: argparse.Namespace) -> tuple[list[TranscriptRow], list[TranscriptRow]]:
    ref, ref_format = args.ref, args.ref_format
    if ref is None:
        of_json = (format_of(args.hyp) if args.hyp_format == "auto" else args.hyp_format) == "json"
        if not of_json or not holds_both(args.hyp):
            raise MayaError(f"{args.hyp} holds no references: give their file with --ref")
        ref, ref_format = args.hyp, args.hyp_format
    return read_transcripts(ref, "ref", ref_format), read_transcripts(args.hyp, "hyp", args.hyp_format)


def _without_empty(pairs: list[Utterance]) -> list[Utterance]:
    kept = [pair for pair in pairs if pair.ref]
    if len(kept) < len(pairs):
        print(f"{len(pairs) - len(kept)} utterances with an empty reference are left out")
    return kept


def _score_speakers(
    refs: list[TranscriptRow], hyps: list[TranscriptRow], args: argparse.Namespace
) -> dict[str, Any]:
    """Print and return cpWER and its relatives where there are words, and DER where there are times."""
    normalizer, language = make_normalizer(args.normalizer), args.language or ""
    scores: dict[str, Any] = {}
    rows = [["score", "%", "errors", "of", "sub", "del", "ins"]]
    if any(ref.text for ref in refs):
        normal = [[_normal(row, normalizer, language) for row in side] for side in (refs, hyps)]
        for s in meeting_errors(*normal, collar=args.collar):
            counts = {"errors": s.errors, "words": s.ref_length, "substitutions": s.substitutions}
            counts |= {"deletions": s.deletions, "insertions": s.insertions}
            scores[s.name] = {"rate": finite(s.rate), **counts}
            rows.append([s.name, percent(s.rate), *map(str, counts.values())])
    if len(rows) > 1:
        print("\n".join(columns(rows, aligned_left={0})))
        print(f"tcpWER: collar {args.collar:g} s; texts in the form {args.normalizer!r}")
    if all(row.speaker and row.start is not None for row in (*refs, *hyps)):
        d = diarization_errors(refs, hyps, collar=args.der_collar, overlap=not args.no_overlap)
        parts = {"missed": d.missed, "false_alarm": d.false_alarm, "confusion": d.confusion}
        scores["DER"] = {"rate": finite(d.rate), "speech": d.speech, **parts}
        scores["DER"] |= {"collar": d.collar, "overlap": d.overlap}
        print(
            f"DER {percent(d.rate)} %: {d.missed:.2f} s missed, {d.false_alarm:.2f} s false alarm, "
            f"{d.confusion:.2f} s confusion of {d.speech:.2f} s; collar {d.collar:g} s, "
            f"{'with' if d.overlap else 'without'} overlapping speech"
        )
    if not scores:
        raise MayaError("these files hold neither words nor times of speakers to score")
    if args.json is not None:
        write_json(args.json, {"ref": str(args.ref), "hyp": str(args.hyp), "scores": scores})
    return scores


def _normal(row: TranscriptRow, normalizer: Any, language: str) -> TranscriptRow:
    text = normalizer(row.text, row.language or language)
    return TranscriptRow(
        id=row.id, text=text, recording=row.recording, channel=row.channel, speaker=row.speaker,
        start=row.start, end=row.end, ignored=row.ignored,
    )  # fmt: skip
