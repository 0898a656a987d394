"""A trained model on a long recording of known words: the borders add no errors to the model's own."""

import numpy as np
import pytest
import torch
from torch import Tensor

from maya.audio.vad import VADConfig
from maya.decode.long.buffered import BufferConfig
from maya.decode.long.long_audio import LongAudioConfig, transcribe_long
from maya.score.wer import wer
from tests import tone_recognizer, tones


def recording(rng: np.random.Generator, utterances: int) -> tuple[list[Tensor], list[str]]:
    """Blocks of audio and their texts: utterances of six words, one after another with short pauses."""
    texts = [tone_recognizer.sentence(rng, 6) for _ in range(utterances)]
    audio = [torch.from_numpy(tone_recognizer.padded(rng, tones.speak(text))) for text in texts]
    return audio, texts


@pytest.mark.slow
def test_borders_add_no_errors() -> None:
    """150 borders a strategy. The model alone, on each utterance, is the measure."""
    recognizer = tone_recognizer.trained(steps=300)
    audio, texts = recording(np.random.default_rng(7), 150)
    alone = recognizer.transcribe(audio, method="transducer")
    own = wer(texts, [hyp.text for hyp in alone])
    assert own.rate < 0.05
    vad = VADConfig(detector="energy", pad_seconds=0.2, min_silence_seconds=0.3)
    buffer = BufferConfig(left_seconds=3.0, chunk_seconds=3.0, right_seconds=2.0)
    for strategy in ("vad", "overlap", "buffered"):
        options = {"strategy": strategy, "window_seconds": 7.0, "overlap_seconds": 3.0, "vad": vad}
        cfg = LongAudioConfig(**options, buffer=buffer)  # type: ignore[arg-type]
        hyp = transcribe_long(recognizer, "transducer", iter(audio), None, cfg)
        joined = wer([" ".join(texts)], [hyp.text])
        print(strategy, own.errors, joined.errors, joined.ref_length)
        assert joined.errors <= own.errors + 0.01 * joined.ref_length, strategy
