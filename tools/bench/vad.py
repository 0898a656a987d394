"""Voice detectors in noise: a trained one beside Silero's network, WebRTC's and energy.

    python -m tools.bench.vad --vad exp/vad/vad --data exp/vad/data --out vad

The recordings are the test table's, whose label `speech` has the times of speech (egs/vad); no speaker is in
the training data. Noise is added at levels of speech over noise, each over the speech alone. Columns, over
steps of 10 ms: the area under the ROC curve, with an interval over recordings; the share of wrong steps at
the detector's threshold of 0.5, and at the threshold where misses and false alarms are equal; the seconds
from the begin of speech, after 0.3 s of silence, until the window that shows it has ended (median and 95th
percentile), and the share of such begins that are missed for a second. WebRTC gives the number of its four
modes that say speech; it needs `pip install webrtcvad-wheels` and is left out without it.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maya.audio.noises import hum, pink_noise, telephone_tones, white_noise
from maya.audio.vad.detector import vad_model
from maya.audio.vad.silero import packaged_weights
from maya.data.measure.entry import Entry
from maya.data.table.spans import events_in
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.recipes.voice_detector import detector_of
from maya.score.tracks import roc_auc
from tools.bench.common import parser_of

RATE, STEP = 16000, 160
NOISES = ("white", "pink", "babble", "machine")
_QUIET = 30  # steps of silence before a begin of speech that counts
_LATEST = 100  # steps until a begin counts as missed
_DRAWS = 300
Array = NDArray[Any]
Detector = Callable[[Tensor], tuple[Array, int]]  # (N,) at 16 kHz → scores of windows (W,), window in samples


def network(text: str) -> Detector:
    """A detector as `--vad` of `maya transcribe` names it."""
    model = vad_model(*detector_of(text))

    def scores(audio: Tensor) -> tuple[Array, int]:
        whole = len(audio) // model.window * model.window
        probabilities, _ = model(audio[None, :whole], model.initial_state(1))
        return probabilities[0].numpy(), model.window

    return scores


def webrtc() -> Detector | None:
    """WebRTC's detector; None where it is not installed."""
    try:
        package = importlib.import_module("webrtcvad")
    except ImportError:
        return None

    def scores(audio: Tensor) -> tuple[Array, int]:
        window = 3 * STEP
        samples = (audio.clamp(-1, 1) * 32767).short().numpy()
        votes = np.zeros(len(samples) // window)
        for mode in range(4):
            detector = package.Vad(mode)
            for i in range(len(votes)):
                votes[i] += detector.is_speech(samples[i * window : (i + 1) * window].tobytes(), RATE)
        return votes / 4, window

    return scores


def noise_of(kind: str, samples: int, seed: int, others: Sequence[Tensor]) -> Tensor:
    """(samples,) of a kind of NOISES; babble is of six other recordings."""
    if kind == "white":
        return white_noise(samples, seed)
    if kind == "pink":
        return pink_noise(samples, seed, RATE)
    if kind == "machine":  # mains, tones and a fan
        return (
            0.7 * hum(samples, RATE) + telephone_tones(samples, seed, RATE) + pink_noise(samples, seed, RATE)
        )
    rng, noise = np.random.default_rng(seed), torch.zeros(samples)
    for i in rng.choice(len(others), min(6, len(others)), replace=False):
        voice = others[i].repeat(-(-samples // len(others[i])) + 1)
        noise += voice.roll(int(rng.integers(len(voice))))[:samples]
    return noise


def truth_of(entry: Entry, steps: int) -> Array:
    """(steps,) bool: whether somebody speaks in the middle of each step."""
    middle, speech = (np.arange(steps) + 0.5) * STEP / RATE, np.zeros(steps, bool)
    for _, start, end in events_in(entry.labels["speech"]):
        speech |= (middle >= start) & (middle < end)
    return speech


def with_noise(audio: Tensor, noise: Tensor, speech: Array, snr: float) -> Tensor:
    """(N,) + (N,), whose level is so many dB below that of the speech."""
    spoken = torch.from_numpy(np.repeat(speech, STEP))
    power = audio[: len(spoken)][spoken].square().mean()
    return audio + noise * (power / noise.square().mean() / 10 ** (snr / 10)).sqrt()


def on_steps(scores: Array, window: int, steps: int) -> Array:
    """Scores of windows as scores of steps; the last one lasts to the end."""
    middle = ((np.arange(steps) + 0.5) * STEP / window).astype(int)
    return scores[np.minimum(middle, len(scores) - 1)]


def delays(speech: Array, scores: Array, window: int, threshold: float) -> list[float]:
    """Seconds from each begin of speech after silence to the end of the first window at the threshold; inf
    for one that is missed."""
    waits = []
    for begin in np.flatnonzero(speech[1:] & ~speech[:-1]) + 1:
        if speech[max(0, begin - _QUIET) : begin].any() or begin < _QUIET:
            continue
        first, last = begin * STEP // window, min((begin + _LATEST) * STEP // window, len(scores))
        hits = np.flatnonzero(scores[first:last] >= threshold)
        waits.append(((first + hits[0] + 1) * window - begin * STEP) / RATE if len(hits) else float("inf"))
    return waits


def equal_error(speech: Array, scores: Array) -> tuple[float, float]:
    """(the error rate at which misses and false alarms are equal, its threshold)."""
    order = np.argsort(-scores, kind="stable")
    misses = 1 - np.cumsum(speech[order]) / max(speech.sum(), 1)
    alarms = np.cumsum(~speech[order]) / max((~speech).sum(), 1)
    i = int(np.abs(misses - alarms).argmin())
    return float((misses[i] + alarms[i]) / 2), float(scores[order][i])


def summary(items: Sequence[tuple[Array, Array, Array, int]]) -> dict[str, float]:
    """The figures of a detector: items are (truth, scores of steps, scores of windows, window)."""
    speech, scores = (np.concatenate([item[i] for item in items]) for i in (0, 1))
    rng, draws = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        drawn = [items[i] for i in rng.integers(len(items), size=len(items))]
        truth, own = (np.concatenate([item[i] for item in drawn]) for i in (0, 1))
        draws.append(roc_auc(own[~truth], own[truth]))
    equal, _ = equal_error(speech, scores)
    late = np.array([d for item in items for d in delays(item[0], item[2], item[3], 0.5)] or [np.nan])
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "auc": roc_auc(scores[~speech], scores[speech]), "low": low, "high": high,
        "error": float(((scores >= 0.5) != speech).mean()), "equal": equal,
        "delay": float(np.quantile(late, 0.5, method="lower")),
        "delay95": float(np.quantile(late, 0.95, method="lower")), "missed": float(np.isinf(late).mean()),
    }  # fmt: skip


def measure(
    detectors: dict[str, Detector], entries: Sequence[Entry], snrs: Sequence[float]
) -> list[dict[str, Any]]:
    """A row for each level and detector, over all kinds of noise and by kind."""
    audio = [e.load_audio(RATE) for e in entries]
    truths = [truth_of(e, len(a) // STEP) for e, a in zip(entries, audio, strict=True)]
    results = []
    for snr in snrs:
        by_name: dict[str, dict[str, list[Any]]] = {name: {} for name in detectors}
        for i, (own, truth) in enumerate(zip(audio, truths, strict=True)):
            kind = NOISES[i % len(NOISES)]
            others = audio[:i] + audio[i + 1 :]
            noisy = with_noise(own, noise_of(kind, len(own), i, others), truth, snr)
            noisy = noisy / noisy.abs().max().clamp(min=1.0)
            for name, detector in detectors.items():
                scores, window = detector(noisy)
                item = (truth, on_steps(scores, window, len(truth)), scores, window)
                by_name[name].setdefault(kind, []).append(item)
        for name, kinds in by_name.items():
            row = {"snr": snr, "detector": name} | summary([x for items in kinds.values() for x in items])
            row["by_noise"] = {kind: _auc(items) for kind, items in kinds.items()}
            results.append(row)
            print(_line(row), flush=True)
    return results


def _auc(items: Sequence[tuple[Array, Array, Array, int]]) -> float:
    speech, scores = (np.concatenate([item[i] for item in items]) for i in (0, 1))
    return roc_auc(scores[~speech], scores[speech])


def cost(detectors: dict[str, Detector]) -> dict[str, float]:
    """Processor seconds for a second of audio, without batches, on one thread."""
    audio, spent = 0.1 * white_noise(30 * RATE, 0), {}
    for name, detector in detectors.items():
        detector(audio)
        began = time.process_time()
        detector(audio)
        spent[name] = (time.process_time() - began) / 30
    return spent


def _line(row: dict[str, Any]) -> str:
    noises = ", ".join(f"{kind} {auc:.3f}" for kind, auc in row["by_noise"].items())
    return (
        f"| {row['snr']:g} dB | {row['detector']} | {row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}] | "
        f"{100 * row['error']:.1f} % | {100 * row['equal']:.1f} % | "
        f"{row['delay']:.2f} s, {row['delay95']:.2f} s | "
        f"{100 * row['missed']:.1f} % | {noises} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    add: Callable[..., argparse.Action] = parser.add_argument
    add("--vad", required=True, help="a run of egs/vad")
    add("--data", type=Path, required=True, help="its prepared data")
    add("--out", type=Path, required=True, help="folder for vad.json and vad.md")
    add("--snr", type=float, nargs="+", default=[20.0, 15.0, 10.0, 5.0, 0.0, -5.0])
    add("--recordings", type=int, default=40, help="of the test table at most")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        entries = list(Table.open(part_path(args.data, "test")).entries())[: args.recordings]
        if any("speech" not in e.labels for e in entries) or len(entries) < 2:
            raise MayaError(f"{args.data} has no test recordings with the label speech; see egs/vad")
        detectors: dict[str, Detector] = {"trained": network(args.vad)}
        if packaged_weights() is not None:
            detectors["Silero"] = network("silero")
        if (own := webrtc()) is not None:
            detectors["WebRTC"] = own
        detectors["energy"] = network("energy")
        heads = ["level", "detector", "AUC", "wrong at 0.5", "equal error", "delay, median, 95 %", "missed"]
        lines = [f"| {' | '.join([*heads, 'AUC by noise'])} |", "|---" * 8 + "|"]
        results = measure(detectors, entries, args.snr)
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    spent = cost(detectors)
    lines += [_line(row) for row in results]
    lines += ["", *(f"{name}: {seconds:.5f} processor seconds a second" for name, seconds in spent.items())]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "vad.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (args.out / "vad.json").write_text(json.dumps({"rows": results, "cost": spent}, indent=1) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
