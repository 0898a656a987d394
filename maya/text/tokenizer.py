"""SentencePiece tokenizers: trained deterministically, with a temperature over languages.

Token ids are SentencePiece ids. The blank is outside of the vocabulary: its id is `tokenizer.vocab_size`.
"""

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import sentencepiece as spm

from maya.config import config
from maya.errors import MayaError
from maya.ranges import PosInt, Range, Seed, Share
from maya.text.sample import LanguageText, TextSample, alphabet, gather

log = logging.getLogger(__name__)
UNKNOWN = "\u2047"  # ⁇, what an unknown piece decodes to


@config
class TokenizerConfig:
    """How a tokenizer is trained.

    temperature: the share of a language in the training text is proportional to characters^temperature. 1
    keeps
        the shares of the corpus, 0 makes all languages equal; values between them favour small languages.
    min_char_count: characters that occur at least so often in some language get a piece of their own; others
        are unknown, or spelt in bytes. 1: all characters get one.
    character_coverage: with a min_char_count of 1: share of all characters that must have a piece of their
        own. 1.0, no unknown characters, is right for alphabets and abugidas.
    byte_fallback: spell unknown characters in bytes; this takes 256 pieces of the vocabulary.
    max_sentences: a larger text is sampled down to this many sentences.
    lines_per_language: lines of each language to draw them from; limits the memory for a text of any length.
    file: a tokenizer that is taken as it is; then none is trained.
    """

    vocab_size: Annotated[int, Range(min=3)] = 1024
    model_type: Literal["unigram", "bpe"] = "bpe"
    temperature: Share = 0.5
    min_char_count: PosInt = 1
    character_coverage: Annotated[float, Range(above=0, max=1)] = 1.0
    byte_fallback: bool = False
    max_sentences: PosInt = 2_000_000
    lines_per_language: PosInt = 250_000
    num_threads: PosInt = 1  # another number can give another model: SentencePiece sums over threads
    seed: Seed = 0
    file: str = ""


class Tokenizer:
    """Text to token ids and back. Picklable; checkpoints carry `model_bytes`."""

    def __init__(self, model_bytes: bytes) -> None:
        self.model_bytes = model_bytes
        self._processor = spm.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model_bytes)
        except (RuntimeError, OSError) as error:  # by version of SentencePiece
            raise MayaError(f"this is not a SentencePiece model ({_last_line(error)})") from None

    @property
    def vocab_size(self) -> int:
        """Number of pieces, without blank; also the id of blank."""
        return self._processor.GetPieceSize()

    @property
    def unk_id(self) -> int:
        """The id of the unknown piece; -1 for a tokenizer that needs none, as one of bytes."""
        return self._processor.unk_id()

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of a normalised text; only an aggregate tokenizer uses `language`."""
        return self._processor.EncodeAsIds(text)

    def encode_batch(
        self, texts: Sequence[str], languages: Sequence[str | None] | None = None
    ) -> list[list[int]]:
        """Ids of each text, in order."""
        return self._processor.Encode(list(texts), num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without blanks; an unknown piece becomes ⁇."""
        return self._processor.DecodeIds([int(i) for i in ids])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece of each id; ▁ marks the beginning of a word."""
        return [self._processor.IdToPiece(int(i)) for i in ids]

    def scores(self, ids: Sequence[int]) -> list[float]:
        """SentencePiece's score of each id: a log-probability (unigram) or minus a merge's rank (BPE)."""
        return [self._processor.GetScore(int(i)) for i in ids]

    def is_byte(self, id: int) -> bool:
        """Whether an id stands for one byte of a character that has no piece."""
        return self._processor.IsByte(int(id))

    def save(self, path: Path | str) -> None:
        Path(path).write_bytes(self.model_bytes)

    @classmethod
    def train(cls, texts: Mapping[str, Sequence[str]] | TextSample, cfg: TokenizerConfig) -> "Tokenizer":
        return train_tokenizer(texts, cfg)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        return Tokenizer, (self.model_bytes,)


def train_tokenizer(texts: Mapping[str, Sequence[str]] | TextSample, cfg: TokenizerConfig) -> Tokenizer:
    """Train on normalised texts by language, or on a sample from `maya.text.sample.gather`. The same texts,
    order and config give the same bytes.

    A vocabulary larger than the text supports is reduced to the largest possible one, with a warning. Raises
    MayaError for one smaller than the number of distinct characters.
    """
    sample = as_sample(texts, cfg)
    sentences = list(sample_sentences(sample, cfg))
    required = _required_characters(sample, sentences, cfg)
    try:
        return Tokenizer(_train(sentences, cfg, cfg.vocab_size, required))
    except RuntimeError as error:
        message = str(error)
    if largest := re.search(r"value <= (\d+)", message):
        limit = int(largest.group(1))
        log.warning(
            "the text supports at most %d pieces, fewer than vocab_size=%d: training with %d",
            limit, cfg.vocab_size, limit,
        )  # fmt: skip
        return Tokenizer(_train(sentences, cfg, limit, required))
    if needed := re.search(r"required_chars\D*(\d+) vs (\d+)|smaller than required_chars", message):
        chars = f" ({needed.group(2)} pieces are needed)" if needed.group(2) else ""
        raise MayaError(
            f"vocab_size={cfg.vocab_size} is smaller than the number of distinct characters in the "
            f"training text{chars}; raise vocab_size or min_char_count, or lower character_coverage"
        )
    raise MayaError(f"SentencePiece could not train a tokenizer: {_last_line(message)}")


def as_sample(texts: Mapping[str, Sequence[str]] | TextSample, cfg: TokenizerConfig) -> TextSample:
    """The sample to train on. Raises MayaError for a language without text."""
    if all(isinstance(text, LanguageText) for text in texts.values()):
        sample: TextSample = dict(texts)  # type: ignore[arg-type]
    else:
        lines = ((code, line) for code, text in texts.items() for line in text)  # type: ignore[union-attr]
        sample = gather(lines, lines_per_language=cfg.lines_per_language, seed=cfg.seed)
    if not sample:
        raise MayaError("there is no text to train a tokenizer on")
    if empty := [code for code in texts if code not in sample or not sample[code].lines]:
        raise MayaError(f"there is no text in language {empty[0]!r} to train a tokenizer on")
    return sample


def training_shares(sample: TextSample, cfg: TokenizerConfig) -> dict[str, float]:
    """Share of each language in the characters of the training text, by characters^temperature."""
    weight = {code: text.length**cfg.temperature for code, text in sample.items()}
    return {code: w / sum(weight.values()) for code, w in weight.items()}


def sample_sentences(texts: Mapping[str, Sequence[str]] | TextSample, cfg: TokenizerConfig) -> Iterator[str]:
    """Training sentences, with the languages' shares of characters by cfg.temperature.

    The number of characters is that of all texts, or fewer for max_sentences. A language that needs more than
    it has is repeated. One that needs fewer is sampled without replacement; sentences that cover all its
    characters come first, so that sampling leaves no character unknown. Sentences with a character too rare
    for a piece (cfg.min_char_count) are skipped.
    """
    sample = as_sample(texts, cfg)
    shares = training_shares(sample, cfg)
    total = sum(text.length for text in sample.values())
    targets = {code: text.total_lines * (total * shares[code]) / text.length for code, text in sample.items()}
    shrink = min(1.0, cfg.max_sentences / sum(targets.values()))
    common = alphabet(sample, cfg.min_char_count) | {" "}
    for order, (code, text) in enumerate(sample.items()):
        lines = text.lines if cfg.min_char_count <= 1 else [t for t in text.lines if common.issuperset(t)]
        if not lines:
            raise MayaError(
                f"no sentence in language {code!r} is without a character that occurs fewer than "
                f"min_char_count={cfg.min_char_count} times; lower it"
            )
        count = max(1, round(targets[code] * shrink))
        rounds, rest = divmod(count, len(lines))
        for _ in range(rounds):
            yield from lines
        drawn = np.random.default_rng([cfg.seed, order]).permutation(len(lines)).tolist()
        if rounds == 0:
            covering = _covering(lines, drawn)
            chosen = set(covering)
            drawn = covering + [i for i in drawn if i not in chosen]
            rest = max(rest, len(covering))
        yield from (lines[i] for i in sorted(drawn[:rest]))


def _required_characters(sample: TextSample, sentences: Sequence[str], cfg: TokenizerConfig) -> str:
    """Characters that get a piece even if the drawn sentences do not contain them."""
    if cfg.min_char_count > 1:
        return "".join(sorted(alphabet(sample, cfg.min_char_count)))
    if cfg.character_coverage < 1.0:
        return ""
    seen: set[str] = set()
    for sentence in sentences:
        seen.update(sentence)
    return "".join(sorted(alphabet(sample, 1) - seen))


def _covering(texts: Sequence[str], order: Sequence[int]) -> list[int]:
    """The indices in `order` whose texts have a character that no earlier one has."""
    seen: set[str] = set()
    covering = []
    for i in order:
        new = set(texts[i]) - seen
        if new:
            seen |= new
            covering.append(i)
    return covering


def _train(sentences: list[str], cfg: TokenizerConfig, vocab_size: int, required: str) -> bytes:
    model = io.BytesIO()
    # The model stores this option even if it is empty. Left out when not needed, it keeps older models'
    # bytes.
    options: dict[str, Any] = {"required_chars": required} if required else {}
    spm.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocab_size,
        model_type=cfg.model_type,
        character_coverage=cfg.character_coverage,
        byte_fallback=cfg.byte_fallback,
        num_threads=cfg.num_threads,
        normalization_rule_name="identity",  # maya.text.normalize has normalised the text
        max_sentence_length=1 << 20,  # bytes; the default of 4192 drops longer ones silently
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_surface=UNKNOWN,  # without the spaces around it, which would split words
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
