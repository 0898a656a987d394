"""CTC and transducer with an output layer for each language over one encoder, as AI4Bharat's IndicConformer.

The vocabulary is that of an aggregate tokenizer: the pieces of each language in turn, in the order of the
model's languages, then one blank. An utterance is scored among the pieces of its own language and blank. Its
heads are ordinary ones over that part of the tables, which `of_language` gives: every loss and every decoder
works on them. The prediction network is shared, and so is its embedding, by the place of a piece within its
language.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep, zero_gradients
from maya.heads.cost import HeadFlops, HeadMemory
from maya.heads.ctc import CTCConfig, CTCHead
from maya.heads.transducer import TransducerConfig, TransducerHead
from maya.ranges import PosInt


class Multisoftmax(Head):
    """What both heads share. sizes: pieces of each of `languages`; offsets: of their first ids."""

    languages: tuple[str, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]

    def _divide(self, cfg: Any, context: HeadContext) -> None:
        """Set the sizes and offsets. Raises MayaError for a vocabulary that cannot be divided so."""
        self.languages, self.sizes = context.languages, sizes_of(cfg, context)
        self.offsets = tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))
        self._context = context

    def _context_of(self, index: int) -> HeadContext:
        return replace(self._context, labels=self.sizes[index], blank=self.sizes[index])

    def of_language(self, index: int) -> Any:
        """The ordinary head of a language, over its own pieces and blank, on the same weights: gradients and
        later changes reach the tables, except that a copy is made of tensors that are cut."""
        raise NotImplementedError

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        """Those of the ordinary heads, language by language. Raises MayaError for an utterance without a
        language of the model, and for tokens of another language than its own."""
        losses: dict[str, Tensor] = {}
        # All languages of a step draw the same objective, as all ranks do.
        drawn = None if step.generator is None else step.generator.get_state()
        for index, rows in rows_by_language(batch.on_host("langs"), self.languages):
            if drawn is not None and step.generator is not None:
                step.generator.set_state(drawn)
            own = _rows_of(encoded, rows), self._local(batch, rows, index)
            for name, loss in self.of_language(index).losses(*own, step).items():
                # A loss that compares two views has a row for each utterance, the others for each view.
                views = len(rows) // len(loss)
                total = losses.setdefault(name, loss.new_zeros(batch.tokens.shape[0] // views))
                losses[name] = total.index_copy(0, rows[: len(loss)].to(loss.device), loss)
        first = next(iter(losses))
        losses[first] = losses[first] + zero_gradients(self)  # DDP waits for the languages that are absent
        return losses

    def _local(self, batch: Batch, rows: Tensor, index: int) -> Batch:
        """The utterances `rows` (n,), on the CPU, with token ids within their language."""
        offset, size = self.offsets[index], self.sizes[index]
        names = ("tokens", "token_lens", "langs")
        values = {name: batch.on_host(name).cpu()[rows] for name in names}
        exists = torch.arange(values["tokens"].shape[1], device=rows.device) < values["token_lens"][:, None]
        values["tokens"] = (values["tokens"] - offset).where(exists, 0)
        foreign = ((values["tokens"] < 0) | (values["tokens"] >= size)).any(1).nonzero()
        if len(foreign):
            row = int(rows[foreign[0, 0]])
            raise MayaError(
                f"utterance {batch.ids[row]} is in {self.languages[index]!r}, but its tokens "
                "are those of another language; encode each text with the tokenizer of its language"
            )
        moved: dict[str, Any] = {name: x.to(batch.tokens.device) for name, x in values.items()}
        return replace(batch, **moved).with_host_copies(values)


@config
class MultisoftmaxCTCConfig(CTCConfig):
    """CTC with a softmax for each language. pieces: how many each language has; empty for equal parts."""

    kind: Literal["multisoftmax_ctc"] = "multisoftmax_ctc"  # type: ignore[assignment]
    pieces: tuple[PosInt, ...] = ()

    def flops(self, name: str, context: HeadContext, frames: int, tokens: int) -> HeadFlops:
        return plain(self).flops(name, widest(self, context), frames, tokens)

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        return plain(self).memory(name, widest(self, context), cuda=cuda)

    def build(self, context: HeadContext) -> "MultisoftmaxCTC":
        return MultisoftmaxCTC(self, context)


class MultisoftmaxCTC(Multisoftmax, CTCHead):
    """One 1x1 convolution, of which a language has its pieces' rows and the last one, blank."""

    def __init__(self, cfg: MultisoftmaxCTCConfig, context: HeadContext) -> None:
        if cfg.mmi_share:
            raise MayaError("a CTC head with a softmax for each language has no MMI loss; set mmi_share=0")
        self.dim = context.dim
        CTCHead.__init__(self, cfg, context.dim, context.labels + 1, context.blank)
        self._divide(cfg, context)

    def of_language(self, index: int) -> CTCHead:
        begin, size = self.offsets[index], self.sizes[index]
        with torch.device("meta"):
            head = plain(self.cfg).build(self._context_of(index))
        whole, own = self.decoder_layers[0], head.decoder_layers[0]
        assert isinstance(whole, nn.Conv1d) and whole.bias is not None
        for name, table in (("weight", whole.weight), ("bias", whole.bias)):
            tie(own, name, torch.cat([table[begin : begin + size], table[-1:]]))
        return head.train(self.training)

    def logits(self, enc: Tensor) -> Tensor:
        """Refused: the scores of several languages are not comparable."""
        raise MayaError(
            f"this CTC head has a softmax for each language: choose one of {', '.join(self.languages)}"
        )


@config
class MultisoftmaxTransducerConfig(TransducerConfig):
    """A transducer whose joint has an output layer for each language; `pieces` as for CTC."""

    kind: Literal["multisoftmax_transducer"] = "multisoftmax_transducer"  # type: ignore[assignment]
    pieces: tuple[PosInt, ...] = ()

    def flops(self, name: str, context: HeadContext, frames: int, tokens: int) -> HeadFlops:
        return plain(self).flops(name, widest(self, context), frames, tokens)

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        return plain(self).memory(name, widest(self, context), cuda=cuda)

    def build(self, context: HeadContext) -> "MultisoftmaxTransducer":
        return MultisoftmaxTransducer(self, context)


class MultisoftmaxTransducer(Multisoftmax, TransducerHead):
    """`joint.joint_net.2` is a module of Linear layers by language, as in AI4Bharat's NeMo."""

    def __init__(self, cfg: MultisoftmaxTransducerConfig, context: HeadContext) -> None:
        if cfg.loss == "pruned":
            raise MayaError("a transducer with an output layer for each language is trained by tdt or rnnt")
        if len(set(sizes_of(cfg, context))) > 1 and cfg.predictor.kind != "lstm":
            raise MayaError("languages with unequal numbers of pieces need the predictor of kind lstm")
        TransducerHead.__init__(self, cfg, widest(cfg, context))
        self._divide(cfg, context)
        self.blank = context.blank
        durations = self.joint.num_durations
        taken = [code for code in self.languages if "." in code or hasattr(nn.ModuleDict, code)]
        if taken:
            raise MayaError(
                f"{taken[0]!r} cannot name an output layer; call the language by its three letters"
            )
        self.joint.joint_net[2] = nn.ModuleDict(
            {
                code: nn.Linear(cfg.joint.hidden, size + 1 + durations)
                for code, size in zip(self.languages, self.sizes, strict=True)
            }
        )

    def of_language(self, index: int) -> TransducerHead:
        with torch.device("meta"):
            head: Any = plain(self.cfg).build(self._context_of(index))
        shared: Any = self
        for name in ("enc", "pred"):
            setattr(head.joint, name, getattr(self.joint, name))
        head.joint.joint_net[2] = shared.joint.joint_net[2][self.languages[index]]
        own, whole = head.decoder.prediction, shared.decoder.prediction
        if self.sizes[index] == max(self.sizes):
            head.decoder = self.decoder
        else:
            rows = whole["embed"].weight
            tie(own["embed"], "weight", torch.cat([rows[: self.sizes[index]], rows[-1:]]))
            own["dec_rnn"] = whole["dec_rnn"]
        return head.train(self.training)


def plain(cfg: HeadConfig) -> Any:
    """The configuration of the ordinary head of one language."""
    base: Any = CTCConfig if isinstance(cfg, CTCConfig) else TransducerConfig
    return base(**{f.name: getattr(cfg, f.name) for f in fields(base) if f.name != "kind"})


def sizes_of(cfg: Any, context: HeadContext) -> tuple[int, ...]:
    """Pieces of each language. Raises MayaError where they do not make up the vocabulary."""
    count, labels = len(context.languages), context.labels
    if not count or context.blank != labels:
        raise MayaError("a softmax for each language needs model.languages, and its blank after the pieces")
    if not cfg.pieces and labels % count:
        raise MayaError(f"{labels} pieces are not {count} equal parts: give the pieces of each language")
    sizes: Sequence[int] = cfg.pieces or (labels // count,) * count
    if len(sizes) != count or sum(sizes) != labels:
        raise MayaError(
            f"pieces={tuple(sizes)} have to be one number for each of {', '.join(context.languages)}, and "
            f"{labels} together"
        )
    return tuple(sizes)


def widest(cfg: Any, context: HeadContext) -> HeadContext:
    """The context of the language with the most pieces."""
    most = max(sizes_of(cfg, context))
    return replace(context, labels=most, blank=most)


def rows_by_language(langs: Tensor, languages: Sequence[str]) -> Iterator[tuple[int, Tensor]]:
    """(index of a language, its rows on the CPU) for each in langs (B,). Raises MayaError for rows without
    one."""
    present = langs.cpu()
    if bool((present < 0).any()):
        raise MayaError(
            "this model has an output layer for each language, so it needs the language of each utterance: "
            f"one of {', '.join(languages)}"
        )
    for index in present.unique().tolist():
        yield index, (present == index).nonzero().flatten()


def tie(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Let a tensor stand in the place of a parameter, with its gradient where there is one."""
    delattr(module, name)
    setattr(module, name, tensor if tensor.requires_grad else nn.Parameter(tensor, requires_grad=False))


def _rows_of(encoded: Encoded, rows: Tensor) -> Encoded:
    """The rows (n,), on the CPU, of what an encoder puts out."""
    on_device, lens = rows.to(encoded.frames.device), encoded.lens_on_host
    own = Encoded(encoded.frames[on_device], encoded.lens[on_device])
    if lens is not encoded.lens:
        own.host_lens = type(encoded.host_lens)(own.lens, lens[rows])  # type: ignore[misc]
    return own
