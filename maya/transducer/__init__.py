"""Prediction and joint networks, shared by RNN-T and TDT."""

from maya.transducer.joint import Joint, JointConfig
from maya.transducer.predictor import Predictor, PredictorConfig, PredictorState

__all__ = ["Joint", "JointConfig", "Predictor", "PredictorConfig", "PredictorState"]
