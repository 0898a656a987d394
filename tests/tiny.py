"""The smallest experiment that runs the whole pipeline, for tests of training and of the command line."""

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from maya.heads import AttentionDecoderConfig
from maya.heads.transducer import JointConfig, PredictorConfig
from maya.models.config import SpeechModelConfig
from maya.models.hybrid import HybridOptions
from maya.recipes import presets
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.train import loop
from maya.train.step import StepStats
from maya.train.stop import Interrupted
from tests import tones


class LetterTokenizer:
    """A tokenizer of one letter a token."""

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(97 + t) for t in tokens)

    def pieces(self, tokens: list[int]) -> list[str]:
        return [chr(97 + t) for t in tokens]

    def is_byte(self, token: int) -> bool:
        return False


class NumberTokenizer:
    """A tokenizer whose text is the list of ids."""

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))

    def encode(self, text: str, language: str | None = None) -> list[int]:
        return [int(word) for word in text.split()]

    def pieces(self, tokens: list[int]) -> list[str]:
        return [f"\u2581{token}" for token in tokens]

    def is_byte(self, token: int) -> bool:
        return False


def experiment() -> Experiment:
    exp = Experiment(
        name="tests/tiny",
        languages=("en", "hi"),
        model=presets.fastconformer_tdt_ctc(
            d_model=32,
            n_layers=2,
            n_heads=2,
            subsampling_channels=8,
            subsampling_factor=4,
            hidden=32,
            dropout=0.0,
        ),
    )
    exp.tokenizer.vocab_size = 20
    exp.model.language_embedding = True
    exp.model.language_dropout = 0.0
    transducer: Any = exp.model.heads["transducer"]
    transducer.predictor.dropout = transducer.joint.dropout = transducer.omega = 0.0
    exp.model.specaugment.freq_masks = 0
    exp.model.specaugment.time_masks = 0
    exp.model.features.dither = 0.0
    exp.data.plan.max_seconds = 20.0
    exp.data.plan.temperature = 1.0
    exp.data.plan.max_utterances = 8
    exp.train.steps = 12
    exp.train.warmup_steps = 4
    exp.train.lr = 3e-3
    exp.train.log_every = 4
    exp.train.valid_every = exp.train.save_every = 6
    exp.train.average_every = 2
    exp.train.precision = "fp32"
    return exp


def options(**changes: Any) -> HybridOptions:
    """The flat options of the same model for 12 pieces and two languages, with any heads."""
    model = experiment().model
    values: dict[str, Any] = {
        "features": model.features, "specaugment": model.specaugment, "encoder": model.encoder,
        "predictor": PredictorConfig(hidden=32, layers=1, dropout=0.0),
        "joint": JointConfig(hidden=32, dropout=0.0),
        "attention_decoder": AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=32),
        "omega": 0.0, "language_embedding": True, "language_dropout": 0.0, "vocab_size": 12,
        "languages": ("en", "hi"),
    }  # fmt: skip
    return HybridOptions(**(values | changes))


def hybrid(**changes: Any) -> SpeechModelConfig:
    """The configuration of a model with these `options`."""
    return options(**changes).model_config()


def prepare_run(exp: Experiment, top: Path, *, utterances: int = 24) -> Path:
    """Make the folders corpus (of tones), data (prepared) and run (with a tokenizer) in `top`. Returns `top`.

    `utterances` is the number for each language.
    """
    tones.make_corpus(top / "corpus", utterances=utterances)
    prepare(exp, top / "corpus", top / "data")
    tokenizer(exp, top / "data", top / "run")
    return top


@contextmanager
def interrupted(after: int) -> Iterator[None]:
    """Training within is stopped after so many of its steps, as by a signal."""
    real, calls = loop.train_step, []

    def stopping(*args: Any) -> StepStats:
        calls.append(1)
        stats = real(*args)
        stats.stop = len(calls) == after
        return stats

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "train_step", stopping)
        yield


def flip_a_bit(content: bytearray) -> None:
    """Change a bit of a checkpoint within its largest tensor: between tensors nothing may be read."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    # A record's header: 30 bytes, the last four of which are the lengths of a name and of what follows it.
    begin = largest.header_offset + 30 + sum(struct.unpack_from("<HH", content, largest.header_offset + 26))
    content[begin + largest.file_size // 2] ^= 1
