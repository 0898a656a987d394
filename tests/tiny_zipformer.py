"""The smallest icefall model, for tests: filter banks, Zipformer, stateless predictor, blank 0."""

from typing import Any

from maya.encoders import ZipformerConfig
from maya.features import FbankConfig
from maya.heads.transducer import JointConfig, StatelessConfig
from maya.models.config import SpeechModelConfig
from maya.models.hybrid import hybrid


def encoder(**options: Any) -> ZipformerConfig:
    """Three stacks. With `causal=True`, chunks of 16 or 32 frames of 20 ms."""
    sizes: dict[str, Any] = {
        "downsampling": (1, 2, 4),
        "layers": (1, 2, 1),
        "dims": (16, 32, 24),
        "unmasked_dims": (12, 24, 24),
        "ff_dims": (32, 32, 32),
        "heads": (2, 2, 2),
        "conv_kernels": (7, 7, 5),
        "query_head_dim": 8,
        "value_head_dim": 4,
        "pos_dim": 16,
    }
    chunks = {"chunk_frames": (16, 32, -1), "left_context_frames": (32, 64, -1)}
    return ZipformerConfig(**(sizes | (chunks if options.get("causal") else {}) | options))


def config(causal: bool = False, **options: Any) -> SpeechModelConfig:
    """A pruned transducer and a CTC head over 20 pieces, the first of which is the blank."""
    parts: dict[str, Any] = {
        "features": FbankConfig(),
        "encoder": encoder(causal=causal),
        "predictor": StatelessConfig(hidden=32),
        "joint": JointConfig(hidden=32, activation="tanh"),
        "transducer": "pruned",
        "blank_first": True,
        "vocab_size": 20,
    }
    return hybrid(**(parts | options))
