"""A few hours of real recorded speech in several languages, on a CPU.

Run:    ./egs/indic12/run.sh --corpus DIR --gpus 2 --cpu true      (two processes on two cores)
Only a shortened run has been made: see RESULTS.md in this folder.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="indic12/real", model=presets.tiny())
    exp.tokenizer.vocab_size = 2000
    exp.model.language_embedding = True
    exp.model.language_init = 1.0
    exp.model.encoder.n_layers = 6
    exp.model.encoder.dropout = 0.05
    exp.model.specaugment.freq_masks = 1
    exp.model.specaugment.freq_width = 15
    exp.model.specaugment.time_masks = 2
    exp.data.plan.max_seconds = 50.0
    exp.data.plan.max_utterances = 32
    exp.data.plan.temperature = 0.7
    exp.data.cache_gb = 2.0  # Opus costs more to decode than its features to compute
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.data.valid_utterances = 20
    exp.train.steps = 9000
    exp.train.ctc_first = 7000
    exp.train.encoder_hold = 150
    exp.train.lr = 3e-3
    exp.train.warmup_steps = 50
    exp.train.log_every = 50
    exp.train.threads = 1  # for --gpus 2 --cpu true: two processes on two cores
    return exp
