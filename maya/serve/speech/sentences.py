"""A text in pieces that are spoken one after the other: sentences, and a short piece first."""

import re

FIRST, LONGEST = 80, 240  # characters
_SENTENCE = re.compile(r"(?<=[.!?…।॥۔؟])[\"'”’»)\]]*\s+|(?<=[。！？])|\n+")
_CLAUSE = re.compile(r"(?<=[,;:،、，；：–—])\s*")


def pieces(text: str) -> list[str]:
    """The pieces of a text, in order, without empty ones. The first is short, so that it is heard soon;
    others are whole sentences, as many as fit into 240 characters. Longer sentences are divided, between
    clauses or words."""
    parts: list[str] = []
    for sentence in sentences(text):
        for part in _divided(sentence, LONGEST if parts else FIRST):
            if len(parts) > 1 and len(parts[-1]) + len(part) < LONGEST:
                parts[-1] += f" {part}"
            else:
                parts.append(part)
    return parts


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text that hold letters or digits."""
    return [part.strip() for part in _SENTENCE.split(text) if re.search(r"\w", part)]


def _divided(sentence: str, longest: int) -> list[str]:
    """A sentence in parts of at most so many characters; the first limit holds for the first part alone."""
    parts = []
    while len(sentence) > longest:
        ends = [match.end() for match in _CLAUSE.finditer(sentence, 10, longest)]
        ends = ends or [match.end() for match in re.finditer(r"\s+", sentence[:longest])] or [longest]
        parts.append(sentence[: ends[-1]].strip())
        sentence, longest = sentence[ends[-1] :].strip(), LONGEST
    return [part for part in (*parts, sentence) if part]
