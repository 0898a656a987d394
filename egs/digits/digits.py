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
    exp.model.encoder.subsampling_factor = 4  # a digit lasts 0.3 s: four frames of 80 ms are too few
    exp.model.encoder.dropout = 0.05
    exp.model.specaugment.freq_masks = 1
    exp.model.specaugment.freq_width = 15
    exp.model.specaugment.time_masks = 1
    # Few training speakers: speeds stand in for other voices, noise for other rooms and levels.
    exp.data.speed_perturb = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)
    exp.model.noise.probability = 0.5
    exp.data.plan.max_seconds = 40.0
    exp.data.plan.max_utterances = 32
    exp.data.valid_utterances = 100
    exp.train.steps = 1800
    exp.train.ctc_first = 900
    exp.train.encoder_hold = 120
    exp.train.lr = 3e-3
    exp.train.warmup_steps = 50
    exp.train.log_every = 50
    exp.train.valid_every = exp.train.save_every = 300
    return exp
