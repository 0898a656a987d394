"""What the Zipformer experiments of this folder have in common: icefall's recipe, with its numbers.

One of its epochs hears every utterance at three speeds. Here an utterance has one of the three in each pass
over the data, so an epoch is three passes: `--epoch` and `--avg` mean what they mean there.
"""

from maya.features.specaugment import lhotse
from maya.models.hybrid import HybridConfig
from maya.recipes.experiment import Experiment

_HOURS = 2900.0  # of an epoch: 960 h at 0.9, 1.0 and 1.1 of their speed


def pruned(
    name: str, model: HybridConfig, *, gpus: int, max_seconds: float, lr: float = 0.045, epochs: int = 50
) -> Experiment:
    """Zipformer with a stateless pruned transducer. `gpus` times `max_seconds` of audio make a step; with
    fewer GPUs give --train.accumulate, or expect other results.

    Features (80 filters), masks, ScaledAdam and Eden are those of the presets and defaults.
    """
    exp = Experiment(name=f"librispeech/{name}", languages=("en",), model=model)
    exp.prepare.split.dev = exp.prepare.split.test = 0.0  # the corpus has its own, or none
    exp.tokenizer.vocab_size = 500
    exp.tokenizer.model_type = "unigram"  # as icefall's lang_bpe_500, whatever its name
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.data.min_seconds, exp.data.max_seconds = 1.0, 20.0
    exp.data.plan.max_seconds = max_seconds
    exp.data.plan.max_utterances = None
    exp.data.num_workers = 4
    exp.data.valid_utterances = 1000
    # For run.sh --musan, which says where it is and how often: one in two utterances.
    exp.data.augment.clean_share = 0.0
    for noise in exp.data.augment.noises.values():
        noise.snr_db, noise.mixed = (10.0, 20.0), (1, 1)
    exp.train.optimizer, exp.train.schedule, exp.train.lr = "scaled_adam", "eden", lr
    exp.train.passes, exp.train.epochs = len(exp.data.speed_perturb), epochs
    # Epochs end it; this is 1.2 times what full batches would take, and what the time left is reckoned by.
    exp.train.steps = round(1.2 * epochs * _HOURS * 3600 / (gpus * max_seconds))
    exp.train.average_every = 200
    exp.train.valid_every, exp.train.save_every, exp.train.log_every = 3000, 4000, 50
    exp.decode.lm_order = 0  # CTC's prefix search without a language model, as in icefall's tables
    exp.decode.max_seconds = 600.0
    return exp


def ctc(name: str, model: HybridConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """The same with a CTC head alone."""
    exp = pruned(name, model, gpus=gpus, max_seconds=max_seconds)
    exp.model.transducer, exp.model.ctc_weight = "none", 1.0
    exp.decode.method = "ctc"
    return exp


def cr_ctc(name: str, model: HybridConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """CTC with consistency regularisation: each batch is masked twice, with 2.5 times as much of the time."""
    exp = ctc(name, model, gpus=gpus, max_seconds=max_seconds)
    exp.model.cr_ctc_weight = 0.2
    exp.model.specaugment = lhotse(time_mask_ratio=2.5)
    return exp


def ctc_aed(name: str, model: HybridConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """CTC and an attention decoder of 6 layers, which rescores CTC's best texts."""
    exp = ctc(name, model, gpus=gpus, max_seconds=max_seconds)
    exp.model.attention_weight = 0.8  # and CTC the rest
    return exp
