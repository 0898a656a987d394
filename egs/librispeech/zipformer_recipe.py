"""What the Zipformer experiments of this folder have in common: icefall's recipe, with its numbers.

One of its epochs hears every utterance at three speeds. Here an utterance has one of the three in each pass
over the data, so an epoch is three passes: `--epoch` and `--avg` mean what they mean there.
"""

from egs.librispeech.shared import librispeech
from maya.features.specaugment import lhotse
from maya.heads import AttentionDecoderConfig, CTCConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment

_EPOCH_HOURS = 2900.0  # 960 h at 0.9, 1.0 and 1.1 of their speed


def pruned(
    name: str, model: SpeechModelConfig, *, gpus: int, max_seconds: float, lr: float = 0.045, epochs: int = 50
) -> Experiment:
    """Zipformer with a stateless pruned transducer. `gpus` times `max_seconds` of audio make a step; with
    fewer GPUs give --train.accumulate, or expect other results.

    Features (80 filters), masks, ScaledAdam and Eden are those of the presets and defaults.
    """
    speeds = (0.9, 1.0, 1.1)
    exp = librispeech(name, model, max_seconds=max_seconds, speeds=speeds)
    exp.train.optimizer, exp.train.schedule, exp.train.lr = "scaled_adam", "eden", lr
    exp.train.passes, exp.train.epochs = len(speeds), epochs
    # Epochs end it; this is 1.2 times what full batches would take, and what the time left is reckoned by.
    exp.train.steps = round(1.2 * epochs * _EPOCH_HOURS * 3600 / (gpus * max_seconds))
    exp.train.average_every = 200
    exp.train.valid_every, exp.train.save_every = 3000, 4000
    return exp


def ctc(name: str, model: SpeechModelConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """The same with a CTC head alone."""
    exp = pruned(name, model, gpus=gpus, max_seconds=max_seconds)
    exp.model.heads = {"ctc": CTCConfig(dropout=0.1)}
    exp.decode.method = "ctc"
    return exp


def cr_ctc(name: str, model: SpeechModelConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """CTC with consistency regularisation: each batch is masked twice, with 2.5 times as much of the time."""
    exp = ctc(name, model, gpus=gpus, max_seconds=max_seconds)
    exp.model.head("ctc", CTCConfig).consistency_weight = 0.2
    exp.model.specaugment = lhotse(time_mask_ratio=2.5)
    return exp


def ctc_aed(name: str, model: SpeechModelConfig, *, gpus: int, max_seconds: float) -> Experiment:
    """CTC and an attention decoder of 6 layers, which rescores CTC's best texts."""
    exp = ctc(name, model, gpus=gpus, max_seconds=max_seconds)
    exp.model.heads["ctc"].weight = 0.2
    exp.model.heads["attention"] = AttentionDecoderConfig(weight=0.8)
    return exp
