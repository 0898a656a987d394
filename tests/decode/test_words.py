"""Words of a hypothesis: their texts are those of the text, with times in order and a confidence each."""

import copy
import itertools
import pickle
import random
from dataclasses import replace

import pytest

from maya.decode import words
from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.words import (
    WordRules,
    clean_times,
    fill_times,
    join_words,
    rewrite_words,
    segments_of,
    split_words,
    token_spans,
    write_words,
)
from maya.text.aggregate import AggregateTokenizer
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer


class Pieces(Tokenizer):
    """A tokenizer of given pieces, which decodes as SentencePiece does."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def pieces(self, ids):  # type: ignore[no-untyped-def]
        return [self._pieces[i] for i in ids]

    def is_byte(self, id: int) -> bool:
        return self._pieces[id].startswith("<0x")

    def decode(self, ids):  # type: ignore[no-untyped-def]
        data = b"".join(
            bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") else piece.replace("▁", " ").encode()
            for piece in self.pieces(ids)
        )
        return data.decode("utf-8", "replace").replace("<unk>", "⁇").strip()


class Opaque(Pieces):
    """One whose pieces say nothing of its text, as those of a byte-level language model."""

    def pieces(self, ids):  # type: ignore[no-untyped-def]
        return ["x"] * len(ids)

    def decode(self, ids):  # type: ignore[no-untyped-def]
        return "".join(self._pieces[i].replace("▁", " ") for i in ids).strip()


def hypothesis(
    pieces: list[str], durations: list[int] | None = None, kind: type[Pieces] = Pieces
) -> Hypothesis:
    """A piece every two frames of 0.1 s, of confidence 0.9, 0.8, ..."""
    tokenizer, count = kind(pieces), len(pieces)
    hyp = Hypothesis(
        tokens=list(range(count)), frames=[2 * i for i in range(count)], durations=durations or [1] * count,
        confidences=[0.9 - 0.1 * i for i in range(count)], text=tokenizer.decode(range(count)),
        frame_seconds=0.1,
    )  # fmt: skip
    return write_words([hyp], tokenizer)[0]


def spans(hyp: Hypothesis) -> list[tuple[str, float, float]]:
    return [(w.text, round(w.start, 6), round(w.end, 6)) for w in hyp.words]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Pieces, Opaque])
def test_pieces_are_joined_at_word_marks(kind: type[Pieces]) -> None:
    hyp = hypothesis(["▁hel", "lo", "▁wor", "ld"], kind=kind)
    assert spans(hyp) == [("hello", 0.0, 0.3), ("world", 0.4, 0.7)]
    assert [w.confidence for w in hyp.words] == pytest.approx([0.8, 0.6])


def test_aggregations() -> None:
    values = {"min": 0.8, "mean": 0.85, "product": 0.72}
    for aggregation, expected in values.items():
        hyp, tokenizer = hypothesis(["▁a", "b"]), Pieces(["▁a", "b"])
        write_words([hyp], tokenizer, WordRules(aggregation=aggregation))  # type: ignore[arg-type]
        assert hyp.words[0].confidence == pytest.approx(expected)


def test_punctuation_neither_moves_the_end_nor_lowers_the_confidence() -> None:
    hyp = hypothesis(["▁“", "yes", ",", "▁no", ".", "”"])
    assert spans(hyp) == [("“yes,", 0.2, 0.3), ("no.”", 0.6, 0.7)]
    assert [w.confidence for w in hyp.words] == pytest.approx([0.8, 0.6])
    alone = hypothesis(["▁हाँ", "▁।", "▁ठीक", "▁।"])
    assert spans(alone) == [("हाँ", 0.0, 0.1), ("।", 0.1, 0.1), ("ठीक", 0.4, 0.5), ("।", 0.5, 0.5)]
    assert [segment.text for segment in alone.segments] == ["हाँ ।", "ठीक ।"]


def test_bytes_of_a_character_and_unknown_pieces() -> None:
    hyp = hypothesis(["▁a", "<0xE0>", "<0xA4>", "<0x95>", "b", "▁", "<unk>", "▁c"])
    assert [w.text for w in hyp.words] == ["aकb", "⁇", "c"]
    assert spans(hyp)[0] == ("aकb", 0.0, 0.9) and hyp.words[0].confidence == pytest.approx(0.5)
    broken = hypothesis(["▁a", "<0xE0>", "<0xA4>", "▁b"])
    assert [w.text for w in broken.words] == broken.text.split() and broken.words[-1].start == pytest.approx(
        0.6
    )


def test_tokens_on_one_frame_share_it() -> None:
    hyp = Hypothesis(tokens=[1, 2, 3, 4], frames=[3, 3, 3, 9], durations=[0, 0, 3, 2])
    assert token_spans(hyp) == [(3, 4), (4, 5), (5, 6), (9, 11)]
    crowded = Hypothesis(tokens=[1, 2, 3], frames=[3, 4, 4], durations=[4, 0, 0])
    assert token_spans(crowded) == [(3, 4), (4, 4.5), (4.5, 5)]
    assert token_spans(Hypothesis(tokens=[1, 2])) == []


def test_scripts_without_spaces_are_characters_with_their_marks() -> None:
    assert split_words("我是 Bob。你好") == ["我", "是", "Bob。", "你", "好"]
    assert split_words("ที่นี่") == ["ที่", "นี่"]
    assert split_words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert join_words(split_words("「你好。」 hello world")) == "「你好。」 hello world"
    hyp = hypothesis(["▁我", "是中", "。"])
    assert spans(hyp) == [("我", 0.0, 0.1), ("是", 0.2, 0.25), ("中。", 0.25, 0.3)]


def test_without_frames_or_confidences() -> None:
    tokenizer = Pieces(["▁a", "▁b"])
    (hyp,) = write_words([Hypothesis(tokens=[0, 1], text="a b")], tokenizer)
    assert hyp.words == [Word(text="a"), Word(text="b")] and hyp.segments[0].start is None
    (scored,) = write_words([Hypothesis(tokens=[0, 1], text="a b", scores=[-0.1, -2.0])], tokenizer)
    assert [w.confidence for w in scored.words] == pytest.approx([0.904837, 0.135335], rel=1e-5)
    assert write_words([Hypothesis()], tokenizer)[0].words == []


def test_segments_end_with_sentences_and_before_pauses() -> None:
    texts = ["Hi.", "It", "is", "late.”", "So", "क्या?", "हाँ।"]
    words = [Word(text=text, start=float(i), end=i + 0.5, confidence=0.5) for i, text in enumerate(texts)]
    words[5].start = words[5].end = 9.0
    words[6].start = words[6].end = 9.5
    parts = [segment.text for segment in segments_of(words)]
    assert parts == ["Hi.", "It is late.”", "So", "क्या?", "हाँ।"]
    assert segments_of(words)[1].start == 1.0 and segments_of(words)[1].end == 3.5
    assert len(segments_of(words, gap_seconds=100, sentences=False)) == 1


@pytest.mark.parametrize("seed", range(30))
def test_times_are_put_in_order(seed: int) -> None:
    rng = random.Random(seed)
    words = [Word(text="a", start=rng.uniform(-1, 6), end=rng.uniform(-1, 6)) for _ in range(12)]
    clean_times(words, offset_seconds=rng.uniform(-1, 1), seconds=5.0)
    times = list(itertools.chain.from_iterable((w.start, w.end) for w in words))
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 5  # type: ignore[operator,type-var]


def test_offset_and_length_of_the_recording_apply() -> None:
    tokenizer = Pieces(["▁a", "▁b"])
    hyp = Hypothesis(tokens=[0, 1], frames=[2, 6], durations=[2, 4], text="a b", frame_seconds=0.1)
    write_words([hyp], tokenizer, WordRules(offset_seconds=0.05), seconds=[0.8])
    assert spans(hyp) == [("a", 0.15, 0.35), ("b", 0.55, 0.8)]


def test_words_without_times_are_placed_between_their_neighbours() -> None:
    words = [Word(text="a", start=1.0, end=2.0), Word(text="bbb"), Word(text=","), Word(text="c"),
             Word(text="d", start=4.0, end=5.0), Word(text="e")]  # fmt: skip
    fill_times(words, total=5.4)
    assert [(w.start, w.end) for w in words[1:4]] == [(2.0, 3.5), (3.5, 3.5), (3.5, 4.0)]
    assert (words[5].start, words[5].end) == (5.0, 5.4)


def test_words_of_another_form_of_the_text_keep_times() -> None:
    spoken = ["it", "costs", "twenty", "five", "dollars", "today"]
    words = [Word(text=t, start=float(i), end=i + 0.5, confidence=1 - i / 10) for i, t in enumerate(spoken)]
    rewritten = rewrite_words(words, "It costs $25 today.")
    assert [w.text for w in rewritten] == ["It", "costs", "$25", "today."]
    assert [(w.start, w.end) for w in rewritten] == [(0.0, 0.5), (1.0, 1.5), (2.0, 4.5), (5.0, 5.5)]
    assert rewritten[2].confidence == pytest.approx(0.6)


@pytest.fixture(scope="module")
def tokenizers() -> list[Tokenizer]:
    texts = {"en": ["the cat sat on the mat", "a dog's life, well"], "hi": ["वह घर गया था", "मैं क्या करूँ"]}
    cfg = TokenizerConfig(vocab_size=340, byte_fallback=True)
    own = {
        code: train_tokenizer({code: lines}, TokenizerConfig(vocab_size=30)) for code, lines in texts.items()
    }
    return [train_tokenizer(texts, cfg), own["en"], AggregateTokenizer(own)]


@pytest.mark.parametrize("seed", range(40))
def test_every_word_has_its_text_a_confidence_and_a_time(tokenizers: list[Tokenizer], seed: int) -> None:
    """For any tokens of any tokenizer, also those that spell no text (broken bytes, unknown pieces)."""
    rng = random.Random(seed)
    for tokenizer in tokenizers:
        count = rng.randrange(0, 30)
        tokens = [rng.randrange(tokenizer.vocab_size) for _ in range(count)]
        frames = sorted(rng.randrange(40) for _ in range(count))
        hyp = Hypothesis(
            tokens=tokens, frames=frames, durations=[rng.randrange(5) for _ in range(count)],
            confidences=[rng.random() for _ in range(count)], text=tokenizer.decode(tokens),
            frame_seconds=0.08,
        )  # fmt: skip
        write_words([hyp], tokenizer, seconds=[3.0])
        assert [w.text for w in hyp.words] == hyp.text.split()
        assert [w.text for s in hyp.segments for w in s.words] == hyp.text.split()
        assert all(w.confidence is not None and 0 <= w.confidence <= 1 for w in hyp.words)
        times = [time for w in hyp.words for time in (w.start, w.end)]
        assert None not in times and times == sorted(times) and (not times or times[-1] <= 3.0)  # type: ignore[operator,type-var]


def test_words_are_made_when_they_are_read(monkeypatch):
    made = []
    monkeypatch.setattr(words, "make_words", lambda *a, **o: made.append(1) or [Word(text="a")])
    hyps = [Hypothesis(tokens=[0], text="a", scores=[-0.1]) for _ in range(4)]
    write_words(hyps, Pieces(["a"]))
    assert not made and hyps[0].text == "a"
    assert [w.text for w in hyps[0].words] == [s.text for s in hyps[0].segments] == ["a"] and len(made) == 1
    assert pickle.loads(pickle.dumps(hyps[1])) == copy.deepcopy(hyps[2]) == replace(hyps[3])
    assert len(made) == 4
