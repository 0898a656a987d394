"""A LaCT of 1.26 M parameters with RNN-T and CTC, for a CPU: shows that the recipe works.

Run:    python -m tools.librispeech_layout --clean DIR --other DIR --out exp/librispeech/layout --join 6
        ./egs/librispeech/run.sh --source exp/librispeech/layout --experiment lact_tiny
Cost and result: RESULTS.md in this folder.
"""

from egs.librispeech import lact_recipe as recipe
from maya.features import SpecAugmentConfig
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact, lact_tiny


def experiment() -> Experiment:
    # Heads that allow every way to decode, but for the attention decoder's.
    exp = recipe.train("lact_tiny", lact(lact_tiny(), "rnnt", mels=40, hidden=160))
    exp.model.specaugment = SpecAugmentConfig(freq_masks=2, freq_width=8, time_masks=2)
    exp.model.noise.probability = 0.5
    exp.tokenizer.vocab_size = 80  # of some hundred different words
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
