"""Transducers: prediction and joint networks, shared by RNN-T and TDT, and the head made of them."""

from maya.heads.transducer.head import (
    AnyPredictor,
    AnyPredictorConfig,
    PrunedConfig,
    TransducerConfig,
    TransducerHead,
    build_predictor,
)
from maya.heads.transducer.joint import Joint, JointConfig
from maya.heads.transducer.predictor import Predictor, PredictorConfig, PredictorState
from maya.heads.transducer.simple import SimpleJoint
from maya.heads.transducer.stateless import StatelessConfig, StatelessPredictor, StatelessState

__all__ = [
    "AnyPredictor",
    "AnyPredictorConfig",
    "Joint",
    "JointConfig",
    "Predictor",
    "PredictorConfig",
    "PredictorState",
    "PrunedConfig",
    "SimpleJoint",
    "StatelessConfig",
    "StatelessPredictor",
    "StatelessState",
    "TransducerConfig",
    "TransducerHead",
    "build_predictor",
]
