"""Whether an utterance has enough frames for its text.

CTC emits at most one token a frame and a blank between two equal ones: U tokens with r repeats need U + r of
the S frames that subsampling leaves (Graves et al., "Connectionist temporal classification", ICML 2006).
Transducers may emit several tokens on a frame, but one that must is a sign of a wrong pair, and pruned RNN-T
and greedy decoding bound how many. `maya.encoders.FrameClock` counts the frames of an utterance.
"""

from collections.abc import Sequence


def ctc_frames(tokens: Sequence[int]) -> int:
    """Frames that CTC needs for (U,) token ids."""
    return len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
