"""Spoken digits in English and Gujarati, on speakers not heard in training; a CPU is enough.

Run:    ./egs/digits/run.sh
Cost and result: see RESULTS.md in this folder.
"""

from maya.data.loading.augment import few_speakers
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="digits/digits", languages=("en", "gu"), model=presets.low_resource())
    exp.tokenizer.model_type = "unigram"  # twenty words: each becomes one piece
    exp.tokenizer.vocab_size = 64
    exp.model.language_embedding = True
    exp.model.language_init = 1.0
    exp.model.language_dropout = 0.3
    exp.data.augment = few_speakers()
    exp.data.speed_perturb = (0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25)
    exp.data.plan.max_seconds = 40.0
    exp.data.plan.temperature = 1.0
    exp.data.plan.max_utterances = 32
    exp.data.valid_utterances = 100
    exp.train.steps = 3600
    exp.model.heads["transducer"].first_step = 2400
    exp.train.encoder_hold = 100
    exp.train.optimizer = "muon"
    exp.train.lr = 3e-3
    exp.train.warmup_steps = 50
    exp.train.log_every = 50
    exp.train.valid_every = exp.train.save_every = 600
    exp.train.threads = 1  # for --gpus 2 --cpu true: two processes on two cores
    return exp
