"""Prediction and joint networks, shared by RNN-T and TDT."""

from maya.transducer.joint import Joint, JointConfig
from maya.transducer.predictor import Predictor, PredictorConfig, PredictorState
from maya.transducer.simple import SimpleJoint
from maya.transducer.stateless import StatelessConfig, StatelessPredictor, StatelessState

__all__ = [
    "Joint",
    "JointConfig",
    "Predictor",
    "PredictorConfig",
    "PredictorState",
    "SimpleJoint",
    "StatelessConfig",
    "StatelessPredictor",
    "StatelessState",
]
