"""The flagship's encoder with a language model as decoder: a projector and LoRA learn, the LM is frozen.

Run:    maya llm train --experiment egs.indic12.speech_llm --data exp/indic12/DIR/data \\
            --run-dir exp/indic12/DIR/speech_llm
README.md tells which weights it needs. Not run yet: no result is claimed.
"""

from maya.models.speech_llm import SpeechLLMConfig
from maya.recipes.speech_llm import LLMExperiment

from . import fastconformer_tdt_ctc_1b


def experiment() -> LLMExperiment:
    hybrid = fastconformer_tdt_ctc_1b.experiment()
    exp = LLMExperiment(
        name="indic12/speech_llm",
        model=SpeechLLMConfig(
            llm="google/gemma-3-1b-it",
            features=hybrid.model.features,
            specaugment=hybrid.model.specaugment,
            encoder=hybrid.model.encoder,
        ),
        data=hybrid.data,
        train=hybrid.train,
    )
    exp.train.init_from = "exp/indic12/corpus/fastconformer_tdt_ctc_1b"
    exp.train.steps = 50_000
    exp.train.lr = 1e-4  # of projector and LoRA, as in SLAM-ASR
    exp.train.ctc_ramp = 0
    exp.train.encoder_freeze = 2_000
    exp.data.plan.max_seconds = 200.0  # per GPU
    exp.data.plan.memory.limit = "off"
    exp.data.valid_utterances = 20  # each is generated token by token
    return exp
