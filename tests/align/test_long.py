"""Long recordings: a text with passages that were not spoken, and speech that is not in the text."""

import random
import resource
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from maya.align.aligner import align_rows
from maya.align.anchors import leaves
from maya.align.ctc import SkipCosts
from maya.align.text import SpelledText
from maya.align.windows import FrameRows
from maya.decode.ctc.greedy import CTCDecoder

VOCAB, BLANK, FRAME = 200, 0, 0.08


@dataclass
class Speech:
    """Words as tuples of tokens; for each spoken word the frames at which it begins and ends."""

    spoken: list[tuple[int, ...]]
    start: list[int]
    end: list[int]
    frames: int


def random_words(count: int, rng: random.Random) -> list[tuple[int, ...]]:
    vocabulary = [tuple(rng.randrange(1, VOCAB) for _ in range(rng.randrange(1, 5))) for _ in range(800)]
    weights = [1 / (n + 3) for n in range(800)]  # frequent words repeat, as in a language
    return rng.choices(vocabulary, weights, k=count)


def speak(
    words: list[tuple[int, ...]], rows: FrameRows | None, decoder: CTCDecoder, rng: random.Random
) -> Speech:
    """Put the CTC output of words into `rows` and `decoder`: a token is one or two frames, with blanks
    between; one token in fifteen is recognised as another."""
    speech = Speech(words, [], [], 0)
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    pending: list[int] = []

    def flush(last: bool = False) -> None:
        if rows is None or (len(pending) < 2000 and not last):
            return
        logits = torch.randn(len(pending), VOCAB, generator=generator)
        logits[torch.arange(len(pending)), torch.tensor(pending)] += 9
        log_probs = logits.log_softmax(-1)
        rows.append(log_probs)
        decoder.push(log_probs[None], torch.tensor([len(pending)]))
        pending.clear()

    last = 0
    for word in words:
        for n, token in enumerate(word):
            gap = rng.randrange(1, 6) if token == last or n == 0 else rng.randrange(0, 3)
            pending += [BLANK] * gap
            speech.frames += gap
            if n == 0:
                speech.start.append(speech.frames)
            output = rng.randrange(1, VOCAB) if rng.random() < 1 / 15 else token
            length = rng.randrange(1, 3)
            pending += [output] * length
            speech.frames += length
            last = output
        speech.end.append(speech.frames)
        flush()
    flush(last=True)
    return speech


def spelled(words: list[tuple[int, ...]]) -> SpelledText:
    return SpelledText(
        words=[str(n) for n in range(len(words))], lines=[0] * len(words),
        tokens=np.array([token for word in words for token in word], np.int64),
        owners=np.repeat(np.arange(len(words)), [len(word) for word in words]),
    )  # fmt: skip


def check(hours: float, seed: int) -> dict[str, float]:
    """Align a text in which passages of 3 to 400 words are dropped or inserted, about one in 300 words."""
    rng = random.Random(seed)
    count = int(hours * 3600 / 0.55)
    words = random_words(count, rng)
    spoken_words, text, truth = [], [], []  # truth: the place in the speech of each word of the text, or -1
    at = 0
    while at < count:
        part = words[at : at + rng.randrange(100, 500)]
        at += len(part)
        text += part
        truth += range(len(spoken_words), len(spoken_words) + len(part))
        spoken_words += part
        passage = random_words(rng.choice((3, 10, 40, 400)), rng)
        if rng.random() < 0.5:
            text, truth = text + passage, truth + [-1] * len(passage)
        else:
            spoken_words += passage
    decoder = CTCDecoder(lambda x: x, 1, blank=BLANK)
    total = speak(spoken_words, None, decoder, random.Random(seed)).frames
    rows = FrameRows(total, VOCAB)
    speech = speak(spoken_words, rows, decoder, random.Random(seed))
    spells = spelled(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spans = align_rows(
        rows, total, spells, decoder.hyps[0], blank=BLANK, costs=SkipCosts(), most=round(100 / FRAME)
    )
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # kB on Linux
    first, errors, lost, invented = spells.first, 0, 0, 0
    for word, place in enumerate(truth):
        begin, end = first[word], first[word] + len(text[word])
        tokens = [i for i in range(begin, end) if spans.start[i] >= 0]
        if place < 0:
            invented += bool(tokens)
        elif not tokens:
            lost += 1
        else:
            near = abs(spans.start[tokens[0]] - speech.start[place]) + abs(
                spans.end[tokens[-1]] - speech.end[place]
            )
            errors += near > 6
    unspoken = truth.count(-1)
    return {
        "frames": total, "words": len(text), "growth_mb": growth, "misplaced": float(errors) / len(text),
        "lost": lost / (len(text) - unspoken), "invented": invented / unspoken,
    }  # fmt: skip


def test_twenty_minutes_with_dropped_and_inserted_passages() -> None:
    result = check(1 / 3, 1)
    assert result["misplaced"] < 0.01 and result["lost"] < 0.03 and result["invented"] < 0.03, result


@pytest.mark.slow
def test_three_hours_with_dropped_and_inserted_passages() -> None:
    result = check(3, 2)
    print(result)
    assert result["frames"] * FRAME > 3 * 3600
    assert result["misplaced"] < 0.01 and result["lost"] < 0.03 and result["invented"] < 0.03, result
    assert result["growth_mb"] < 100, result


def test_leaves_cover_the_text_and_the_audio() -> None:
    rng = random.Random(0)
    words = random_words(3000, rng)
    decoder = CTCDecoder(lambda x: x, 1, blank=BLANK)
    frames = speak(words, None, decoder, random.Random(0)).frames
    speech = speak(words, FrameRows(frames, VOCAB), decoder, random.Random(0))
    text = spelled(words)
    cut = leaves(text.tokens.tolist(), text.first.tolist(), decoder.hyps[0], frames, most_frames=800)
    assert (cut[0].begin, cut[0].start) == (0, 0) and (cut[-1].end, cut[-1].stop) == (
        len(text.tokens),
        frames,
    )
    for leaf, following in zip(cut, cut[1:], strict=False):
        assert (leaf.end, leaf.stop) == (following.begin, following.start)
        place = int(np.searchsorted(text.first, leaf.end))
        assert text.first[place] == leaf.end  # before a word
        assert speech.end[place - 1] - 2 <= leaf.stop <= speech.start[place] + 2
    assert max(leaf.stop - leaf.start for leaf in cut) <= 1600


def test_large_rows_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(50, 7)
    memory = FrameRows(50, 7)
    monkeypatch.setattr("maya.align.windows._IN_MEMORY", 100)
    disk = FrameRows(50, 7)
    for rows in (memory, disk):
        rows.append(values[:30])
        rows.append(torch.cat([values[30:], values]))  # what is beyond the end is dropped
    assert np.array_equal(memory(10, 40), values[10:40].numpy())
    assert np.allclose(disk(10, 40), values[10:40].numpy(), atol=2e-3) and disk(45, 50).shape == (5, 7)
