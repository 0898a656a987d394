"""Simulated meetings: reproducible, with the speakers, pauses and overlaps that were asked for."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from maya.data.loading.meetings import TURNS, MeetingConfig, MeetingMixer, SimulatedMeeting
from maya.data.table.labels import LabelColumns
from maya.data.table.spans import events_in
from maya.data.table.utterances import Utterances
from maya.errors import MayaError

RATE, FILES = 100, 12  # Hz, and utterances of each speaker
QUIET: dict[str, Any] = {"floor_db": (-120.0, -120.0), "level_db": (0.0, 0.0)}


def mixer(people: int = 6, languages: int = 1, **options: Any) -> MeetingMixer:
    """Utterances of 3.0 to 5.2 s, the first and the last 0.5 s of which are not speech by their labels."""
    rows: list[dict[str, str | None]] = [
        {"speaker": f"p{i // FILES}", TURNS: f"0.5-{seconds(i) - 0.5:.2f} speech"}
        for i in range(people * FILES)
    ]
    count = len(rows)
    empty: Any = None
    langs = np.arange(count) // FILES % languages
    ids = [f"u{i}" for i in range(count)]
    utterances = Utterances(
        ids, np.ones(count), langs, np.zeros(count, np.int64), empty, empty, LabelColumns.of_rows(rows)
    )
    return MeetingMixer(MeetingConfig(**{"speakers": (2, 4), **QUIET, **options}), utterances, RATE)


def seconds(item: int) -> float:
    return 3.0 + 0.2 * (item % FILES)


def audio_of(item: int) -> torch.Tensor:
    """A constant that names the speaker, within the speech; 0 around it."""
    audio = torch.zeros(round(seconds(item) * RATE))
    audio[50:-50] = 0.01 * (1 + item // FILES)
    return audio


def meeting(made: MeetingMixer, item: int = 0, epoch: int = 0) -> SimulatedMeeting:
    return made.meeting(item, audio_of(item), epoch, audio_of)


def shares(meetings: list[SimulatedMeeting]) -> tuple[float, float]:
    """The share of the time with speech in which two or more speak, and the mean pause in seconds."""
    speech = overlapped = 0.0
    pauses = []
    for made in meetings:
        grid = np.zeros(round(made.turns[-1].end * 100) + 2000, int)
        for turn in made.turns:
            grid[round(turn.start * 100) : round(turn.end * 100)] += 1
        speech, overlapped = speech + (grid > 0).sum(), overlapped + (grid > 1).sum()
        ends = np.maximum.accumulate([turn.end for turn in made.turns])
        gaps = [turn.start - end for end, turn in zip(ends, made.turns[1:], strict=False)]
        pauses += [gap for gap in gaps if gap > 0]
    return overlapped / speech, float(np.mean(pauses))


def test_a_meeting_is_a_function_of_seed_epoch_and_utterance() -> None:
    first, again, later = meeting(mixer()), meeting(mixer()), meeting(mixer(), epoch=1)
    assert torch.equal(first.audio, again.audio) and first.turns == again.turns
    assert later.turns != first.turns and meeting(mixer(seed=1)).turns != first.turns
    assert first.turns[0].item == 0 and first.turns[0].speaker == 0


def test_turns_lie_where_the_audio_has_them() -> None:
    made = meeting(mixer(overlap=0.0, level_db=(0.0, 0.0)), 5)
    for turn in made.turns:
        assert turn.item // FILES == turn.speaker
        part = made.audio[round(turn.start * RATE) + 2 : round(turn.end * RATE) - 2]
        assert float(part.min()) == pytest.approx(float(part.max()), abs=1e-4) and float(part.min()) > 0.005
    silence = torch.ones(len(made.audio), dtype=torch.bool)
    for turn in made.turns:
        silence[round(turn.start * RATE) - 2 : round(turn.end * RATE) + 2] = False
    assert float(made.audio[silence].abs().max()) < 1e-4


def test_all_speakers_speak_each_alone_with_itself() -> None:
    for item in range(0, 60, 7):
        made = meeting(mixer(overlap=0.3), item)
        names = {turn.speaker for turn in made.turns}
        assert 2 <= len(names) <= 4 and item // FILES in names
        for name in names:
            own = [turn for turn in made.turns if turn.speaker == name]
            assert all(b.start >= a.end - 1e-9 for a, b in pairwise(own))
        assert all(turn.end <= 30.0 for turn in made.turns[4:])


@pytest.mark.parametrize(("overlap", "pause"), [(0.0, 0.3), (0.1, 0.5), (0.2, 1.0)])
def test_overlap_and_pauses_are_those_asked_for(overlap: float, pause: float) -> None:
    made = mixer(overlap=overlap, pause_seconds=pause, seconds=60.0)
    share, mean = shares([meeting(made, item) for item in range(60)])
    assert share == pytest.approx(overlap, abs=0.03)
    assert mean == pytest.approx(pause, rel=0.2)


def test_speakers_are_of_one_language_where_enough_are() -> None:
    two = mixer(languages=2)
    for item in range(0, 60, 7):
        voices = two.voices(item, np.random.default_rng(item))
        own = {voice % 2 for voice in voices}
        assert len(own) == 1 if len(voices) <= 3 else len(own) == 2


def test_the_label_has_each_speakers_spans() -> None:
    made = mixer()
    mixed = made(0, audio_of(0), 0, audio_of)
    label, turns = events_in(mixed.labels[TURNS]), meeting(made).turns
    assert mixed.sources is None and torch.equal(mixed.mixture, meeting(made).audio)
    assert [(name, round(a, 3)) for name, a, _ in label] == [
        (f"s{t.speaker}", round(t.start, 3)) for t in turns
    ]


def test_data_without_enough_named_speakers_are_refused() -> None:
    with pytest.raises(MayaError, match="need utterances of as many"):
        mixer(people=3)
    with pytest.raises(MayaError, match="at least one speaker"):
        MeetingMixer(MeetingConfig(speakers=(0, 2)), mixer().utterances, RATE)
