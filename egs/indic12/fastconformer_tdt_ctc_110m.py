"""The flagship's recipe on the encoder of Parakeet TDT-CTC 110M, for one to eight GPUs.

Run:    maya convert nemo parakeet-tdt_ctc-110m.nemo exp/parakeet-tdt_ctc-110m --encoder-only
        ./egs/indic12/run.sh --experiment fastconformer_tdt_ctc_110m --corpus DIR --gpus 8
Not run yet: no result is claimed.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment

from . import fastconformer_tdt_ctc_1b


def experiment() -> Experiment:
    exp = fastconformer_tdt_ctc_1b.experiment()
    exp.name = "indic12/fastconformer_tdt_ctc_110m"
    shape = presets.large()
    exp.model.features, exp.model.encoder = shape.features, shape.encoder
    exp.model.heads |= {"transducer": shape.heads["transducer"]}
    exp.train.init_from = "exp/parakeet-tdt_ctc-110m"
    exp.data.plan.max_seconds = 600.0
    return exp
