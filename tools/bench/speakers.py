"""Who speaks when, measured on meetings that are joined from recordings of real speakers.

    python -m tools.bench.speakers FOLDER --seeds 3

FOLDER holds corpora as folders with a manifest.jsonl (id, language, speaker, audio, duration). Half of the
speakers of each language, drawn with the seed, choose the thresholds; meetings of the others are the test. A
meeting has 2 to 4 speakers of one language and 16 turns of 1 to 3 utterances (at least 1.5 s), with pauses of
0.1 to 0.3 s inside a turn and 0.2 to 1 s between turns. Levels are drawn anew for each turn (-32 to -20 dBFS
of speech), and white noise of -60 dBFS lies over all. Utterances are cut to the speech that the voice
detector finds in them alone; those with a pause above 0.3 s are left out. So the error is about who speaks,
and hardly about whether somebody does. DER is of all meetings together, its interval by bootstrap over
meetings; overlap does not occur.
"""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.align.speakers.clustering import OnlineClusters, cluster
from maya.align.speakers.config import SpeakersConfig
from maya.align.speakers.encoder import load_encoder
from maya.align.speakers.tracking import Group, SpeakerStream, speech_embeddings, turns_of
from maya.audio.load import load_audio
from maya.audio.vad.config import VADConfig
from maya.audio.vad.detector import SpeechDetector, speech_spans
from maya.decode.hypothesis import SpeakerTurn
from maya.score.files.transcript import TranscriptRow
from maya.score.meetings.diarization import diarization_errors
from tools.bench.common import command_of, finish, parser_of

RATE = 16000
_LEAST_SECONDS = 12.0  # of recordings of a speaker who takes part
_TURNS, _TURN_SECONDS, _PAUSE = 16, 1.5, 0.3
_THRESHOLDS = [round(0.5 + 0.02 * i, 2) for i in range(21)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """A meeting. audio: (N,) at 16 kHz; turns: who speaks when."""

    id: str
    language: str
    audio: Tensor
    turns: list[SpeakerTurn]

    @property
    def speakers(self) -> int:
        return len({turn.speaker for turn in self.turns})


def speakers_of(folder: Path, seed: int) -> tuple[dict[str, dict[str, list[Path]]], ...]:
    """(for thresholds, for the test): by language and speaker the files."""
    files: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for manifest in sorted(folder.glob("*/manifest.jsonl")):
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = f"{manifest.parent.name}/{row['language']}", row["speaker"]
            files[key[0]][key[1]].append(manifest.parent / row["audio"])
            seconds[key] += row["duration"]
    halves: tuple[dict[str, dict[str, list[Path]]], ...] = ({}, {})
    for language, own in sorted(files.items()):
        names = [name for name in sorted(own) if seconds[language, name] >= _LEAST_SECONDS]
        random.Random(f"{seed} {language}").shuffle(names)
        for half, part in zip(halves, (names[: len(names) // 2], names[len(names) // 2 :]), strict=True):
            if len(part) >= 2:
                half[language] = {name: own[name] for name in part}
    return halves


def speech_of(path: Path, vad: VADConfig) -> Tensor | None:
    """The recording (N,) from where speech begins to where it ends; None without speech, or with a pause of
    more than 0.3 s in it."""
    audio = load_audio(path, RATE)
    spans = speech_spans(audio, RATE, vad)
    if not spans or any(b.start - a.end > _PAUSE for a, b in zip(spans, spans[1:], strict=False)):
        return None
    return audio[round(spans[0].start * RATE) : round(spans[-1].end * RATE)]


def meeting(number: int, seed: int, speakers: dict[str, dict[str, list[Path]]], vad: VADConfig) -> Meeting:
    """One meeting; the same for the same numbers."""
    draw = random.Random(f"{seed} meeting {number}")
    language = sorted(speakers)[number % len(speakers)]
    own = speakers[language]
    names = draw.sample(sorted(own), min(len(own), draw.randrange(2, 5)))
    parts, at, turns, name = [torch.zeros(RATE // 2)], RATE // 2, [], ""
    order = [*names, *(draw.choice(names) for _ in range(_TURNS - len(names)))]
    for own_name in order:
        if own_name == name:
            continue
        name, begin, length = own_name, at, 0
        level = draw.uniform(-32, -20)
        while length < _TURN_SECONDS * RATE or draw.random() < 0.3:
            if (speech := speech_of(draw.choice(own[name]), vad)) is None:
                continue
            speech = speech * (10 ** (level / 20) / speech.square().mean().sqrt())
            pause = torch.zeros(round(draw.uniform(0.1, 0.3) * RATE) if length else 0)
            parts += [pause, speech]
            at += len(pause) + len(speech)
            length = at - begin
        turns.append(SpeakerTurn(speaker=name, start=begin / RATE, end=at / RATE))
        parts.append(torch.zeros(round(draw.uniform(0.2, 1.0) * RATE)))
        at += len(parts[-1])
    audio = torch.cat(parts)
    noise = 1e-3 * torch.randn(len(audio), generator=torch.Generator().manual_seed(number))
    return Meeting(id=f"m{number:03d}", language=language, audio=(audio + noise).clamp(-1, 1), turns=turns)


def rows(name: str, turns: Sequence[SpeakerTurn]) -> list[TranscriptRow]:
    """As the score takes them."""
    return [TranscriptRow(id="", text="", recording=name, speaker=t.speaker, start=t.start, end=t.end)
            for t in turns]  # fmt: skip


class Computed:
    """The embeddings of a meeting, cut as they come and as a whole, to be clustered again and again."""

    def __init__(self, item: Meeting, cfg: SpeakersConfig, vad: VADConfig) -> None:
        self.item, self.cfg = item, cfg
        encoder = load_encoder(cfg.weights)
        detector, self.stream = SpeechDetector(vad, RATE), SpeakerStream(cfg, RATE, encoder.rate)
        self.windows, parts = [], []
        blocks = [*item.audio.split(1280), torch.zeros(0)]
        for i, block in enumerate(blocks):
            detector.push(block)
            self.windows += self.stream.push(block, detector.tracker, last=i == len(blocks) - 1)
        parts = [encoder.embed([w.samples for w in self.windows[i : i + 64]])
                 for i in range(0, len(self.windows), 64)]  # fmt: skip
        self.live = torch.cat(parts) if parts else torch.zeros(0, 1)
        self.groups, self.whole = speech_embeddings(item.audio.split(RATE * 10), RATE, cfg, vad, encoder)

    def online(self, cfg: SpeakersConfig) -> list[SpeakerTurn]:
        """Turns by clusters as they come."""
        clusters, waiting, groups = OnlineClusters(cfg), list(zip(self.windows, self.live, strict=True)), []
        turns: list[SpeakerTurn] = []
        for group in self.stream._groups:  # after each of them its words would be shown
            for window, embedding in waiting[: len(group.windows)]:
                clusters.add(embedding, window.end - window.start)
            del waiting[: len(group.windows)]
            speakers = clusters.speakers[len(clusters.speakers) - len(group.windows) :]
            for window, speaker in zip(group.windows, speakers, strict=True):
                window.speaker = speaker
            groups.append(group)
            turns += [turn for turn in turns_of(groups[-20:]) if turn.end > group.start]
        return turns

    def offline(self, cfg: SpeakersConfig) -> list[SpeakerTurn]:
        """Turns by clusters of the whole."""
        windows = [window for group in self.groups for window in group.windows]
        seconds = torch.tensor([window.end - window.start for window in windows])
        for window, speaker in zip(windows, cluster(self.whole, seconds, cfg), strict=True):
            window.speaker = speaker
        return turns_of(self.groups)

    def best(self) -> list[SpeakerTurn]:
        """The windows' bound: each has the speaker who speaks most of it."""
        names = sorted({turn.speaker for turn in self.item.turns})
        groups = [Group(start=g.start, end=g.end, windows=g.windows) for g in self.groups]
        for window in (window for group in groups for window in group.windows):
            shares = [0.0] * len(names)
            for turn in self.item.turns:
                shares[names.index(turn.speaker)] += max(
                    0.0, min(turn.end, window.end) - max(turn.start, window.start)
                )
            window.speaker = int(np.argmax(shares))
        return turns_of(groups)


def measured(pairs: Sequence[tuple[Meeting, list[SpeakerTurn]]], collar: float) -> dict[str, Any]:
    """DER with its parts and interval, and how often the number of speakers is right."""
    each = [diarization_errors(rows(m.id, m.turns), rows(m.id, turns), collar=collar) for m, turns in pairs]
    wrong = np.array([e.missed + e.false_alarm + e.confusion for e in each])
    speech = np.array([e.speech for e in each])
    draws = np.random.default_rng(0).integers(0, len(each), (1000, len(each)))
    rates = wrong[draws].sum(1) / speech[draws].sum(1)
    counts = [len({turn.speaker for turn in turns}) - m.speakers for m, turns in pairs]
    percent = {name: round(float(100 * sum(getattr(e, name) for e in each) / speech.sum()), 2)
               for name in ("missed", "false_alarm", "confusion")}  # fmt: skip
    return {
        "der": round(float(100 * wrong.sum() / speech.sum()), 2),
        "interval": [round(float(100 * x), 2) for x in np.percentile(rates, [2.5, 97.5])], **percent,
        "count_right": f"{counts.count(0)}/{len(counts)}",
        "count_off_by": {str(k): counts.count(k) for k in sorted(set(counts))},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--meetings", type=int, default=24, help="of each half and seed")
    parser.add_argument("--weights", default="")
    parser.add_argument("--join", type=float, help="seconds, instead of the default")
    parser.add_argument("--vad", default="auto", help="the voice detector")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    cfg = SpeakersConfig(weights=args.weights)
    if args.join is not None:
        cfg.join_seconds = args.join
    vad = VADConfig(detector=args.vad)
    tested: dict[str, list[tuple[Meeting, list[SpeakerTurn]]]] = defaultdict(list)
    chosen = []
    for seed in range(args.seeds):
        halves = [
            [Computed(meeting(i, seed, half, vad), cfg, vad) for i in range(args.meetings)]
            for half in speakers_of(args.folder, seed)
        ]
        for form in ("online", "offline"):

            def turns(own: Computed, threshold: float, form: str = form) -> Any:
                return getattr(own, form)(replace(cfg, threshold=threshold))

            ders = {
                t: measured([(own.item, turns(own, t)) for own in halves[0]], 0.25)["der"]
                for t in _THRESHOLDS
            }
            best = min(ders, key=lambda t: ders[t])
            chosen.append({"seed": seed, "form": form, "threshold": best, "der_of_threshold": ders})
            tested[form] += [(own.item, turns(own, best)) for own in halves[1]]
            tested[f"{form}, default"] += [(own.item, turns(own, cfg.threshold)) for own in halves[1]]
        tested["windows with the right speaker"] += [(own.item, own.best()) for own in halves[1]]
        tested["one speaker"] += [
            (own.item, [replace(t, speaker="A") for t in own.best()]) for own in halves[1]
        ]
    result: dict[str, Any] = {"chosen": chosen}
    for collar in (0.25, 0.0):
        result[f"collar {collar}"] = {form: measured(pairs, collar) for form, pairs in tested.items()}
    languages = sorted({m.language for m, _ in tested["online"]})
    result["by language, collar 0.25"] = {
        form: {
            language: measured([p for p in tested[form] if p[0].language == language], 0.25)["der"]
            for language in languages
        }
        for form in ("online", "offline")
    }
    finish(result, "speakers", command_of("speakers", argv), args.out)


if __name__ == "__main__":
    main()
