"""Decoding of one window of Whisper: greedy or beam search, or samples where its text is improbable."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch

from maya.decode.whisper.search import DecodedWindow, search_beams, search_lines
from maya.heads.whisper import WhisperDecoder, WhisperState


def decode_windows(
    head: WhisperDecoder, state: WhisperState, prompts: Sequence[Sequence[int]], cfg: Any, decode: Any,
    generator: torch.Generator,
) -> list[DecodedWindow]:  # fmt: skip
    """A window for each prompt of equal length; cfg: `WhisperConfig`. decode: gives the text of tokens."""
    if cfg.beam > 1:
        windows = search_beams(head, state, prompts, cfg)
    else:
        windows = search_lines(head, state, prompts, cfg, 0.0, generator)
    out = []
    for row, window in enumerate(windows):
        window.compression = compression(decode(window.tokens))
        tries = [window]
        for temperature in cfg.temperatures:
            if not _fails(tries[-1], cfg):
                break
            own = WhisperState(
                tuple((k[row : row + 1], v[row : row + 1]) for k, v in state.frames),
                None if state.seen is None else state.seen[row : row + 1],
            )
            samples = search_lines(head, own, [prompts[row]] * cfg.best_of, cfg, temperature, generator)
            best = max(samples, key=lambda w: w.rank(cfg.length_penalty))
            best.compression = compression(decode(best.tokens))
            tries.append(best)
        if _fails(tries[-1], cfg):
            concise = [w for w in tries if w.compression <= cfg.max_compression]
            best = max(concise or tries, key=lambda w: w.mean)
            best.temperature = tries[-1].temperature
            out.append(best)
        else:
            out.append(tries[-1])
    return out


def is_silent(window: DecodedWindow, cfg: Any) -> bool:
    """Whether a window holds no speech: the model says so, and its text is improbable too."""
    return window.no_speech > cfg.no_speech and window.mean <= cfg.min_logprob


def compression(text: str) -> float:
    """Bytes of a text over those that zlib needs for it."""
    data = text.strip().encode()
    return len(data) / len(zlib.compress(data))


def _fails(window: DecodedWindow, cfg: Any) -> bool:
    if window.no_speech > cfg.no_speech and window.mean < cfg.min_logprob:
        return False
    return window.compression > cfg.max_compression or window.mean < cfg.min_logprob
