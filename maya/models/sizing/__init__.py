"""How large a model is, on paper: parameters, operations, memory, and what a GPU makes of it."""

from maya.heads.cost import Terms
from maya.models.sizing.flops import Flops, count_frames, flops, is_checkpointed
from maya.models.sizing.gpus import GPUS, Gpu, gpu_named
from maya.models.sizing.memory import (
    Training,
    TrainingMemory,
    largest_batch,
    memory,
    meta_model,
    parameters,
    with_checkpointing,
)

__all__ = [
    "GPUS", "Flops", "Gpu", "Terms", "Training", "TrainingMemory", "count_frames", "flops", "gpu_named",
    "is_checkpointed", "largest_batch", "memory", "meta_model", "parameters", "with_checkpointing",
]  # fmt: skip
