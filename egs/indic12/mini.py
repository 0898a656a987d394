"""The built-in spoken corpus, 12 languages, on a CPU in minutes.

Run:    ./egs/indic12/run.sh
Cost and result: see RESULTS.md in this folder.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="indic12/mini", model=presets.tiny())
    exp.tokenizer.model_type = "unigram"  # 480 words: most become one piece, so texts are a few tokens long
    exp.tokenizer.vocab_size = 872
    exp.model.language_embedding = True
    exp.model.language_init = 1.0
    # A synthesizer's voices differ in pitch and timbre, not in noise: strong masks only slow the learning.
    exp.model.specaugment.freq_masks = 1
    exp.model.specaugment.freq_width = 10
    exp.model.specaugment.time_masks = 1
    exp.data.plan.max_seconds = 40.0
    exp.data.plan.temperature = 1.0
    exp.data.plan.max_utterances = 32
    exp.data.valid_utterances = 8
    exp.train.steps = 3000
    exp.model.heads["transducer"].first_step = 1000
    exp.train.encoder_hold = 120
    exp.train.lr = 3e-3
    exp.train.warmup_steps = 50
    exp.train.log_every = 50
    exp.train.valid_every = 250
    return exp
