"""Decoding with an output layer for each language (`maya.heads.multisoftmax`): every method works on the
ordinary model of one language; here the rows of a batch are dealt out to these models."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from maya.decode.base import Method, MethodConfig, MethodContext, StreamDecoder
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads.multisoftmax import Multisoftmax, plain, rows_by_language
from maya.models.speech_model import SpeechModel
from maya.text.aggregate import AggregateTokenizer
from maya.text.tokenizer import Tokenizer


def build_method(options: MethodConfig, context: MethodContext) -> Method:
    """The method of a configuration, dealt out by language where its heads are."""
    heads = [isinstance(context.model.head(name), Multisoftmax) for name in context.heads]
    if all(heads):
        return MethodByLanguage(options, context)
    if any(heads):
        raise MayaError("this method reads heads with and without an output layer for each language")
    method: Method = options.build(context)
    return method


class MethodByLanguage(Method):
    """`options`' method for each language that occurs. Hypotheses have the token ids of the whole
    vocabulary."""

    def __init__(self, options: MethodConfig, context: MethodContext) -> None:
        if context.fusion is not None:
            raise MayaError(
                "language models and hot words need a model of one language: "
                "give maya convert --language, or take Recognizer.for_language"
            )
        self.cfg, self.model, self.fusion = options, context.model, None
        self.aligner = context.model.head(context.align_by) if context.align_by else None
        self.heads = tuple(context.model.head(name) for name in context.heads)
        self.languages, self.offsets = self.heads[0].languages, self.heads[0].offsets
        self._context, self._methods = context, dict[int, Method]()

    def method(self, index: int) -> Method:
        """The method of a language, made when it is first needed."""
        if index not in self._methods:
            texts, context = self._context.texts, self._context
            own = None if texts is None else self._texts(texts, index)
            context = replace(context, model=sliced(self.model, index), texts=own)
            self._methods[index] = self.cfg.build(context)
        return self._methods[index]

    def _texts(self, texts: Callable[[], Iterable[tuple[str, Sequence[int]]]], index: int) -> Any:
        code, offset = self.languages[index], self.offsets[index]
        return lambda: ((lang, [i - offset for i in ids]) for lang, ids in texts() if lang == code)

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        hyps: dict[int, Hypothesis] = {}
        for index, rows in rows_by_language(self._named(langs, len(encoded.frames)), self.languages):
            on_device = rows.to(encoded.frames.device)
            hidden = {layer: x[on_device] for layer, x in encoded.hidden.items()}
            own = Encoded(encoded.frames[on_device], encoded.lens[on_device], hidden)
            decoded = self.method(index).search(own, torch.full_like(on_device, index))
            for row, hyp in zip(rows.tolist(), decoded, strict=True):
                hyps[row] = _shifted(hyp, self.offsets[index])
        return [hyps[row] for row in range(len(encoded.frames))]

    def stream(self, batch: int, langs: Tensor | None = None) -> StreamDecoder:
        """Raises MayaError for streams of several languages; each is a decoder of its own."""
        rows = list(rows_by_language(self._named(langs, batch), self.languages))
        if len(rows) > 1:
            raise MayaError("make a decoder for each language; this model has an output layer for each")
        index = rows[0][0]
        return _StreamOfLanguage(self.method(index), index, self.offsets[index], batch, langs)

    def push_each(
        self, decoders: Sequence[Any], enc: Tensor, enc_lens: Tensor, finals: Sequence[bool]
    ) -> None:
        for index in sorted({own.index for own in decoders}):
            rows = [row for row, own in enumerate(decoders) if own.index == index]
            inner = [decoders[row].inner for row in rows]
            self.method(index).push_each(inner, enc[rows], enc_lens[rows], [finals[row] for row in rows])
            for row in rows:
                decoders[row].follow()

    def _named(self, langs: Tensor | None, rows: int) -> Tensor:
        return torch.full((rows,), -1) if langs is None else langs


class _StreamOfLanguage:
    """Streams of one language, with the token ids of the whole vocabulary."""

    def __init__(self, method: Method, index: int, offset: int, batch: int, langs: Tensor | None) -> None:
        self.index, self.offset = index, offset
        self.inner = method.stream(batch, langs)
        self.hyps = [Hypothesis() for _ in range(batch)]

    def push(self, enc: Tensor, enc_lens: Tensor, final: bool = False) -> None:
        self.inner.push(enc, enc_lens, final)
        self.follow()

    def follow(self) -> None:
        """Take over what the decoder of the language has found."""
        for own, inner in zip(self.hyps, self.inner.hyps, strict=True):
            own.tokens.extend(i + self.offset for i in inner.tokens[len(own.tokens) :])
            for name in ("frames", "durations", "scores", "confidences", "spans", "search_score"):
                setattr(own, name, getattr(inner, name))


def is_by_language(model: SpeechModel) -> bool:
    """Whether a model has output layers by language."""
    return any(isinstance(head, Multisoftmax) for head in model.named_heads().values())


@torch.no_grad()
def sliced(model: SpeechModel, index: int) -> SpeechModel:
    """The ordinary model of a language on the same weights. Its text heads are those with an output layer for
    each language."""
    heads = {n: h for n, h in model.named_heads().items() if isinstance(h, Multisoftmax)}
    others = {
        n: h for n, h in model.named_heads().items() if n not in heads and not model.cfg.heads[n].writes_text
    }
    own: Any = copy.copy(model)
    own._modules = dict(model._modules)
    own._modules["heads"] = nn.ModuleDict({n: h.of_language(index) for n, h in heads.items()} | others)
    kept = {n: plain(cfg) if n in heads else cfg for n, cfg in model.cfg.heads.items() if n in own.heads}
    own.cfg = replace(model.cfg, heads=kept, vocab_size=next(iter(heads.values())).sizes[index])
    result: SpeechModel = own
    return result


def model_of_language(
    model: SpeechModel, tokenizer: Tokenizer, language: str
) -> tuple[SpeechModel, Tokenizer]:
    """The ordinary model of one of the model's languages, with its tokenizer. Raises MayaError for a model
    without output layers by language, and for a tokenizer that has another number of pieces."""
    if not is_by_language(model):
        raise MayaError("this model has no output layers by language; it needs no --language")
    own = sliced(model, model.cfg.languages.index(language))
    part = tokenizer.parts.get(language) if isinstance(tokenizer, AggregateTokenizer) else None
    if part is None or part.vocab_size != own.cfg.vocab_size:
        have = "no tokenizer" if part is None else f"a tokenizer of {part.vocab_size} pieces"
        raise MayaError(
            f"language {language!r} has {have} for an output layer of {own.cfg.vocab_size} pieces"
        )
    return own, part


def _shifted(hyp: Hypothesis, offset: int) -> Hypothesis:
    hyp.tokens = [i + offset for i in hyp.tokens]
    hyp.alternatives = [_shifted(other, offset) for other in hyp.alternatives]
    return hyp
