"""The flagship's whole schedule in minutes on a CPU: a converted encoder, frozen while new heads for a new
vocabulary begin, then thawed. It shows the road, not what so small a model could hear.

Run:    maya convert nemo TINY.nemo exp/tiny
        ./egs/indic12/run.sh --experiment finetune_tiny --corpus DIR --gpus 0 --train.init_from exp/tiny
The shape is that of the recorded model `tiny.nemo`. tests/egs/test_finetune_tiny.py runs it with eight steps.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment

from . import fastconformer_tdt_ctc_1b


def experiment() -> Experiment:
    exp = fastconformer_tdt_ctc_1b.experiment()
    exp.name = "indic12/finetune_tiny"
    shape = presets.fastconformer_tdt_ctc(
        d_model=32, n_layers=2, n_heads=4, subsampling_channels=8, hidden=64, predictor_layers=2
    )
    exp.model.features, exp.model.encoder = shape.features, shape.encoder
    exp.model.heads |= {"transducer": shape.heads["transducer"], "ctc": shape.heads["ctc"]}
    exp.tokenizer.vocab_size = 1500  # letters of ten scripts, bytes, and the commonest syllables
    exp.tokenizer.min_char_count = 1

    exp.train.init_from = "exp/tiny"
    exp.train.steps = 120
    exp.train.warmup_steps = 10
    exp.train.freeze_steps = 40
    exp.model.heads["ctc"].ramp_steps = 25
    exp.train.precision = "fp32"
    exp.train.accumulate = 2
    exp.train.valid_every = exp.train.save_every = 40
    exp.train.log_every = 10
    exp.train.average_every = 10
    exp.data.plan.max_seconds = 20.0
    exp.data.plan.memory.limit = "off"
    exp.data.num_workers = 0
    exp.data.valid_utterances = 4
    return exp
