"""Noisy student on spoken digits: a fifth of the training recordings has texts.

Run:    ./egs/noisy_student/run.sh
Cost and result: see RESULTS.md in this folder.
"""

from egs.digits import digits
from maya.data.loading.augment import AugmentConfig, few_speakers
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    """Of the teacher: CTC alone, a short training, without noise."""
    exp = digits.experiment()
    exp.name = "noisy_student/digits"
    exp.data.augment = AugmentConfig()
    exp.model.heads = {"ctc": exp.model.heads["ctc"]}
    exp.model.heads["ctc"].weight = 1.0
    exp.train.steps = 700
    exp.train.valid_every = exp.train.save_every = 350
    exp.data.cache_gb = 1.0
    return exp


def student() -> Experiment:
    """Of the students: the same with wider masks and made-up rooms, noise and microphones."""
    exp = experiment()
    exp.name = "noisy_student/digits_student"
    exp.model.specaugment.time_masks, exp.model.specaugment.freq_width = 4, 10
    exp.data.augment = few_speakers()
    return exp
