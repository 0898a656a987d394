"""LaCT on LibriSpeech 960 h, AdamW and a cosine over 40 passes of the data: a function for each experiment.

Run:    ./egs/librispeech/run.sh --source DIR --experiment lact:base_ctc --gpus 1
Only `tiny` was run: RESULTS.md has its result, README.md the expectations for the others.

A batch holds as much audio as 24 utterances: one of LibriSpeech lasts 12.3 s in the mean, 24 last 295 s.
Batches are made of whole utterances of similar length and counted with their padding, so the cap is 310 s;
24 utterances are data.plan.max_seconds × gpus × train.accumulate = 310 × 1 × 1.
"""

from maya.encoders.lact.config import streaming
from maya.features import LogMelConfig, SpecAugmentConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact, lact_base, lact_improved, lact_large, lact_tiny

from .shared import HOURS, librispeech

_EPOCHS = 40  # passes over the data
_BATCH_SECONDS = 24 * 12.3
_MAX_SECONDS = 310.0


def experiment() -> Experiment:
    """`base_ctc`."""
    return base_ctc()


def base_ctc() -> Experiment:
    """101 M parameters."""
    return train("base_ctc", lact(lact_base(), None))


def base_rnnt() -> Experiment:
    """106 M parameters, with CTC beside RNN-T."""
    return train("base_rnnt", lact(lact_base(), "rnnt"))


def base_tdt() -> Experiment:
    """106 M parameters, with CTC beside TDT."""
    return train("base_tdt", lact(lact_base(), "tdt"))


def improved_ctc() -> Experiment:
    """207 M parameters."""
    return train("improved_ctc", lact(lact_improved(), None))


def improved_rnnt() -> Experiment:
    """212 M parameters, with CTC beside RNN-T."""
    return train("improved_rnnt", lact(lact_improved(), "rnnt"))


def improved_tdt() -> Experiment:
    """212 M parameters, with CTC beside TDT."""
    return train("improved_tdt", lact(lact_improved(), "tdt"))


def large_ctc() -> Experiment:
    """508 M parameters."""
    return train("large_ctc", lact(lact_large(), None))


def large_rnnt() -> Experiment:
    """513 M parameters, with CTC beside RNN-T."""
    return train("large_rnnt", lact(lact_large(), "rnnt"))


def large_tdt() -> Experiment:
    """513 M parameters, with CTC beside TDT."""
    return train("large_tdt", lact(lact_large(), "tdt"))


def base_ctc_streaming() -> Experiment:
    """101 M parameters. Learns from a chunk of 2.56 s and then reads it; the delay ends with the chunk."""
    exp = train("base_ctc_streaming", lact(streaming(lact_base(), chunk=32), None))
    # The mean of an utterance is not known before its end.
    exp.model.features = LogMelConfig(normalize="none")
    exp.model.specaugment.fill = "mean"
    return exp


def tiny() -> Experiment:
    """1.26 M parameters with RNN-T and CTC, for a CPU: shows that the recipe works.

    python -m tools.librispeech_layout --clean DIR --other DIR --out exp/librispeech/layout --join 6
    ./egs/librispeech/run.sh --source exp/librispeech/layout --experiment lact:tiny
    """
    # Heads that allow every way to decode, but for the attention decoder's.
    exp = train("tiny", lact(lact_tiny(), "rnnt", mels=40, hidden=160))
    exp.model.specaugment = SpecAugmentConfig(freq_masks=2, freq_width=8, time_masks=2)
    exp.model.noise.probability = 0.5
    exp.tokenizer.vocab_size = 80  # for some hundred different words
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 40.0, 32
    exp.data.num_workers = 0
    exp.data.cache_gb = 1.0
    # The schedule of 40 passes of 960 h, in minutes; CTC first, which is cheap, as egs/digits has it.
    exp.model.heads["transducer"].first_step = 500
    exp.train.steps, exp.train.encoder_hold = 800, 100
    exp.train.lr, exp.train.warmup_steps = 3e-3, 50
    exp.train.average_every = 10
    exp.train.valid_every = exp.train.save_every = exp.train.samples_every = 200
    exp.train.threads = 1
    return exp


def train(name: str, model: SpeechModelConfig) -> Experiment:
    """Training of `model` on one GPU.

    With more GPUs give --data.plan.max_seconds the share of each, and with a smaller one --train.accumulate,
    so that their product stays, or expect other results. Speeds are not varied: --data.speed_perturb
    0.9,1.0,1.1 does it, and makes a pass 0.7 % longer.
    """
    exp = librispeech(f"lact_{name}", model, max_seconds=_MAX_SECONDS, speeds=(1.0,))
    exp.train.optimizer, exp.train.schedule = "adamw", "cosine"
    exp.train.lr, exp.train.warmup_steps, exp.train.clip = 1e-4, 2000, 1.0
    exp.train.steps = round(_EPOCHS * HOURS * 3600 / _BATCH_SECONDS)  # the cosine and the training end here
    exp.train.valid_every, exp.train.samples_every = 1000, 500
    # Five checkpoints are kept; `maya average` chooses among the means from each of the others to the last.
    exp.train.save_every, exp.train.keep, exp.train.average_every = 5000, 5, 100
    return exp
