"""Whisper's decoding rules, against a slow decoder that follows their definition, and word times."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maya.decode.whisper.alignment import median_filtered, timed_words, warped
from maya.decode.whisper.method import WhisperConfig, split
from maya.decode.whisper.search import DecodedWindow, search_beams, search_lines
from maya.decode.whisper.windows import compression, decode_windows, is_silent
from maya.errors import MayaError
from maya.heads import WhisperDecoder
from tests.convert import whisper_files as models

ZERO = 50


def slow_step(head: WhisperDecoder, encoded: Any, prompt: list[int], written: list[int]) -> dict[int, float]:
    """The log-probabilities of the tokens that may follow: all tokens are read again, and each rule looks at
    each token by itself."""
    ids = head.cfg.tokens
    special = {ids.start, ids.translate, ids.transcribe, ids.previous, ids.no_speech, ids.no_timestamps}
    logits = head.step(torch.tensor([prompt + written]), head.state(encoded))[0][0, -1].double().tolist()
    times = [t for t in written if t >= ids.zero]
    after_time = bool(written) and written[-1] >= ids.zero
    after_pair = after_time and (len(written) == 1 or written[-2] >= ids.zero)
    allowed = set()
    for token in range(len(logits)):
        is_time = token >= ids.zero
        if token in special or token in head.cfg.suppress:
            continue
        if not written and (not is_time or token > ids.zero + 50 or token in head.cfg.suppress_first):
            continue
        if after_time and (is_time if after_pair else token < ids.end):
            continue
        if is_time and times and token < times[-1] + (0 if after_time and not after_pair else 1):
            continue
        allowed.add(token)

    def mass(tokens: set[int]) -> float:
        return math.fsum(math.exp(logits[t]) for t in tokens)

    all_times = {t for t in allowed if t >= ids.zero}
    text = allowed - all_times
    if text and mass(all_times) > max(math.exp(logits[t]) for t in text):
        allowed = all_times
    return {t: logits[t] - math.log(mass(allowed)) for t in sorted(allowed)}


def slow_greedy(head: WhisperDecoder, encoded: Any, prompt: list[int], limit: int) -> tuple[list[int], float]:
    """The tokens of one row, and the sum of their log-probabilities with the end's."""
    written: list[int] = []
    total = 0.0
    for _ in range(limit):
        logps = slow_step(head, encoded, prompt, written)
        best = max(logps, key=lambda t: logps[t])
        total += logps[best]
        if best == head.cfg.tokens.end:
            break
        written.append(best)
    return written, total


def slow_beam(
    head: WhisperDecoder, encoded: Any, prompt: list[int], cfg: WhisperConfig
) -> tuple[list[int], float]:
    """The best tokens of one row, and the sum of their log-probabilities with the end's: sorted lists, by
    the description of `search_beams`."""
    end = head.cfg.tokens.end
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    results: list[tuple[float, list[int]]] = []
    for position in range(cfg.max_tokens):
        pairs = [
            (total + logp, [*tokens, token])
            for total, tokens in beams
            for token, logp in slow_step(head, encoded, prompt, tokens).items()
        ]
        best = sorted(pairs, key=lambda pair: -pair[0])[: 2 * cfg.beam]
        closed = [p for p in best[: cfg.beam] if p[1][-1] == end or position == cfg.max_tokens - 1]
        results += closed
        if len(results) >= round(cfg.beam * cfg.patience):
            break
        beams = [p for p in best if p[1][-1] != end][: cfg.beam]
    texts = [(total, [t for t in tokens if t != end]) for total, tokens in results]
    total, tokens = max(texts, key=lambda pair: pair[0] / max(1, len(pair[1])) ** cfg.length_penalty)
    return tokens, total


@pytest.mark.parametrize("seed", range(4))
def test_greedy_windows_follow_the_definition(seed: int, tmp_path: Path) -> None:
    model = models.recognizer(tmp_path, seed=seed)
    head = model.model.head("whisper")
    assert isinstance(head, WhisperDecoder)
    # Timestamps are rare in random models unless they are made likelier.
    head.token_embedding.weight.data[head.cfg.tokens.zero :] *= 1.0 + 0.2 * seed
    audio = torch.stack([models.speech(2.0, n) for n in range(2)])
    cfg = WhisperConfig(temperatures=(), max_tokens=12)
    with torch.no_grad():
        encoded = model.model.encode_audio(audio, torch.tensor([32000, 20000]))
        prompts = head.prompt([0, 1], timestamps=True)
        windows = decode_windows(
            head, head.state(encoded), prompts, cfg, model.tokenizer.decode, torch.Generator()
        )
        for row, window in enumerate(windows):
            lone = model.model.encoder(
                model.model.features(audio[row : row + 1], torch.tensor([32000 - 12000 * row]))[0],
                torch.tensor([200]),
            )
            tokens, total = slow_greedy(head, lone, prompts[row], 12)
            assert window.tokens == tokens
            assert abs(window.mean * (len(tokens) + 1) - total) < 1e-3 or len(tokens) == 12


@pytest.mark.parametrize(("beam", "patience", "penalty"), [(1, 1.0, 1.0), (3, 1.0, 1.0), (2, 2.0, 0.5)])
def test_beams_follow_the_definition(beam: int, patience: float, penalty: float, tmp_path: Path) -> None:
    model = models.recognizer(tmp_path, seed=1)
    head = model.model.head("whisper")
    assert isinstance(head, WhisperDecoder)
    ids = head.cfg.tokens
    head.token_embedding.weight.data[ids.zero :] *= 1.2
    head.token_embedding.weight.data *= 0.3  # close decisions, so that hypotheses end early and late
    head.token_embedding.weight.data[ids.end] *= 2.0
    cfg = WhisperConfig(temperatures=(), max_tokens=6, beam=beam, patience=patience, length_penalty=penalty)
    audio = torch.stack([models.speech(2.0, n) for n in range(3)])
    with torch.no_grad():
        encoded = model.model.encode_audio(audio, torch.full((3,), 32000))
        prompts = head.prompt([0, 1, 2], timestamps=True)
        windows = search_beams(head, head.state(encoded), prompts, cfg)
        greedy = search_lines(head, head.state(encoded), prompts, cfg, 0.0, torch.Generator())
        for row, window in enumerate(windows):
            lone = model.model.encode_audio(audio[row : row + 1], torch.tensor([32000]))
            tokens, total = slow_beam(head, lone, prompts[row], cfg)
            assert window.tokens == tokens
            assert sum(window.scores) >= total - 1e-3  # without the end's
            if beam == 1:
                assert window.tokens == greedy[row].tokens and window.mean == pytest.approx(greedy[row].mean)


def test_segments_and_the_next_window_follow_from_timestamps() -> None:
    a, b, t = 1, 2, lambda n: ZERO + n
    # Closed pairs: go on at the last; an open end: the whole window; one segment without times.
    assert split([t(0), a, t(10), t(10), b, t(20), t(20)], ZERO, 200) == (
        [(0, 3, 0.0, 0.2), (3, 6, 0.2, 0.4)], 40)  # fmt: skip
    assert split([t(0), a, t(10), t(15), b, t(40)], ZERO, 200) == (
        [(0, 3, 0.0, 0.2), (3, 6, 0.3, 0.8)], 200)  # fmt: skip
    assert split([t(0), a, b], ZERO, 150) == ([(0, 3, 0.0, 1.5)], 150)
    assert split([t(0), a, t(25)], ZERO, 150) == ([(0, 3, 0.0, 0.5)], 150)
    assert split([], ZERO, 150) == ([(0, 0, 0.0, 1.5)], 150)


def test_improbable_windows_are_sampled_again_and_silence_is_skipped(tmp_path: Path) -> None:
    model = models.recognizer(tmp_path)
    head = model.model.head("whisper")
    assert isinstance(head, WhisperDecoder)
    encoded = model.model.encode_audio(models.speech(2.0)[None], torch.tensor([32000]))

    def decoded(**options: Any) -> DecodedWindow:
        cfg = WhisperConfig(max_tokens=8, best_of=2, **options)
        state, prompts = head.state(encoded), head.prompt([0], timestamps=True)
        generator = torch.Generator().manual_seed(1)
        return decode_windows(head, state, prompts, cfg, model.tokenizer.decode, generator)[0]

    assert decoded(min_logprob=-1e6, max_compression=1e6).temperature == 0.0
    failed = decoded(min_logprob=0.0, max_compression=1e6, no_speech=1.0)
    assert failed.temperature == 1.0 and failed.tokens == decoded(min_logprob=0.0, no_speech=1.0).tokens
    cfg = WhisperConfig()
    assert is_silent(DecodedWindow(no_speech=0.7, mean=-1.5), cfg) and not is_silent(
        DecodedWindow(no_speech=0.7, mean=-0.5), cfg
    )
    assert compression("a" * 200) > 2.4 > compression("the quick brown fox")


def test_the_cheapest_path_and_the_median_filter() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (1, 5), (4, 4), (5, 11), (9, 6)):
        cost = rng.normal(size=(rows, columns))
        total = np.full((rows + 1, columns + 1), np.inf)
        total[0, 0] = 0.0
        for i in range(rows):
            for j in range(columns):
                total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
        starts = warped(cost)
        assert len(starts) == rows and starts[0] == 0 and (np.diff(starts) >= 0).all()
        best = 0.0
        for i, j in zip(range(rows), starts, strict=True):
            after = starts[i + 1] if i + 1 < rows else columns
            both = [cost[i, j:k].sum() for k in {max(j + 1, after), max(j + 1, after + 1)} if k <= columns]
            best += 0 if not both else min(both)
        assert best <= total[rows, columns] + 1e-9
    x = torch.randn(2, 20)
    padded = np.pad(x.numpy(), ((0, 0), (3, 3)), mode="reflect")
    right = np.stack([np.median(padded[:, n : n + 7], axis=1) for n in range(20)], axis=1)
    assert np.allclose(median_filtered(x).numpy(), right)
    assert median_filtered(x[:, :3]).equal(x[:, :3])


def test_words_are_divided_at_spaces_and_punctuation_or_characters(tmp_path: Path) -> None:
    tokenizer: Any = models.recognizer(tmp_path).tokenizer
    for text, spaced, right in (
        (" the ants, sing", True, [" the", " ants", ",", " sing"]),
        ("\u4f60\u597d", False, ["\u4f60", "\u597d"]),
    ):
        tokens = tokenizer.encode(text)
        words = timed_words(tokens, np.arange(len(tokens) + 1) / 10, tokenizer.decode_exactly, spaced)
        assert [w.text for w in words] == right
        assert [(w.first, w.last) for w in words][0][0] == 0 and words[-1].last == len(tokens)
        assert all(abs(w.end - w.last / 10) < 1e-9 for w in words)


def test_recordings_of_many_windows_in_any_language(tmp_path: Path) -> None:
    model = models.recognizer(tmp_path)
    audio = [models.speech(5.3, 1).numpy(), models.speech(0.4, 2).numpy(), np.zeros(0, dtype=np.float32)]
    method = model.make_method(
        model.choose_method(), WhisperConfig(temperatures=(), max_tokens=10, no_speech=1.0)
    )
    rows = sorted(model.transcribe_each(audio, "auto", decoder=method), key=lambda r: r.place)
    hyps = [row.hypothesis for row in rows]
    assert hyps[0] is not None and hyps[0].language in models.LANGUAGES and hyps[0].language_probability
    assert hyps[0].tokens and len(hyps[0].spans) == len(hyps[0].tokens)
    assert all(0 <= w.start <= w.end <= 5.3 for w in hyps[0].words)  # type: ignore[operator]
    assert hyps[2] is not None and hyps[2].text == ""
    named = model.transcribe(audio[:1], "hi")
    assert named[0].language == "hi"
    with pytest.raises(MayaError, match="cannot decode a stream: Whisper reads windows of 30 s"):
        model.stream(method="whisper")
