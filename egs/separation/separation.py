"""Conv-TasNet on the voices of a few hundred people, for a CPU; and the published recipes for LibriMix.

Run:    ./egs/separation/run.sh --cpu true
Cost and result: see RESULTS.md in this folder.
"""

from maya.data.loading.mixing import MixingConfig
from maya.encoders import ConvTasNetConfig, SepReformerConfig
from maya.encoders.separation.config import SeparatorConfig
from maya.heads import SeparationConfig
from maya.models.separation import separation_model
from maya.recipes.experiment import Experiment

LANGUAGES = ("as", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te")
RATE = 8000


def _experiment(name: str, encoder: SeparatorConfig, head: SeparationConfig | None = None) -> Experiment:
    exp = Experiment(name=f"separation/separation_{name}", languages=LANGUAGES)
    exp.model = separation_model(encoder, RATE, head)
    # The corpus says who is in dev and test. Other languages have training speakers only.
    exp.prepare.split.dev = exp.prepare.split.test = 0.0
    exp.tokenizer.model_type, exp.tokenizer.vocab_size = "unigram", 1000  # of texts that no head reads
    exp.data.mixing = MixingConfig(sources=encoder.sources, seconds=3.0)
    exp.train.per, exp.train.optimizer = "utterance", "adamw"
    exp.train.lr, exp.train.weight_decay, exp.train.clip = 1e-3, 0.0, 5.0
    return exp


def small() -> Experiment:
    """Conv-TasNet of 0.3 M parameters with windows of 5 ms, for less than an hour of a CPU."""
    encoder = ConvTasNetConfig(
        filters=128, kernel_size=40, stride=20, bottleneck=64, hidden=128, skip=64, layers=6, stacks=2
    )
    exp = _experiment("small", encoder)
    exp.data.cache_gb = 1.0
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 100.0, 8
    exp.data.mixing.seconds = 2.0
    exp.train.lr, exp.train.steps, exp.train.warmup_steps, exp.train.threads = 2e-3, 4000, 50, 1
    exp.train.valid_every = exp.train.save_every = 200
    exp.train.log_every, exp.train.average_every = 20, 10
    return exp


def causal() -> Experiment:
    """The same for streams: a frame sees no later one."""
    exp = small()
    exp.name = "separation/separation_causal"
    encoder = exp.model.encoder
    assert isinstance(encoder, ConvTasNetConfig)
    encoder.causal, encoder.norm = True, "cumulative"
    return exp


def librimix() -> Experiment:
    """Conv-TasNet as asteroid trains it on Libri2Mix at 8 kHz: batches of 24 × 3 s; not run here."""
    exp = _experiment("librimix", ConvTasNetConfig(mask_activation="relu"))
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 400.0, 24
    exp.train.steps, exp.train.warmup_steps = 400_000, 1000
    exp.train.valid_every = exp.train.save_every = 2000
    return exp


def sepreformer() -> Experiment:
    """SepReformer, base, with focused linear attention, on Libri2Mix at 8 kHz; not run here."""
    exp = _experiment("sepreformer", SepReformerConfig(), SeparationConfig(auxiliary=0.4))
    exp.data.mixing.seconds = 4.0
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 40.0, 2
    exp.train.weight_decay, exp.train.warmup_steps, exp.train.steps = 1e-2, 1000, 1_000_000
    exp.train.valid_every = exp.train.save_every = 5000
    return exp
