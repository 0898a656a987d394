"""Spoken digits in English and Gujarati, on speakers not heard in training; a CPU is enough.

Run:    ./egs/digits/run.sh
Cost and result: see RESULTS.md in this folder.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="digits/digits", languages=("en", "gu"), model=presets.tiny())
    exp.tokenizer.model_type = "unigram"  # twenty words: each becomes one piece
    exp.tokenizer.vocab_size = 64
    exp.model.language_embedding = True
    exp.model.language_init = 1.0
    exp.model.encoder.dropout = 0.1
    exp.data.plan.max_seconds = 40.0
    exp.data.plan.max_utterances = 32
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.data.valid_utterances = 100
    exp.train.steps = 2000
    exp.train.ctc_first = 400
    exp.train.encoder_hold = 100
    exp.train.lr = 2e-3
    exp.train.warmup_steps = 50
    exp.train.log_every = 50
    return exp
