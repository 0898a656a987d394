"""The digits recognised while they are spoken: attention in chunks, convolutions and features that look back.

One training serves four latencies: each batch draws a chunk of 1, 2, 7 or 14 frames of 80 ms, and `--stream
--context 70 R` decodes with chunks of R + 1 frames.

Run:    ./egs/digits/run.sh --experiment streaming
Cost and result: see RESULTS.md in this folder.
"""

from typing import cast

from maya.encoders import FastConformerConfig
from maya.features import LogMelConfig
from maya.recipes.experiment import Experiment

from . import digits


def experiment() -> Experiment:
    exp = digits.experiment()
    exp.name = "digits/streaming"
    encoder = cast(FastConformerConfig, exp.model.encoder)
    encoder.att_context_style = "chunked_limited"
    encoder.att_context_size = ((70, 6), (70, 13), (70, 1), (70, 0))
    encoder.causal_downsampling, encoder.conv_context = True, "causal"
    encoder.conv_norm = "layer_norm"
    features = cast(LogMelConfig, exp.model.features)
    features.normalize, features.peak_frames = "none", 0  # a peak is known when the utterance ends
    return exp
