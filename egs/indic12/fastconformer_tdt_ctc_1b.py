"""The flagship: the encoder of Parakeet TDT 1.1B, new heads for 32 K pieces of twelve languages, 8 GPUs.

Run:    maya convert nemo parakeet-tdt-1.1b.nemo exp/parakeet-tdt-1.1b --encoder-only
        make prod-readiness DATA=exp/indic12/DIR/data GPUS=8
        ./egs/indic12/run.sh --experiment fastconformer_tdt_ctc_1b --corpus DIR --gpus 8
Not run yet: no result is claimed.
"""

from maya.heads import LanguageConfig
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="indic12/fastconformer_tdt_ctc_1b", model=presets.xxlarge())
    exp.tokenizer = presets.tokenizer_32k()

    exp.model.heads["ctc"].ramp_steps = 3_000
    # For --language auto. Its loss is at most ln 12 an utterance.
    exp.model.heads["language"] = LanguageConfig(weight=0.3)
    exp.model.language_embedding = True  # a bias for each language, N(0, 0.02) at the start
    exp.model.language_init = 0.02
    exp.model.language_dropout = 0.1
    exp.model.encoder.activation_checkpointing = True

    exp.train.init_from = "exp/parakeet-tdt-1.1b"
    exp.train.steps = 200_000
    exp.train.lr = 1e-3  # of the heads, which are new
    exp.train.encoder_lr = 2e-5
    exp.train.min_lr = 1e-5  # of both
    exp.train.warmup_steps = 2_000
    exp.train.freeze, exp.train.freeze_steps = ("encoder",), 5_000
    exp.train.betas = (0.9, 0.98)
    exp.train.weight_decay = 1e-4
    exp.train.accumulate = 4
    exp.train.precision = "bf16"
    exp.train.valid_every = exp.train.save_every = 5_000
    exp.train.log_every = 100
    exp.train.average_every = 100  # each sample moves 9 GB on the CPU

    exp.data.plan.max_seconds = 200.0  # per GPU; the loss holds no logits, so nothing caps the tokens
    # Measured with an encoder that learns: memory that a frozen one leaves free is needed from step 5 000 on.
    exp.data.plan.memory.limit = "auto"
    exp.data.plan.temperature = 0.3
    exp.data.num_workers = 8
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.data.valid_utterances = 200
    return exp
