"""Transcripts for tests of the formats."""

import random
from collections.abc import Sequence

from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.transcription import Transcript
from maya.decode.words import join_words, segments_of

TEXTS = {
    "en": "we go --> there & <b>back</b> {\\i1} again, 1 < 2 \\N",
    "hi": "क्षत्रिय श्री नमस्ते दुनिया । हम कल मिलेंगे",
    "ur": "یہ اردو کا ایک جملہ ہے ۔ دوسرا جملہ",
    "ta": "தமிழ் மொழி நல்ல மொழி",
    "zh": "我 们 去 北 京",
}


def transcript(words: Sequence[Word], *, seconds: float = 0.0, channel: int | None = None) -> Transcript:
    """A transcript of these words."""
    text = join_words([word.text for word in words])
    end = max((word.end or 0.0 for word in words), default=0.0)
    hyp = Hypothesis(text=text, words=list(words), segments=segments_of(words), language="en")
    return Transcript(id="talks/a b.wav", place=0, seconds=max(seconds, end), channel=channel, hypothesis=hyp)


def timed(text: str, *, step: float = 0.4) -> Transcript:
    """The words of a text, one every `step` seconds."""
    words = [
        Word(text=word, start=i * step, end=i * step + 0.3, confidence=0.5 + i % 2 / 4)
        for i, word in enumerate(text.split())
    ]
    return transcript(words, seconds=1 + step * len(words))


def randomly_timed(seed: int) -> Transcript:
    """Words of several scripts at times that may coincide, as those of a TDT with durations of 0."""
    rng, at = random.Random(seed), 0.0
    words = []
    for _ in range(rng.randrange(60)):
        text = rng.choice(rng.choice(list(TEXTS.values())).split()) + rng.choice(["", "", ".", "।"])
        at += rng.choice([0.0, 0.0, 0.0004, 0.08, 0.3, 1.5])
        end = at + rng.choice([0.0, 0.0001, 0.08, 0.4])
        words.append(Word(text=text, start=at, end=end))
        at = end
    return transcript(words, seconds=at + rng.choice([0.0, 2.0]))
