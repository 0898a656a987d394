"""Diarization error rates of simulated meetings, and cpWER.

    python -m egs.diarization.evaluate SETS/test2 --dev SETS/dev2 --run RUN --out FILE

Systems: all speech by one speaker, which is what to beat; clusters of the embeddings of Resemblyzer (pip
install --no-deps resemblyzer) and of a run of egs/speakers, with our voice detector, offline and online; and
the end-to-end head of a run. Thresholds are the best ones on the meetings of --dev. DER is given with collar
0 and 0.25 s, each with overlapping speech. Of the sets of --words, the words that --recogniser writes get the
speakers of each system, as in `maya transcribe --speakers`, and meeteval computes cpWER. Intervals are 95 %
bootstraps over meetings.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import maya
from egs.heads.data import read_rows
from maya.align.speakers.config import SpeakersConfig
from maya.align.speakers.end_to_end import EndToEndSpeakers
from maya.align.speakers.words import name_words
from maya.audio.load import load_audio
from maya.audio.vad import VADConfig, speech_spans
from maya.decode.hypothesis import Hypothesis, SpeakerTurn
from maya.decode.transcription import Recording
from maya.errors import MayaError
from maya.files import write_json
from maya.pages import columns
from maya.recipes.speaker_options import open_voices, voice_weights
from maya.score import resampling
from maya.score.files.transcript import TranscriptRow
from maya.score.files.transcripts import read_transcripts
from maya.score.meetings.diarization import diarization_errors
from maya.score.meetings.words import meeting_errors
from maya.score.report import percent, span
from tools.bench.speakers import RATE, Computed, Meeting, rows

_THRESHOLDS = [round(0.3 + 0.04 * i, 2) for i in range(16)]
_PROBABILITIES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
COLLARS = (0.0, 0.25)
Turns = list[list[SpeakerTurn]]  # of each meeting
System = Callable[[Sequence[Meeting]], Turns]


def read_set(folder: Path) -> list[Meeting]:
    """The meetings that egs.diarization.data wrote."""
    refs = read_transcripts(folder / "ref.rttm", "ref")
    return [
        Meeting(
            id=row["id"], language=row["language"], audio=load_audio(row["audio"], RATE),
            turns=[SpeakerTurn(speaker=str(ref.speaker), start=ref.start or 0.0, end=ref.end or 0.0)
                   for ref in refs if ref.recording == row["id"]],
        )
        for row in read_rows(folder)
    ]  # fmt: skip


def error_sums(meetings: Sequence[Meeting], turns: Turns, collar: float) -> np.ndarray:
    """(meetings, 5) seconds: all errors, reference speech, missed, false alarm, confusion."""
    each = [
        diarization_errors(rows(m.id, m.turns), rows(m.id, own), collar=collar)
        for m, own in zip(meetings, turns, strict=True)
    ]
    parts = np.array([(e.missed, e.false_alarm, e.confusion, e.speech) for e in each])
    return np.stack([parts[:, :3].sum(1), parts[:, 3], *parts[:, :3].T], 1)


def best_threshold(
    name: str, dev: Sequence[Meeting], values: Sequence[float], turns: Callable[[float], Turns], usual: float
) -> float:
    """The threshold with the lowest DER on dev, collar 0; `usual` without meetings of dev."""
    if not dev:
        return usual
    sums = {value: error_sums(dev, turns(value), COLLARS[0]).sum(0) for value in values}
    best = min(values, key=lambda value: sums[value][0] / sums[value][1])
    print(f"{name}: threshold {best}, DER on dev {percent(sums[best][0] / sums[best][1])} %")
    return best


def clustered(name: str, weights: str, dev: Sequence[Meeting]) -> dict[str, System]:
    """By name, the turns by clusters: offline and online."""
    base, vad = SpeakersConfig(weights=weights), VADConfig()
    trials = [Computed(meeting, base, vad) for meeting in dev]

    def turns(items: Sequence[Computed], form: str, threshold: float) -> Turns:
        return [getattr(own, form)(replace(base, threshold=threshold)) for own in items]

    systems: dict[str, System] = {}
    for form in ("offline", "online"):
        best = best_threshold(
            f"{name}, {form}", dev, _THRESHOLDS, partial(turns, trials, form), base.threshold
        )
        systems[f"{name}, {form}"] = lambda meetings, form=form, best=best: turns(  # type: ignore[misc]
            [Computed(meeting, base, vad) for meeting in meetings], form, best
        )
    return systems


def end_to_end(run: Path, dev: Sequence[Meeting]) -> dict[str, System]:
    """By name, the turns of the head of a run."""
    model = EndToEndSpeakers(maya.load(run, "cpu").model)
    cfg, name = model.head.cfg, f"end to end, {model.head.cfg.speakers} speakers at most"

    def turns(meetings: Sequence[Meeting], threshold: float) -> Turns:
        model.head.cfg = replace(cfg, on=threshold, off=threshold)
        return [model.turns(meeting.audio) for meeting in meetings]

    best = best_threshold(name, dev, _PROBABILITIES, partial(turns, dev), cfg.on)
    return {name: lambda meetings: turns(meetings, best)}


def one_speaker(meetings: Sequence[Meeting]) -> Turns:
    """All speech by the same speaker: what a system has to beat."""
    return [
        [
            SpeakerTurn(speaker="A", start=span.start, end=span.end)
            for span in speech_spans(meeting.audio, RATE)
        ]
        for meeting in meetings
    ]


def systems_of(run: Path | None, voices: Path | None, dev: Sequence[Meeting]) -> dict[str, System]:
    """By name, what gives the turns of meetings."""
    systems: dict[str, System] = {"one speaker": one_speaker}
    encoders = {"Resemblyzer": ""} | ({} if voices is None else {voices.name: voice_weights(voices)})
    for name, weights in encoders.items():
        try:
            open_voices(weights)
        except MayaError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        systems |= clustered(name, weights, dev)
    return systems if run is None else systems | end_to_end(run, dev)


def score(
    meetings: Sequence[Meeting], diarized: Mapping[str, Turns]
) -> tuple[list[list[str]], dict[str, Any]]:
    """Rows of a table, and the figures."""
    table = [
        [
            "system",
            "DER %, collar 0",
            "missed",
            "false alarm",
            "confusion",
            "DER %, collar 0.25",
            "number right",
        ]
    ]
    figures: dict[str, Any] = {}
    for name, turns in diarized.items():
        cells: list[str] = []
        own: dict[str, Any] = {}
        for collar in COLLARS:
            sums = error_sums(meetings, turns, collar)
            rate, bounds = resampling.of_sums(sums, lambda s: s[:, 0] / s[:, 1])
            parts = dict(
                zip(
                    ("missed", "false alarm", "confusion"), sums[:, 2:].sum(0) / sums[:, 1].sum(), strict=True
                )
            )
            own[f"collar {collar:g}"] = {"der": rate, "interval": [bounds.low, bounds.high]} | parts
            cells += [
                f"{percent(rate)} {span(bounds)}",
                *(map(percent, parts.values()) if not collar else ()),
            ]
        counts = [(len({t.speaker for t in a}), m.speakers) for a, m in zip(turns, meetings, strict=True)]
        own["number_right"] = sum(a == b for a, b in counts) / len(counts)
        table.append([name, *cells, f"{own['number_right']:.0%}"])
        figures[name] = own
    return table, figures


def recognised(run: Path, folder: Path, meetings: Sequence[Meeting]) -> list[Hypothesis]:
    """The recognised text of each meeting, with the times of its words."""
    recognizer = maya.load(run, "cpu")
    recordings = [
        Recording(audio=row["audio"], id=row["id"], language=row["language"]) for row in read_rows(folder)
    ]
    hyps = {}
    for transcript in recognizer.transcribe_each(recordings):
        if transcript.hypothesis is None:
            raise MayaError(f"{transcript.id} was not recognised: {transcript.error}")
        hyps[transcript.id] = transcript.hypothesis
    return [hyps[meeting.id] for meeting in meetings]


def word_errors(
    folder: Path, meetings: Sequence[Meeting], hyps: Sequence[Hypothesis], diarized: Mapping[str, Turns]
) -> dict[str, dict[str, float]]:
    """By system, cpWER and its relatives, of words that get the speakers of the system's turns."""
    refs = read_transcripts(folder / "ref.stm", "ref")
    result = {}
    for name, turns in diarized.items():
        spoken = []
        for meeting, hyp, own in zip(meetings, hyps, turns, strict=True):
            for word in hyp.words:
                word.speaker = None
            name_words(hyp.words, own)
            spoken += [
                TranscriptRow(
                    id="", recording=meeting.id, speaker=word.speaker or "nobody", text=word.text,
                    start=word.start, end=word.end,
                )
                for word in hyp.words
            ]  # fmt: skip
        result[name] = {errors.name: errors.rate for errors in meeting_errors(refs, spoken)}
    return result


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Print the tables of all sets; returns the figures."""
    dev = [meeting for folder in args.dev for meeting in read_set(folder)]
    systems = systems_of(args.run, args.voices, dev)
    result: dict[str, Any] = {}
    for folder in [*args.sets, *args.words]:
        meetings = read_set(folder)
        diarized = {name: turns_of(meetings) for name, turns_of in systems.items()}
        table, figures = score(meetings, diarized)
        print(f"\n{folder.name}: {len(meetings)} meetings")
        print("\n".join(columns(table)))
        result[folder.name] = figures
        if folder in args.words:
            hyps = recognised(args.recogniser, folder, meetings)
            diarized["reference turns"] = [meeting.turns for meeting in meetings]
            words = word_errors(folder, meetings, hyps, diarized)
            names = list(next(iter(words.values())))
            lines = [[name, *(percent(rates[n]) for n in names)] for name, rates in words.items()]
            print("\n".join(columns([["speakers of", *(f"{name} %" for name in names)], *lines])))
            result[f"{folder.name}, words"] = words
    return result


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.diarization.evaluate",
        description=(__doc__ or "").split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("sets", type=Path, nargs="*", help="folders that egs.diarization.data made")
    add(
        "--words", type=Path, nargs="+", default=[], help="such folders, for cpWER as well; with --recogniser"
    )
    add("--dev", type=Path, nargs="+", default=[], help="such folders, for the thresholds of the clusters")
    add("--run", type=Path, help="a run with a diarization head")
    add("--voices", type=Path, metavar="RUN", help="a run of egs/speakers, or another speaker head")
    add("--recogniser", type=Path, metavar="RUN", help="for cpWER (maya-asr[meetings])")
    add("--out", type=Path, required=True, help="JSON file for the figures")
    args = parser.parse_args(argv)
    if bool(args.words) != (args.recogniser is not None):
        parser.error("--words and --recogniser belong together")
    try:
        write_json(args.out, evaluate(args))
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
