"""Streamed features equal those of the whole audio."""

import random

import pytest
import torch

from maya.errors import MayaError
from maya.features import LogMel, LogMelConfig, LogMelStream


@pytest.mark.parametrize(
    ("options", "samples"),
    [
        ({}, 24_000),
        ({}, 23_987),
        ({}, 399),
        ({}, 160),
        ({}, 159),
        ({"n_fft": 1024, "preemphasis": 0.0}, 9_000),
    ],
)
def test_chunks_of_any_size_equal_the_whole(options, samples):
    logmel = LogMel(LogMelConfig(normalize="none", **options)).eval()
    audio = torch.randn(2, samples)
    whole, lens = logmel(audio, torch.tensor([samples, samples]))
    sizes = random.Random(samples)
    stream = LogMelStream(logmel)
    for _ in range(2):  # a finished stream accepts another utterance
        at, actual = 0, []
        while at < samples:
            piece = sizes.choice([0, 1, 37, 160, 1280, 5000])
            actual.append(stream.push(audio[:, at : at + piece]))
            at += piece
        actual.append(stream.finish())
        feats = torch.cat(actual, dim=1)
        assert feats.shape[1] == int(lens[0])
        torch.testing.assert_close(feats, whole[:, : feats.shape[1]], rtol=0, atol=1e-5)


def test_a_frame_is_returned_with_its_last_sample():
    stream = LogMelStream(LogMel(LogMelConfig(normalize="none")).eval())
    given = [stream.push(torch.randn(1, 40)).shape[1] for _ in range(20)]
    # Frame t is centred on sample 160 t and reaches 200 samples beyond; it exists once its hop is over.
    done = [sum(given[: n + 1]) for n in range(20)]
    assert done == [sum(160 * t + 200 <= 40 * (n + 1) for t in range(5)) for n in range(20)]


@pytest.mark.parametrize("options", [{"normalize": "per_feature"}, {"normalize": "none", "legacy": True}])
def test_streaming_refuses_features_of_whole_utterances(options):
    with pytest.raises(MayaError, match="streaming needs features.normalize=none and features.legacy=false"):
        LogMelStream(LogMel(LogMelConfig(**options)))
    with pytest.raises(MayaError, match="before any audio"):
        LogMelStream(LogMel(LogMelConfig(normalize="none"))).finish()
