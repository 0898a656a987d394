"""A few hours of real recorded speech in several languages, on a CPU.

Run:    ./egs/indic12/run.sh --corpus DIR --gpus 2 --cpu true   (two processes, an hour and a half)
Result: RESULTS.md in this folder.
"""

from typing import cast

from maya.decode.ctc.beam import BeamConfig
from maya.encoders import FastConformerConfig
from maya.features import LogMelConfig
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="indic12/real", model=presets.low_resource())
    cast(
        LogMelConfig, exp.model.features
    ).normalize = "per_feature"  # sentences, whose statistics are of speech
    exp.tokenizer.vocab_size = 1000  # about 700 letters of ten scripts, and the commonest syllables
    exp.model.language_embedding = True
    exp.model.language_init = 1.0
    encoder = cast(FastConformerConfig, exp.model.encoder)
    encoder.d_model, encoder.n_layers = 128, 4
    encoder.subsampling_factor = 4  # letters come nearly as fast as frames of 80 ms
    exp.data.plan.max_seconds = 50.0
    exp.data.plan.temperature = 1.0
    exp.data.plan.max_utterances = 32
    exp.data.cache_gb = 2.0  # Opus costs more to decode than its features to compute
    exp.data.speed_perturb = (0.87, 0.93, 1.0, 1.07, 1.15)
    exp.data.valid_utterances = 20
    exp.train.steps = 8200
    exp.model.heads["transducer"].first_step = 6000
    exp.train.valid_every = 700
    exp.train.save_every = 350
    exp.train.encoder_hold = 150
    exp.train.lr = 3e-3
    exp.train.warmup_steps = 50
    exp.train.log_every = 50
    exp.train.threads = 1  # for --gpus 2 --cpu true: two processes on two cores
    exp.decode.method = "ctc_beam"  # little audio, but texts that repeat: see RESULTS.md
    exp.decode.methods["ctc_beam"] = BeamConfig(lm_weight=0.6, token_bonus=2.5)
    return exp
