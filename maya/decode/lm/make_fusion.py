"""From options to scorers: the language models and the hot words of a recogniser."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from maya.decode.fusion import Fusion, Part, Scorer
from maya.decode.lm.arpa import is_kenlm_binary, read_arpa
from maya.decode.lm.fusion_config import FusionConfig
from maya.decode.lm.internal import InternalLM
from maya.decode.lm.kenlm_file import KenLMBinary
from maya.decode.lm.neural import neural_scorer
from maya.decode.lm.phrases import Phrase, hot_words, read_phrases
from maya.decode.lm.token_ngram import TokenNGram
from maya.decode.lm.units import Units, token_words, units_of
from maya.decode.lm.vocabulary import Vocabulary, vocabulary
from maya.decode.lm.word_ngram import WordNGram
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer

Phrases = Iterable[Phrase | str]
ALL_LANGUAGES = "all"  # the name of the file for utterances without a language of their own
_SUFFIXES = (".arpa.gz", ".arpa")


class Decodes(Protocol):
    """The parts of a `Recognizer` that scorers are made from."""

    model: SpeechModel
    tokenizer: Tokenizer
    device: torch.device


def make_fusion(
    cfg: FusionConfig,
    recognizer: Decodes,
    *,
    hotwords: Phrases = (),
    lists: Sequence[Phrases] = (),
    head: str | None = None,
) -> Fusion | None:
    """The scorers of `cfg` on the recogniser's device; None if there are none.

    hotwords: phrases besides those of cfg.hotwords, for all utterances. lists: instead of both, a list for
    each kind of utterance; a search is given the index of each utterance's list (`Method.__call__`). head:
    the name of the head that decodes; by default the model's first text head.

    Raises MayaError for a file that cannot be read, a language model or a phrase that does not fit the
    tokenizer, and for `ilm_weight` with a head that has no internal language model.
    """
    model = recognizer.model
    name = head or next(iter(model.cfg.text_heads), None)
    if name is None:
        raise MayaError("language models and hot words need a model with a text head")
    module: Any = model.head(name)
    blank = getattr(module, "blank", model.cfg.vocab_size)
    vocab, languages = vocabulary(recognizer.tokenizer, model.cfg.vocab_size + 1, blank), model.cfg.languages
    parts: list[Part] = []

    def add(weight: float, scorer: Any) -> None:
        if isinstance(scorer, nn.Module):
            scorer = scorer.to(recognizer.device)
        parts.append(Part(weight=weight, scorer=cast(Scorer, scorer)))

    if cfg.ilm_weight:
        if not (hasattr(module, "joint") and hasattr(module, "decoder")):
            raise MayaError(
                f"ilm_weight is for transducers: the head {name!r} has no internal language model"
            )
        add(-cfg.ilm_weight, InternalLM(module.decoder, module.joint, blank))
    if cfg.lm and cfg.lm_weight:
        add(cfg.lm_weight, ngram_scorer(Path(cfg.lm), vocab, languages, cfg.lm_units))
    if cfg.lodr and cfg.lodr_weight:
        add(-cfg.lodr_weight, ngram_scorer(Path(cfg.lodr), vocab, languages))
    if cfg.neural_lm and cfg.neural_lm_weight:
        add(cfg.neural_lm_weight, neural_scorer(Path(cfg.neural_lm), vocab))
    phrases = [*hotwords, *(read_phrases(cfg.hotwords) if cfg.hotwords and not lists else ())]
    if cfg.hotwords_weight and (lists or phrases):
        add(cfg.hotwords_weight, hot_words(lists or [phrases], vocab, languages))
    fusion = Fusion(parts, blank=blank, token_bonus=cfg.token_bonus)
    return fusion if fusion else None


def ngram_scorer(
    path: Path, vocab: Vocabulary, languages: Sequence[str] = (), units: Units = "auto"
) -> TokenNGram | WordNGram | KenLMBinary:
    """The scorer of an ARPA file, of a folder of them by language, or of a binary of KenLM."""
    if path.is_dir():
        return _by_language(path, vocab, languages, units)
    if is_kenlm_binary(path):
        return _kenlm(path, vocab, units)
    arpa = read_arpa(path)
    if units == "auto":
        units = units_of(arpa, vocab, str(path))
    if units == "words":
        return WordNGram(arpa, vocab)
    return TokenNGram({"": arpa}, token_words(vocab, units), languages)


def _by_language(folder: Path, vocab: Vocabulary, languages: Sequence[str], units: Units) -> TokenNGram:
    files = {
        path.name.removesuffix(suffix): path
        for suffix in _SUFFIXES for path in sorted(folder.glob(f"*{suffix}"))
    }  # fmt: skip
    names = {code: path for code, path in files.items() if code in languages or code == ALL_LANGUAGES}
    if not names:
        expected = ", ".join(f"{code}.arpa" for code in [*languages[:3], ALL_LANGUAGES])
        raise MayaError(f"{folder} has no ARPA file of a language of this model; expected {expected}")
    arpas = {"" if code == ALL_LANGUAGES else code: read_arpa(path) for code, path in names.items()}
    kinds = {units_of(arpa, vocab, str(names[code or ALL_LANGUAGES])) for code, arpa in arpas.items()}
    if units == "auto" and len(kinds) == 1:
        (units,) = kinds
    if units in ("auto", "words"):
        raise MayaError(
            f"{folder} has models over {' and '.join(sorted(kinds))}: a folder of several languages needs "
            "models over tokens, as `maya lm` makes them; give a single file for a model over words"
        )
    return TokenNGram(arpas, token_words(vocab, units), languages)


def _kenlm(path: Path, vocab: Vocabulary, units: Units) -> KenLMBinary:
    """The binary with the units that know the most tokens."""
    tried = [KenLMBinary(path, token_words(vocab, kind)) for kind in _token_units(units)]
    best = max(tried, key=KenLMBinary.knows)
    if best.knows() < 0.5:
        raise MayaError(
            f"{path} knows only {best.knows():.0%} of the tokens of this model: it is over words or another "
            "tokenizer's tokens; for a model over words give the ARPA file"
        )
    return best


def _token_units(units: Units) -> list[Units]:
    return ["pieces", "ids", "nemo"] if units == "auto" else [units]
