"""Zipformers on LibriSpeech 960 h with the numbers of icefall's recipe: a function for each experiment.

Run:    ./egs/librispeech/run.sh --source DIR --experiment zipformer:medium --gpus 4
Only `tiny` was run: RESULTS.md has its result, and icefall's figures, which are the target of the others.

An epoch of icefall passes over every utterance at three speeds. Here each pass draws one of the three, so an
epoch is three passes: `--epoch` and `--avg` mean what they mean in icefall.
"""

from maya.heads import AttentionDecoderConfig, CTCConfig, TransducerConfig
from maya.models.config import SpeechModelConfig
from maya.recipes import presets
from maya.recipes.experiment import Experiment
from maya.train.optimizers.eden import EdenConfig

from .shared import librispeech

_EPOCH_HOURS = 2900.0  # 960 h at 0.9, 1.0 and 1.1 of their speed


def experiment() -> Experiment:
    """`medium`, icefall's default."""
    return medium()


def small() -> Experiment:
    """23 M parameters, 2 GPUs."""
    return pruned("small", presets.zipformer_small(), gpus=2, max_seconds=1500.0, lr=0.04)


def medium() -> Experiment:
    """66 M parameters, 4 GPUs."""
    return pruned("medium", presets.zipformer_medium(), gpus=4, max_seconds=1000.0)


def large() -> Experiment:
    """148 M parameters, 4 GPUs."""
    return pruned("large", presets.zipformer_large(), gpus=4, max_seconds=1000.0)


def small_ctc() -> Experiment:
    """22 M parameters, 2 GPUs."""
    return ctc("small_ctc", presets.zipformer_small(), gpus=2, max_seconds=1700.0)


def medium_ctc() -> Experiment:
    """64 M parameters, 4 GPUs."""
    return ctc("medium_ctc", presets.zipformer_medium(), gpus=4, max_seconds=1200.0)


def large_ctc() -> Experiment:
    """147 M parameters, 4 GPUs."""
    return ctc("large_ctc", presets.zipformer_large(), gpus=4, max_seconds=1200.0)


def small_cr_ctc() -> Experiment:
    """22 M parameters, 2 GPUs."""
    return cr_ctc("small_cr_ctc", presets.zipformer_small(), gpus=2, max_seconds=850.0)


def medium_cr_ctc() -> Experiment:
    """64 M parameters, 4 GPUs."""
    return cr_ctc("medium_cr_ctc", presets.zipformer_medium(), gpus=4, max_seconds=700.0)


def large_cr_ctc() -> Experiment:
    """147 M parameters, 2 GPUs."""
    return cr_ctc("large_cr_ctc", presets.zipformer_large(), gpus=2, max_seconds=1400.0)


def small_ctc_aed() -> Experiment:
    """46 M parameters, 2 GPUs."""
    return ctc_aed("small_ctc_aed", presets.zipformer_small(), gpus=2, max_seconds=1700.0)


def medium_ctc_aed() -> Experiment:
    """90 M parameters, 4 GPUs."""
    return ctc_aed("medium_ctc_aed", presets.zipformer_medium(), gpus=4, max_seconds=1200.0)


def large_ctc_aed() -> Experiment:
    """174 M parameters, 4 GPUs."""
    return ctc_aed("large_ctc_aed", presets.zipformer_large(), gpus=4, max_seconds=1200.0)


def large_transducer_cr_ctc() -> Experiment:
    """149 M parameters, 2 GPUs: icefall's best Zipformer."""
    exp = pruned("large_transducer_cr_ctc", presets.zipformer_large(), gpus=2, max_seconds=1400.0)
    presets.with_cr_ctc(exp.model)
    return exp


def large_cr_ctc_aed() -> Experiment:
    """174 M parameters, 2 GPUs."""
    exp = ctc_aed("large_cr_ctc_aed", presets.zipformer_large(), gpus=2, max_seconds=1200.0)
    presets.with_cr_ctc(exp.model)
    exp.model.heads["attention"].weight = 0.9
    return exp


def tiny() -> Experiment:
    """1 M parameters with a pruned transducer and CTC, for a CPU: shows that the recipe works.

    python -m tools.librispeech_layout --clean DIR --other DIR --out exp/librispeech/layout --join 6
    ./egs/librispeech/run.sh --source exp/librispeech/layout --experiment zipformer:tiny
    """
    exp = pruned("tiny", presets.zipformer_low_resource(), gpus=1, max_seconds=40.0, epochs=8)
    transducer = exp.model.head("transducer", TransducerConfig)
    transducer.weight, transducer.pruned.warmup_steps = 0.7, 150
    # With CTC every decoding method but those of the attention decoder can be tried.
    exp.model.heads["ctc"] = CTCConfig(weight=0.3, dropout=0.1)
    exp.tokenizer.vocab_size = 80  # for some hundred different words
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


def pruned(
    name: str, model: SpeechModelConfig, *, gpus: int, max_seconds: float, lr: float = 0.045, epochs: int = 50
) -> Experiment:
    """Zipformer with a stateless pruned transducer. `gpus` times `max_seconds` of audio make a step; with
    fewer GPUs give --train.accumulate, or expect other results.

    Features (80 filters), masks, ScaledAdam and Eden are those of the presets and defaults.
    """
    speeds = (0.9, 1.0, 1.1)
    exp = librispeech(f"zipformer_{name}", model, max_seconds=max_seconds, speeds=speeds)
    exp.train.optimizer, exp.train.schedule, exp.train.lr = "scaled_adam", "eden", lr
    exp.train.passes, exp.train.epochs = len(speeds), epochs
    # Training ends after the epochs. These steps, 1.2 times those of full batches, give the remaining time.
    exp.train.steps = round(1.2 * epochs * _EPOCH_HOURS * 3600 / (gpus * max_seconds))
    exp.train.average_every = 200
    exp.train.valid_every, exp.train.save_every = 3000, 4000
    return exp


def ctc(name: str, model: SpeechModelConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """CTC alone; batches as with the attention decoder."""
    exp = pruned(name, model, gpus=gpus, max_seconds=max_seconds)
    exp.model.heads = {"ctc": CTCConfig(dropout=0.1)}
    exp.decode.method = "ctc"
    return exp


def cr_ctc(name: str, model: SpeechModelConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """CTC with consistency regularisation: a step holds every utterance twice, under two masks that hide 2.5
    times as much of the time."""
    exp = ctc(name, model, gpus=gpus, max_seconds=max_seconds)
    presets.with_cr_ctc(exp.model, weight=1.0, consistency=0.2)
    return exp


def ctc_aed(name: str, model: SpeechModelConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """CTC and an attention decoder of 6 layers, which rescores CTC's best texts."""
    exp = ctc(name, model, gpus=gpus, max_seconds=max_seconds)
    exp.model.heads["ctc"].weight = 0.2
    exp.model.heads["attention"] = AttentionDecoderConfig(weight=0.8)
    return exp
