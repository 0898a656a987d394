"""The digits with a LaCT encoder: fast weights that learn from each utterance, else all as in digits.py.

Run:    ./egs/digits/run.sh --experiment lact
Cost and result: see RESULTS.md in this folder.
"""

from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact_tiny

from . import digits


def experiment() -> Experiment:
    exp = digits.experiment()
    exp.name = "digits/lact"
    exp.model.encoder = lact_tiny(ff_dim=336)  # as many parameters as digits.py
    return exp
