"""The digits with a LaCT encoder: fast weights that learn from each utterance, else all as in digits.py.

`remember` is trained on four utterances of one speaker in a row: what the fast weights have learnt is carried
from each to the next. `control` has the same parameters, and its fast weights never learn.

Run:    ./egs/digits/run.sh --experiment lact
        ./egs/digits/run.sh --experiment egs.digits.lact:remember
Cost and result: see RESULTS.md in this folder.
"""

from typing import cast

from maya.encoders.lact.config import LaCTConfig
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact_tiny

from . import digits


def experiment() -> Experiment:
    exp = digits.experiment()
    exp.name = "digits/lact"
    exp.model.encoder = lact_tiny(ff_dim=336)  # as many parameters as digits.py
    return exp


def remember() -> Experiment:
    exp = experiment()
    exp.name = "digits/lact_remember"
    exp.data.plan.same_speaker = 4
    exp.data.plan.max_seconds = 53.0  # rows have more padding: as many batches in an epoch as without them
    return exp


def control() -> Experiment:
    exp = experiment()
    exp.name = "digits/lact_control"
    cast(LaCTConfig, exp.model.encoder).learning = False
    return exp
