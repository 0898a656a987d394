"""What the LaCT experiments of this folder have in common: AdamW and a cosine over 40 passes of the data.

A batch holds 24 utterances' worth of audio: an utterance of LibriSpeech lasts 12.3 s in the mean, 295 s
together. Batches are of whole utterances of about one length and counted with their padding, so that a cap
of 310 s makes them as large; 24 utterances are data.plan.max_seconds × gpus × train.accumulate = 310 × 1 × 1.
"""

from egs.librispeech.shared import HOURS, librispeech
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment

_EPOCHS = 40  # passes over the data: with a draw of three speeds, one of them each time
_BATCH_SECONDS = 24 * 12.3
_MAX_SECONDS = 310.0


def train(name: str, model: SpeechModelConfig) -> Experiment:
    """How `model` is trained, on one GPU.

    With more GPUs give --data.plan.max_seconds the share of each, and with a smaller one --train.accumulate,
    so that their product stays, or expect other results. Speeds are not varied: --data.speed_perturb
    0.9,1.0,1.1 does it, and makes a pass 0.7 % longer.
    """
    exp = librispeech(name, model, max_seconds=_MAX_SECONDS, speeds=(1.0,))
    exp.train.optimizer, exp.train.schedule = "adamw", "cosine"
    exp.train.lr, exp.train.warmup_steps, exp.train.clip = 1e-4, 2000, 1.0
    exp.train.steps = round(_EPOCHS * HOURS * 3600 / _BATCH_SECONDS)  # where the cosine, and training, ends
    exp.train.valid_every, exp.train.samples_every = 1000, 500
    # Five checkpoints stay; means from each of the others to the last are what `maya average` chooses from.
    exp.train.save_every, exp.train.keep, exp.train.average_every = 5000, 5, 100
    return exp
