"""Heads of single frames: events and pitch, their labels, targets, tracks and streams."""

from typing import Any

import numpy as np
import pytest
import torch

from maya.data.table.spans import events_in
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import EventConfig, HeadContext, LossStep, PitchConfig
from maya.heads.frames import BINS, bins_of, events_of, hertz_of, pitch_in
from tests.heads.test_classify import ENCODERS, batch_of, encoded_of, model_of


def events(**options: Any) -> EventConfig:
    return EventConfig(label="sounds", classes=("laugh", "cough"), **options)


def head_of(cfg: Any, dim: int = 4) -> Any:
    return cfg.build(HeadContext(dim=dim, labels=3, blank=3, hidden_dims=(dim, dim), frame_seconds=0.04))


def test_labels_of_events() -> None:
    assert events_in("0.32-0.51 laugh; 1.2-1.9 cough") == [("laugh", 0.32, 0.51), ("cough", 1.2, 1.9)]
    assert events_in("cough") == [("cough", 0.0, float("inf"))]
    assert events_in("none") == events_in(None) == []
    assert events_in("0.1-0.2 clear throat") == [("clear throat", 0.1, 0.2)]
    with pytest.raises(MayaError, match="no list of events"):
        events_in("0.1-0.2 laugh;")


def test_labels_of_pitch() -> None:
    seconds, hertz = pitch_in("0.01 0 121.5 122")
    assert seconds == 0.01 and hertz.tolist() == [0.0, 121.5, 122.0]
    for wrong in ("", "0.01", "high 3", "0 100"):
        with pytest.raises(MayaError, match="no pitch such as"):
            pitch_in(wrong)


def test_targets_of_events_follow_the_speed() -> None:
    """Played twice as fast, an event comes in half the time."""
    head = head_of(events(upsampling=2))
    batch = batch_of([0.4, 0.4, 0.4], {"sounds": ["0.1-0.2 laugh", "0.1-0.2 laugh; cough", None]})
    targets, has = head.targets(batch, 20)
    assert has.tolist() == [True, True, False]
    assert targets[0, :, 0].nonzero()[:, 0].tolist() == [5, 6, 7, 8, 9] and targets[0, :, 1].sum() == 0
    assert targets[1, :, 1].all()
    batch.speeds = [2.0, 1.0, 1.0]
    assert head.targets(batch, 20)[0][0, :, 0].nonzero()[:, 0].tolist() == [2, 3, 4]


def test_targets_of_pitch_follow_the_speed() -> None:
    head = head_of(PitchConfig(upsampling=4))
    label = "0.01 " + " ".join(["0"] * 10 + ["200"] * 10)
    batch = batch_of([0.2], {"f0": [label]})
    hertz, has = head.targets(batch, 24)
    assert has.all() and hertz[0].tolist() == [0.0] * 10 + [200.0] * 10 + [0.0] * 4
    batch.speeds = [2.0]
    assert head.targets(batch, 12)[0][0].tolist() == [0.0] * 5 + [400.0] * 5 + [0.0] * 2


def test_bins_are_those_of_crepe() -> None:
    assert float(bins_of(torch.tensor(31.7))) == pytest.approx(0.0, abs=0.1)
    assert float(bins_of(torch.tensor(2005.5))) == pytest.approx(359.0, abs=0.1)
    hertz = torch.tensor([80.0, 123.4, 440.0])
    near = torch.arange(BINS) - bins_of(hertz)[:, None]
    hits = hertz_of((-0.5 * (near / 1.25).square()).softmax(-1))
    cents = 1200 * torch.log2(hits / hertz)
    assert cents.abs().max() < 2


def test_events_have_hysteresis_gaps_and_a_shortest_length() -> None:
    head = head_of(events(gap_seconds=0.09, min_seconds=0.1))
    p = torch.tensor([0.1, 0.6, 0.4, 0.35, 0.1, 0.7, 0.4, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.4, 0.4])
    hits = events_of("laugh", p, head.seconds, head.cfg)
    assert [(round(e.start, 2), round(e.end, 2)) for e in hits] == [(0.04, 0.28)]
    assert hits[0].probability == pytest.approx(0.7)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", ["events", "pitch"])
def test_a_row_alone_equals_the_row_in_a_batch_and_a_stream(encoder: str, kind: str) -> None:
    cfg: Any = events(upsampling=3, hidden=8) if kind == "events" else PitchConfig(upsampling=2)
    model = model_of(encoder, own=cfg)
    head, batch = model.head("own"), batch_of([1.3, 0.6])
    with torch.no_grad():
        encoded = encoded_of(model, batch)
        tracks = head.track(encoded)
        size = int(batch.audio_lens[1])
        alone = model.encode_audio(batch.audio[1:, :size], batch.audio_lens[1:])
        (own,) = head.track(alone)
        assert own.values.shape == tracks[1].values.shape
        if kind == "events":
            torch.testing.assert_close(own.values, tracks[1].values, atol=2e-5, rtol=1e-4)
        stream, lens = head.stream(), int(encoded.lens[0])
        for a, b in ((0, 3), (3, 3), (3, lens)):
            stream.push(Encoded(encoded.frames[:1, a:b], torch.tensor([b - a])))
        track = stream.track()
        assert track is not None and stream.prediction() is None
        torch.testing.assert_close(track.values, tracks[0].values, atol=1e-4, rtol=1e-4)
        assert track.events == pytest.approx(tracks[0].events)


@pytest.mark.parametrize("kind", ["events", "pitch"])
def test_frame_heads_learn(kind: str) -> None:
    torch.manual_seed(0)
    frames = torch.randn(6, 10, 4)
    lens = torch.tensor([10, 10, 10, 10, 10, 7])
    if kind == "events":
        rows = [np.flatnonzero(row).tolist() for row in (frames[..., 0] > 0).numpy()]
        labels = ["; ".join(f"{s / 25:.2f}-{(s + 1) / 25:.2f} laugh" for s in row) or "none" for row in rows]
        head, batch = head_of(events(hidden=16)), batch_of([0.4] * 6, {"sounds": [*labels[:-1], None]})
    else:
        hertz = 150 + 60 * frames[..., 0].tanh()
        labels = ["0.04 0 " + " ".join(f"{h:.2f}" for h in row) for row in hertz.tolist()]
        head, batch = head_of(PitchConfig(hidden=32)), batch_of([0.4] * 6, {"f0": [*labels[:-1], None]})
    optimizer, first = torch.optim.Adam(head.parameters(), 0.02), None
    for _ in range(80):
        optimizer.zero_grad()
        losses = head.losses(Encoded(frames, lens), batch, LossStep())
        total = head.total(losses, 0)
        total.sum().backward()
        optimizer.step()
        first = total.sum().item() if first is None else first
    assert total.sum().item() < 0.6 * first and total[-1] == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_frame_heads_of_layers_cannot_stream() -> None:
    with pytest.raises(MayaError, match="gives no hidden states"):
        head_of(PitchConfig(layers="all")).stream()


def test_a_head_needs_its_names() -> None:
    with pytest.raises(MayaError, match="needs the name of a label"):
        head_of(EventConfig(classes=("a",)))
