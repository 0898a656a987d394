"""Spoken digits in English and Gujarati, on speakers not heard in training; a CPU is enough.

Run:    ./egs/digits/run.sh
Cost and result: see RESULTS.md in this folder.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="digits/digits", languages=("en", "gu"), model=presets.tiny())
    exp.tokenizer.vocab_size = 64
    exp.model.language_embedding = True
    exp.model.encoder.dropout = 0.1
    exp.data.plan.max_seconds = 80.0
    exp.data.plan.max_utterances = 32
    exp.data.plan.temperature = 0.5
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.data.valid_utterances = 60
    exp.train.steps = 1500
    exp.train.lr = 2e-3
    exp.train.warmup_steps = 150
    return exp
