"""The shape of Whisper tiny.en, to prepare data with. `maya finetune` takes that of the model it is given."""

from maya.encoders import WhisperEncoderConfig
from maya.features.whisper_mel import WhisperMelConfig
from maya.heads.whisper import WhisperDecoderConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    """English."""
    exp = Experiment(name="whisper/whisper", languages=("en",))
    exp.tokenizer.vocab_size = 51864
    exp.model = SpeechModelConfig(
        features=WhisperMelConfig(), encoder=WhisperEncoderConfig(), heads={"whisper": WhisperDecoderConfig()}
    )
    return exp
