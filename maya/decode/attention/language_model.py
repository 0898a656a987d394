"""Decoding with a language model head: it continues the prompt and the speech with the transcript."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.heads import HeadConfig, LanguageModelConfig

_LEAST_TOKENS = 8  # that even the shortest utterance may get


@config
class GenerationConfig(MethodConfig):
    """Greedy generation. The head's own `tokens_per_second` limits the length of a transcript."""

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (LanguageModelConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {}
    no_stream: ClassVar[str] = "a language model reads the whole utterance before it writes"

    kind: Literal["language_model"] = "language_model"


class Generation(Method, config=GenerationConfig):
    """Transcripts of at most 8 tokens more than the head's `tokens_per_second` allow. Rows without frames
    are empty."""

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        (head,) = self.heads
        if langs is None:
            langs = torch.full((len(encoded.frames),), -1, device=encoded.frames.device)
        tokens_per_frame = self.model.frame_seconds * head.cfg.tokens_per_second
        limits = [
            _LEAST_TOKENS + math.ceil(frames * tokens_per_frame) if frames else 0
            for frames in encoded.lens.tolist()
        ]
        generated = head.generate(*head.project(encoded), langs, max_tokens=limits)
        return [Hypothesis(tokens=row.tokens, scores=row.scores) for row in generated]
