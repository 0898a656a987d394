"""The search that the options of `maya transcribe` ask for: method, beam, language model, hot words."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from maya.config import override
from maya.decode.base import Method, MethodConfig
from maya.decode.fusion import Fusion
from maya.decode.lm.fusion_config import FusionConfig
from maya.decode.lm.make_fusion import make_fusion
from maya.decode.lm.phrases import Phrase, parse_phrase, read_phrases
from maya.decode.long.buffered import BufferConfig
from maya.decode.methods import AUTO, METHODS, MethodChoice
from maya.decode.punctuation import PunctuatedStream, Punctuation
from maya.decode.recognizer import Recognizer
from maya.decode.streaming import RecognizerStream
from maya.errors import MayaError
from maya.heads import HeadConfig

_BEAMS = ("alsd", "ctc_beam", "attention")
"""Beam searches that are tried, in this order, for the head that "auto" chose; the first that reads it."""

_NEURAL = ("lm.pt", "config.json")  # files in the folder of a neural language model


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """method: as decode.method. beam: hypotheses kept; 0: what the method does by itself, which is greedy
    search with "auto". n_best: hypotheses written. lm: an n-gram or a neural language model, see
    `FusionConfig`. hotwords: phrases, and files with a phrase a line. options: NAME=VALUE, of the method's
    configuration."""

    method: str = AUTO
    beam: int = 0
    n_best: int = 1
    lm: str = ""
    lm_weight: float | None = None
    hotwords: Sequence[str] = ()
    hotword_weight: float | None = None
    options: Sequence[str] = ()

    def check(self) -> None:
        """Raises MayaError for a weight without what it weighs, and for more results than hypotheses."""
        if self.lm_weight is not None and not self.lm:
            raise MayaError("--lm-weight is the weight of a language model: name one with --lm")
        if self.hotword_weight is not None and not self.hotwords:
            raise MayaError("--hotword-weight is the weight of hot words: name them with --hotwords")
        if self.beam and self.n_best > self.beam:
            raise MayaError(f"--n-best {self.n_best} needs --beam {self.n_best} or more")

    def phrases(self) -> list[Phrase]:
        """The hot words, those in files among them."""
        phrases: list[Phrase] = []
        for text in self.hotwords:
            phrases += read_phrases(text) if Path(text).is_file() else [parse_phrase(text)]
        return phrases

    def facts(self) -> dict[str, Any]:
        """What changes the result, the contents of files among it."""
        return {
            "method": self.method, "beam": self.beam, "n_best": self.n_best, "lm": _stamps(self.lm),
            "lm_weight": self.lm_weight, "hotword_weight": self.hotword_weight,
            "hotwords": [[p.text, p.weight, p.open] for p in self.phrases()],
            **({"options": list(self.options)} if self.options else {}),
        }  # fmt: skip


def make_decoder(recognizer: Recognizer, options: SearchOptions) -> Method | None:
    """The decoding method; None for a model that only predicts labels.

    Raises MayaError for a method that the model's heads do not allow, and for a beam, a language model or hot
    words that the method does not take.
    """
    options.check()
    if not recognizer.model.cfg.text_heads and options.method == AUTO:
        if options.beam or options.n_best > 1 or options.lm or options.hotwords or options.options:
            raise MayaError(
                "this model writes no text, so it takes no beam, language model, hot words or options"
            )
        return None
    return _decoder(recognizer, options, stream=False)


def make_stream(
    recognizer: Recognizer, options: SearchOptions, language: str | None, *, punctuate: bool = False
) -> RecognizerStream | PunctuatedStream:
    """A stream that decodes as audio comes; for an encoder that needs the audio around a frame, a buffered
    one, whose text comes some seconds later. punctuate: hypotheses are in their written form."""
    options.check()
    if language == AUTO:
        recognizer.stream(language)  # raises, and says what to do
    code = recognizer.model_language(language)
    decoder = _decoder(recognizer, options, stream=True)
    rules = recognizer.word_rules(decoder.cfg.kind)
    punctuation = Punctuation(recognizer) if punctuate else None
    settings: dict[str, Any] = {"language": code, "rules": rules, "keep_frames": punctuate}
    try:
        stream = RecognizerStream(decoder, recognizer.tokenizer, **settings)
    except MayaError:
        stream = RecognizerStream(decoder, recognizer.tokenizer, buffer=BufferConfig(), **settings)
    return stream if punctuation is None else PunctuatedStream(stream, punctuation)


def _decoder(recognizer: Recognizer, options: SearchOptions, *, stream: bool) -> Method:
    choice = recognizer.choose_method(options.method, stream=stream)
    beam = options.beam or (max(options.n_best, 4) if options.n_best > 1 else 0)
    if beam:
        choice = _with_beam(recognizer, choice, options.method)
        if stream and METHODS[choice.method].no_stream:
            raise MayaError(f"--beam cannot decode a stream: {METHODS[choice.method].no_stream}")
    cfg = _method_config(choice.method, beam, options.n_best)
    for text in options.options:
        override(cfg, text)
    fusion = _fusion(recognizer, options, choice)
    if fusion is not None and not METHODS[choice.method].fuses:
        raise MayaError(
            f"the method {choice.method} takes no language model and no hot words; name another with --method"
        )
    return recognizer.make_method(choice, cfg, fusion=fusion)


def _with_beam(recognizer: Recognizer, choice: MethodChoice, method: str) -> MethodChoice:
    """The choice, or a beam search of the same head if it is none."""
    if _has(METHODS[choice.method], "beam"):
        return choice
    head = recognizer.model.cfg.heads[choice.heads[0]]
    if (
        method == AUTO
        or method in recognizer.model.cfg.text_heads
        or METHODS[choice.method].greedy is not None
    ):
        for name in _BEAMS:
            if _reads(METHODS[name], head):
                return replace(choice, method=name)
    raise MayaError(f"the method {choice.method} keeps no beam; leave --beam out, or name another --method")


def _reads(method: type[MethodConfig], head: HeadConfig) -> bool:
    return len(method.heads) == 1 and isinstance(head, method.heads[0]) and not method().objection([head])


def _method_config(method: str, beam: int, n_best: int) -> MethodConfig:
    """The options of a method: greedy where it can be and no beam is asked for. There are no training texts
    here to make a language model of."""
    cls = METHODS[method]
    values: dict[str, Any] = {} if beam else dict(cls.greedy or {})
    if beam:
        values["beam"] = beam
    if n_best > 1:
        if not _has(cls, "n_best"):
            raise MayaError(f"the method {method} gives one hypothesis; leave --n-best out")
        values["n_best"] = n_best
    if _has(cls, "lm_order"):
        values |= {"lm_order": 0, "token_bonus": 0.0}
    return cls(**values)


def _has(cls: type[MethodConfig], name: str) -> bool:
    return any(f.name == name for f in fields(cls))


def _fusion(recognizer: Recognizer, options: SearchOptions, choice: MethodChoice) -> Fusion | None:
    if not options.lm and not options.hotwords:
        return None
    cfg = FusionConfig()
    path = Path(options.lm)
    if options.lm:
        if not path.exists():
            raise MayaError(f"there is no language model {path}; name an ARPA file, a KenLM file or a folder")
        if path.is_dir() and any((path / name).is_file() for name in _NEURAL):
            cfg.neural_lm = options.lm
        else:
            cfg.lm = options.lm
    if options.lm_weight is not None:
        cfg.lm_weight = cfg.neural_lm_weight = options.lm_weight
    if options.hotword_weight is not None:
        cfg.hotwords_weight = options.hotword_weight
    return make_fusion(cfg, recognizer, hotwords=options.phrases(), head=choice.heads[0])


def _stamps(path: str) -> list[Any]:
    """A file or folder, and when and how large its files were written."""
    if not path:
        return []
    top = Path(path)
    files = sorted(file for file in top.rglob("*") if file.is_file()) if top.is_dir() else [top]
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    return [str(top.resolve()), stamps]
