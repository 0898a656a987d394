"""The flagship's encoder with a language model as head: a projector and LoRA learn, the LM is frozen.

Run:    ./egs/indic12/run.sh --experiment speech_llm --corpus DIR --gpus 8
README.md names the weights that it needs. Not run yet: no result is claimed.
"""

from maya.heads import LanguageModelConfig
from maya.recipes.experiment import Experiment

from . import fastconformer_tdt_ctc_1b


def experiment() -> Experiment:
    exp = fastconformer_tdt_ctc_1b.experiment()
    exp.name = "indic12/speech_llm"
    exp.model.heads = {"llm": LanguageModelConfig(llm="google/gemma-3-1b-it")}
    exp.model.language_embedding = False  # the prompt names the language
    exp.train.init_from = "exp/indic12/corpus/fastconformer_tdt_ctc_1b"
    exp.train.steps = 50_000
    exp.train.lr = 1e-4  # of projector and LoRA, as in SLAM-ASR
    exp.train.freeze_steps = 2_000
    exp.data.plan.max_seconds = 200.0  # per GPU
    exp.data.plan.memory.limit = "off"
    exp.data.valid_utterances = 20  # each is generated token by token
    return exp
