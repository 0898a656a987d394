"""Decoding of one window of Whisper: greedy search, or samples where the greedy text is improbable."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maya.decode.whisper.rules import TokenRules
from maya.heads.whisper import WhisperDecoder, WhisperState, numbers


@dataclass(kw_only=True, slots=True)
class DecodedWindow:
    """The result of a window. tokens: with timestamps, without the end. scores: log-probability of each, in
    nats. mean: of these and of the end. no_speech: its probability. temperature: of the sampling, 0 for
    greedy. text: of the tokens, and how well it compresses, which tells repetitions."""

    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    mean: float = 0.0
    no_speech: float = 0.0
    temperature: float = 0.0
    compression: float = 0.0


def decode_windows(
    head: WhisperDecoder, state: WhisperState, prompts: Sequence[Sequence[int]], cfg: Any, decode: Any,
    generator: torch.Generator,
) -> list[DecodedWindow]:  # fmt: skip
    """A window for each prompt of equal length; cfg: `WhisperConfig`. decode: gives the text of tokens."""
    windows = _search(head, state, prompts, cfg, 0.0, generator)
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
            samples = _search(head, own, [prompts[row]] * cfg.best_of, cfg, temperature, generator)
            best = max(samples, key=lambda w: sum(w.scores) / max(1, len(w.scores)))
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


@torch.no_grad()
def _search(
    head: WhisperDecoder, state: WhisperState, prompts: Sequence[Sequence[int]], cfg: Any, temperature: float,
    generator: torch.Generator,
) -> list[DecodedWindow]:  # fmt: skip
    """One sequence for each prompt; the sequences of an utterance of `state` stand together."""
    rules, end = TokenRules(head, cfg.timestamps), head.cfg.tokens.end
    read = numbers(prompts, head.token_embedding.weight)
    logits, state = head.step(read, state)
    start = list(prompts[0]).index(head.cfg.tokens.start)
    silence = logits[:, start].softmax(-1)[:, head.cfg.tokens.no_speech].tolist()
    written: list[list[int]] = [[] for _ in prompts]
    scores: list[list[float]] = [[] for _ in prompts]
    done = torch.zeros(len(prompts), dtype=torch.bool, device=read.device)
    logits = logits[:, -1]
    for _ in range(min(cfg.max_tokens, head.cfg.positions - read.shape[1])):
        logp = rules(logits, written)
        chosen = _chosen(logp, temperature, generator).masked_fill(done, end)
        values = logp.gather(1, chosen[:, None])[:, 0].masked_fill(done, 0.0).tolist()
        for row, (token, value) in enumerate(zip(chosen.tolist(), values, strict=True)):
            written[row].append(token)
            scores[row].append(value)
        done |= chosen == end
        if bool(done.all()):
            break
        step, state = head.step(chosen[:, None], state)
        logits = step[:, 0]
    windows = []
    for tokens, logps, quiet in zip(written, scores, silence, strict=True):
        size = tokens.index(end) if end in tokens else len(tokens)
        mean = sum(logps[: size + 1]) / (size + 1)
        windows.append(DecodedWindow(
            tokens=tokens[:size], scores=logps[:size], mean=mean, no_speech=quiet, temperature=temperature,
        ))  # fmt: skip
    return windows


def _chosen(logp: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(N, V) -> (N,): the likeliest token, or a draw on the CPU, which is alike on every device."""
    if not temperature:
        return logp.argmax(-1)
    shares = (logp / temperature).softmax(-1).cpu()
    return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logp.device)
