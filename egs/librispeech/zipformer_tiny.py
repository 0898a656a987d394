"""A Zipformer of 1 M parameters with a pruned transducer and CTC, for a CPU: shows that the recipe works.

Run:    python -m tools.librispeech_layout --clean DIR --other DIR --out exp/librispeech/layout --join 6
        ./egs/librispeech/run.sh --source exp/librispeech/layout --experiment zipformer_tiny
Cost and result: RESULTS.md in this folder.
"""

from egs.librispeech import zipformer_recipe as recipe
from maya.heads import CTCConfig, TransducerConfig
from maya.recipes import presets
from maya.recipes.experiment import Experiment
from maya.train.eden import EdenConfig


def experiment() -> Experiment:
    exp = recipe.pruned(
        "zipformer_tiny", presets.zipformer_low_resource(), gpus=1, max_seconds=40.0, epochs=8
    )
    transducer = exp.model.head("transducer", TransducerConfig)
    transducer.weight, transducer.pruned.warmup_steps = 0.7, 150
    # With CTC every decoding method but those of the attention decoder can be tried.
    exp.model.heads["ctc"] = CTCConfig(weight=0.3, dropout=0.1)
    exp.tokenizer.vocab_size = 80  # of some hundred different words
    exp.data.plan.max_utterances = 32
    exp.data.num_workers = 0
    exp.data.cache_gb = 1.0
    # The schedules of 50 epochs of 960 h, in minutes.
    exp.train.lr = 0.03
    exp.train.eden = EdenConfig(steps=400.0, epochs=3.5, warmup_steps=50.0)
    exp.train.regularizer_seconds = 8.0
    exp.train.average_every = 10
    exp.train.valid_every = exp.train.save_every = 300
    exp.train.steps = 2000
    exp.train.threads = 1
    return exp
