"""The flagship: 42 layers × 1024 (1.06 B encoder parameters), 32 K pieces, 8 GPUs.

Run:    ./egs/indic12/run.sh --experiment fastconformer_tdt_ctc_1b --corpus DIR --gpus 8
Not run yet: no result is claimed. With 32 K pieces the joint tensor is the largest thing in memory until
the fused losses come; keep `data.plan.max_lattice` low.
"""

from egs.indic12 import large
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = large.experiment()
    exp.name = "indic12/fastconformer_tdt_ctc_1b"
    exp.model = presets.xxlarge()
    exp.model.language_embedding = True
    exp.model.encoder.activation_checkpointing = True
    exp.tokenizer = presets.tokenizer_32k()
    exp.data.plan.max_seconds = 200.0
    exp.train.steps = 500_000
    exp.train.lr = 3e-4
    return exp
