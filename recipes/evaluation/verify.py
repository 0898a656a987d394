"""`maya verify`: is it the same voice?

maya verify RUN a.wav b.wav
maya verify RUN voices.json unknown.wav
maya verify RUN --trials voxceleb1_test.txt --root wav --json verify.json --calibration run/voices-scale.json
maya verify RUN --trials LIST --cohort cohort.json --quality --calibration scale.json   # then:
maya verify RUN --trials OTHER --cohort cohort.json --scale scale.json
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from maya.align.speakers.encoder import VoiceEncoder
from maya.align.speakers.enrolment import EnrolledVoices, MeasuredVoice, measured_voice, recording_voice
from maya.align.speakers.trained import TrainedVoices
from maya.errors import MayaError
from maya.files import read_json, write_json
from maya.pages import columns, line_chart, page
from maya.recipes.arguments import add_json, add_list
from maya.recipes.evaluation.enroll import RUN_HELP
from maya.recipes.speaker_options import open_voices, voice_weights
from maya.score.report import percent, span
from maya.score.verification import (
    ScoreCalibration,
    VerificationTrial,
    as_norm,
    calibrated,
    error_curve,
    quality_measures,
    read_trials,
    verification_rates,
)


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    text = "two recordings; or a file of voices that `maya enroll` wrote, and recordings"
    add_list(p, "audio", metavar="FILE", type=Path, help=text)
    text = "a list of trials, '1 ENROL TEST' or 'ENROL TEST target' a line; compute EER and minDCF"
    p.add_argument("--trials", type=Path, metavar="LIST", help=text)
    p.add_argument("--root", type=Path, default=Path(), help="folder that the paths of --trials begin in")
    text = "with --trials: voices of other speakers, best those of training, to normalise scores by (AS-norm)"
    p.add_argument("--cohort", type=Path, metavar="FILE", help=text)
    text = "scale of likelihood ratios: written with --trials, and otherwise read"
    p.add_argument("--calibration", type=Path, metavar="FILE", help=text)
    text = "with --cohort and --calibration: a scale that also follows durations, magnitudes and the cohort"
    p.add_argument("--quality", action="store_true", help=text)
    text = "with --trials: score by a scale that --calibration wrote for other trials"
    p.add_argument("--scale", type=Path, metavar="FILE", help=text)
    p.add_argument("--page", type=Path, metavar="FILE", help="with --trials: an HTML page with the DET curve")
    add_json(p, "with --trials: write the measures to this file")


def run(args: argparse.Namespace) -> None:
    if args.trials is None and len(args.audio) < 2:
        raise MayaError("name two recordings, or a file of voices and recordings, or a list with --trials")
    if args.trials is not None and args.audio:
        raise MayaError("--trials compares the recordings of its list: name no others")
    if args.trials is None and (args.cohort or args.scale or args.page or args.json):
        raise MayaError("--cohort, --scale, --page and --json belong to --trials")
    if args.quality and not (args.cohort and args.calibration):
        raise MayaError("--quality needs --cohort and --calibration")
    trials = None if args.trials is None else read_trials(args.trials)
    encoder = open_voices(voice_weights(args.run))
    if trials is not None:
        verify_trials(trials, encoder, args)
    else:
        scale = None if args.calibration is None else read_calibration(args.calibration)
        compare(encoder, args.audio[0], args.audio[1:], scale)


def compare(
    encoder: VoiceEncoder | TrainedVoices, first: Path, others: Sequence[Path], scale: ScoreCalibration | None
) -> list[tuple[str, str, float]]:
    """Print and return (recording, voice, score), for each recording the most alike voice first. first: a
    recording, or a file of voices."""
    if scale is not None and scale.cohort:
        raise MayaError("this calibration was fitted with --cohort: fit one without, for single recordings")
    if first.is_file() and first.open("rb").read(1) == b"{":
        voices = EnrolledVoices.load(first, encoder).voices
    else:
        voices = {str(first): recording_voice(encoder, first)}
    rows, results = [], []
    for path in others:
        own = recording_voice(encoder, path)
        scores = {name: float(voice @ own) for name, voice in voices.items()}
        for name in sorted(scores, key=lambda name: -scores[name]):
            results.append((str(path), name, scores[name]))
            ratio = "" if scale is None else _ratio(float(scale(np.array([scores[name]]))[0]))
            rows.append([str(path), name, f"{scores[name]:.3f}", ratio])
    print("\n".join(columns([["recording", "voice", "cosine", "" if scale is None else "verdict"], *rows])))
    return results


def _ratio(value: float) -> str:
    times = math.exp(min(abs(value), 30.0))
    return f"{'the same' if value > 0 else 'another'} speaker, {times:.1f} to 1 at even odds"


def read_calibration(path: Path) -> ScoreCalibration:
    """Raises MayaError for a file of another kind."""
    try:
        content = read_json(path)
        slope = content["slope"]
        slopes = tuple(map(float, slope)) if isinstance(slope, list) else float(slope)
        return ScoreCalibration(slopes, float(content["offset"]), bool(content.get("cohort")))
    except (ValueError, LookupError, TypeError):
        raise MayaError(
            f"{path} is no calibration: `maya verify RUN --trials LIST --calibration FILE` writes one"
        ) from None


def embed_all(
    encoder: VoiceEncoder | TrainedVoices, trials: Sequence[VerificationTrial], root: Path
) -> dict[str, MeasuredVoice]:
    """The voice of each recording of the trials, by its name in the list."""
    names = dict.fromkeys(name for trial in trials for name in (trial.enrol, trial.test))
    return {name: measured_voice(encoder, root / name) for name in names}


class TrialScores:
    """Scores of trials from voices (E,) by name. With a cohort (c, E) of voices of other speakers, its mean
    is subtracted from all voices first, and `top` of it are the nearest of each side: a fifth, at most 300.
    """

    def __init__(
        self, trials: Sequence[VerificationTrial], voices: Mapping[str, Tensor], cohort: Tensor | None = None
    ) -> None:
        rows = {name: number for number, name in enumerate(voices)}
        table = torch.stack(list(voices.values())).double()
        self.sides = [
            [rows[name] for name in names] for names in zip(*((t.enrol, t.test) for t in trials), strict=True)
        ]
        self.against: tuple[np.ndarray, np.ndarray] | None = None
        self.top = 0
        if cohort is not None:
            mean = cohort.double().mean(0)
            table, cohort = (normalize(x.double() - mean, dim=1) for x in (table, cohort))
            against = (table @ cohort.T).numpy()
            self.against = against[self.sides[0]], against[self.sides[1]]
            self.top = max(2, min(300, len(cohort) // 5))
        self.cosines: np.ndarray = (table[self.sides[0]] * table[self.sides[1]]).sum(1).numpy()

    def normalised(self) -> np.ndarray:
        """(n,) by AS-norm, or the cosines where no cohort was given."""
        return self.cosines if self.against is None else as_norm(self.cosines, *self.against, self.top)

    def measures(self, voices: Mapping[str, MeasuredVoice]) -> np.ndarray:
        """(n, 7) of `quality_measures`; needs a cohort. voices: those of the scores."""
        assert self.against is not None
        facts = np.array([(voice.seconds, voice.magnitude) for voice in voices.values()])
        seconds, magnitudes = (np.stack([x[side] for side in self.sides], 1) for x in facts.T)
        return quality_measures(self.normalised(), seconds, magnitudes, *self.against, self.top)


def scores_of(
    scores: TrialScores, voices: Mapping[str, MeasuredVoice], scale: ScoreCalibration
) -> np.ndarray:
    """(n,) log-likelihood ratios. Raises MayaError for a scale of scores that were made otherwise."""
    if scale.cohort != (scores.against is not None):
        fitted, now = ("with", "without") if scale.cohort else ("without", "with")
        raise MayaError(f"this scale was fitted {fitted} --cohort and cannot be used {now}")
    return scale(scores.measures(voices) if isinstance(scale.slope, tuple) else scores.normalised())


def verify_trials(
    trials: Sequence[VerificationTrial], encoder: VoiceEncoder | TrainedVoices, args: argparse.Namespace
) -> dict[str, Any]:
    """Print and return the measures of a list of trials."""
    voices = embed_all(encoder, trials, args.root)
    cohort = None if args.cohort is None else EnrolledVoices.load(args.cohort, encoder).table()
    system = TrialScores(trials, {name: own.voice for name, own in voices.items()}, cohort)
    scale = None if args.scale is None else read_calibration(args.scale)
    scores = system.normalised() if scale is None else scores_of(system, voices, scale)
    same = np.array([trial.same for trial in trials])
    rates = verification_rates(scores, same, [trial.speakers for trial in trials])
    names = {"eer": "EER %", "dcf01": "minDCF 0.01", "dcf05": "minDCF 0.05"}
    rows = []
    for key, (value, bounds) in rates.items():
        shown = percent(value) if key == "eer" else f"{value:.3f}"
        limits = span(bounds) if key == "eer" else f"[{bounds.low:.3f}, {bounds.high:.3f}]"
        rows.append([names[key], shown, limits if math.isfinite(bounds.low) else "(speakers not named)"])
    print("\n".join(columns([["", f"{len(trials)} trials", "95 %, by speaker"], *rows])))
    result: dict[str, Any] = {key: [value, bounds.low, bounds.high] for key, (value, bounds) in rates.items()}
    result |= {"trials": len(trials), "targets": int(same.sum())}
    if args.calibration is not None:
        scale = calibrated(system.measures(voices) if args.quality else scores, same)
        write_json(args.calibration, {
            "slope": scale.slope, "offset": scale.offset, "cohort": cohort is not None
        })  # fmt: skip
    if args.page is not None:
        args.page.write_text(det_page(scores, same, str(args.trials)), encoding="utf-8")
    if args.json is not None:
        write_json(args.json, result)
    return result


def det_page(scores: np.ndarray, same: np.ndarray, title: str) -> str:
    """A page with misses against false alarms, both in % of a normal scale's place."""
    curve = error_curve(scores, same)
    points = list(zip(_probit(curve.false_alarms), _probit(curve.misses), strict=True))
    chart = line_chart({"misses": points}, title="misses against false alarms, both as probit")
    return page(f"DET of {title}", [chart])


def _probit(shares: np.ndarray) -> list[float]:
    inside = torch.from_numpy(np.clip(shares, 1e-5, 1 - 1e-5))
    return torch.special.ndtri(inside).tolist()
