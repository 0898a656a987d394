"""Mixtures: a function of seed, epoch and utterance, of several speakers, at the level that was asked for."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from maya.data.loading.augment import NoiseConfig
from maya.data.loading.mixing import MIXTURE, FixedMixture, Mixer, MixingConfig, at_level
from maya.data.table.labels import LabelColumns
from maya.data.table.utterances import Utterances
from maya.errors import MayaError

RATE = 8000
AUDIO = [torch.sin(torch.arange(800 + 100 * i) * (0.1 + 0.05 * i)) * 0.2 for i in range(6)]


def utterances(speakers: Sequence[str | None], labels: Sequence[str | None] | None = None) -> Utterances:
    rows: list[dict[str, str | None]] = [{"speaker": name} for name in speakers]
    for row, label in zip(rows, labels or (), strict=False):
        row[MIXTURE] = label
    count = len(speakers)
    empty: Any = None
    return Utterances(
        [f"u{i}" for i in range(count)], np.ones(count), np.zeros(count, np.int64), np.zeros(count, np.int64),
        empty, empty, LabelColumns.of_rows(rows),
    )  # fmt: skip


def mixer(speakers: Sequence[str | None] = "aabbcc", crop: bool = False, **options: Any) -> Mixer:
    labels = options.pop("labels", None)
    cfg = MixingConfig(**{"sources": 2, **options})
    return Mixer(cfg, utterances(speakers, labels), RATE, crop=crop)


def mix(made: Mixer, item: int = 0, epoch: int = 0) -> Any:
    return made(item, AUDIO[item], epoch, AUDIO.__getitem__)


def test_a_mixture_is_the_sum_of_its_sources_and_repeats_itself() -> None:
    first, again, later = mix(mixer()), mix(mixer()), mix(mixer(), epoch=1)
    assert torch.equal(first.mixture, again.mixture) and torch.equal(first.sources, again.sources)
    assert torch.allclose(first.mixture, first.sources.sum(0), atol=1e-6)
    assert first.mixture.shape != later.mixture.shape or not torch.equal(first.mixture, later.mixture)
    assert float(first.mixture.abs().max()) <= 0.9 + 1e-6


def test_partners_are_other_speakers_each_of_another() -> None:
    made = mixer("aabbcc", sources=3)
    for item in range(6):
        for epoch in range(5):
            rng = np.random.default_rng(epoch)
            partners = made.partners(item, rng)
            assert sorted({item // 2, *(p // 2 for p in partners)}) == [0, 1, 2]


def test_the_level_of_the_first_over_the_other_is_within_the_range() -> None:
    made = mixer(snr_db=(3.0, 3.0))
    sources = mix(made).sources
    full = made.cfg.mode == "min"
    ratio = 10 * torch.log10(sources[0].square().mean() / sources[1].square().mean())
    assert full and float(ratio) == pytest.approx(3.0, abs=0.2)  # of whole signals; the mixture is a part


def test_min_cuts_and_max_pads() -> None:
    short = mix(mixer("ab", mode="min"), 1)
    assert short.mixture.shape == (800,) and short.sources.shape == (2, 800)
    long = mix(mixer("ab", mode="max"), 0)
    assert long.mixture.shape == (900,) and not long.sources[0, 800:].any()


def test_training_takes_parts_and_evaluation_all() -> None:
    assert mix(mixer(crop=True, seconds=0.05)).mixture.shape == (400,)
    assert mix(mixer(seconds=0.05)).mixture.shape[0] >= 800


def test_noise_is_in_the_mixture_and_in_no_source(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "n.wav", np.random.default_rng(0).normal(0, 0.1, 4000), RATE)
    noise = NoiseConfig(folders=(str(tmp_path),), prob=1.0, snr_db=(6.0, 6.0))
    made = mix(mixer(noise=noise))
    rest = made.mixture - made.sources.sum(0)
    ratio = made.sources.sum(0).square().mean() / rest.square().mean()
    assert float(10 * torch.log10(ratio)) == pytest.approx(6.0, abs=0.01)


def test_a_label_says_what_is_mixed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s2.wav", np.full(1000, 0.25), RATE)
    soundfile.write(tmp_path / "n.wav", np.full(700, 0.125), RATE)
    label = FixedMixture(0.5, (("s2.wav", 2.0),), ("n.wav", 1.0)).resolved(tmp_path).write()
    made = mixer("aa", labels=[label, label], mode="max")
    mixed = made(0, torch.full((800,), 0.2), 3, AUDIO.__getitem__)
    scale = 0.9 / (0.1 + 0.5 + 0.125) if 0.1 + 0.5 + 0.125 > 0.9 else 1.0
    assert torch.allclose(mixed.sources[0, :800], torch.full((800,), 0.1 * scale), atol=1e-3)
    assert torch.allclose(mixed.sources[1], torch.full((1000,), 0.5 * scale), atol=1e-3)
    assert torch.allclose(mixed.mixture[:700], torch.full((700,), 0.725 * scale), atol=1e-3)
    assert FixedMixture.read(label).noise == (str(tmp_path / "n.wav"), 1.0)


@pytest.mark.parametrize("label", ["", "[]", '{"gain": 1}', '{"gain": "x", "others": []}', "{"])
def test_a_label_that_is_none_is_named(label: str) -> None:
    with pytest.raises(MayaError, match="the label 'mixture' is"):
        FixedMixture.read(label)


def test_a_silent_signal_stays_as_it_is() -> None:
    silence = torch.zeros(100)
    assert not at_level(silence, AUDIO[0], 0.0).any()
    assert torch.equal(at_level(AUDIO[0], silence, 0.0), AUDIO[0])


def test_data_that_cannot_be_mixed_are_refused() -> None:
    with pytest.raises(MayaError, match="need data of as many; the data name 1"):
        mixer("aaaa")
    with pytest.raises(MayaError, match="sources=9 is no mixture"):
        mixer(sources=9)
    label = FixedMixture(1.0, (), None).write()
    with pytest.raises(MayaError, match="has 1 sources, and data.mixing.sources is 2"):
        mix(mixer("ab", labels=[label, label]))
    lonely = mixer("ab")
    lonely.speakers = np.zeros_like(lonely.speakers)
    with pytest.raises(MayaError, match="nearly all of the data is of one speaker"):
        lonely.partners(0, np.random.default_rng(0))
    assert dataclasses.asdict(MixingConfig())["sources"] == 0
