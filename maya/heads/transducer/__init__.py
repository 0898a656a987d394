"""Prediction and joint networks, shared by RNN-T and TDT."""

from maya.errors import MayaError
from maya.heads.transducer.joint import Joint, JointConfig
from maya.heads.transducer.predictor import Predictor, PredictorConfig, PredictorState
from maya.heads.transducer.simple import SimpleJoint
from maya.heads.transducer.stateless import StatelessConfig, StatelessPredictor, StatelessState

AnyPredictor = Predictor | StatelessPredictor
AnyPredictorConfig = PredictorConfig | StatelessConfig


def build_predictor(cfg: AnyPredictorConfig, vocab_size: int, blank: int | None = None) -> AnyPredictor:
    """The prediction network of `vocab_size` labels besides `blank`, by default the id after them. Raises
    MayaError for an LSTM with another blank."""
    if isinstance(cfg, StatelessConfig):
        return StatelessPredictor(cfg, vocab_size, blank)
    if blank not in (None, vocab_size):
        raise MayaError(
            "an LSTM predictor has its blank after the labels; only a stateless one takes another"
        )
    return Predictor(cfg, vocab_size)


__all__ = [
    "AnyPredictor",
    "AnyPredictorConfig",
    "Joint",
    "JointConfig",
    "Predictor",
    "PredictorConfig",
    "PredictorState",
    "SimpleJoint",
    "StatelessConfig",
    "StatelessPredictor",
    "StatelessState",
    "build_predictor",
]
