"""The flagship's recipe on the encoder of Parakeet TDT 0.6B, for one to eight GPUs.

Run:    maya convert nemo parakeet-tdt-0.6b-v2.nemo exp/parakeet-tdt-0.6b-v2 --encoder-only
        ./egs/indic12/run.sh --experiment fastconformer_tdt_ctc_600m --corpus DIR --gpus 8
Not run yet: no result is claimed.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment

from . import fastconformer_tdt_ctc_1b


def experiment() -> Experiment:
    exp = fastconformer_tdt_ctc_1b.experiment()
    exp.name = "indic12/fastconformer_tdt_ctc_600m"
    shape = presets.xlarge()
    exp.model.features, exp.model.encoder = shape.features, shape.encoder
    exp.model.heads |= {"transducer": shape.heads["transducer"]}
    exp.train.init_from = "exp/parakeet-tdt-0.6b-v2"
    exp.data.plan.max_seconds = 300.0
    return exp
