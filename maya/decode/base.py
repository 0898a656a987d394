"""The interface of decoding methods: encoder frames in, hypotheses out. A method of your own subclasses both
classes. Its `kind` is its name in `decode.method`, and `decode.methods.NAME` holds its options.

@config
class ShortConfig(MethodConfig):
    heads = (CTCConfig,)
    kind: Literal["short"] = "short"
    max_tokens: PosInt = 100

class Short(Method, config=ShortConfig):
    def search(self, encoded, langs): ...
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from maya.config import Kinds, config, register_builder
from maya.decode.fusion import Fusion, State
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import HeadConfig
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer


@config
class MethodConfig(Kinds):
    """The base of the options of decoding methods. A subclass has the field `kind`.

    heads: the configuration class of each head that it reads.
    greedy: options with which it is the greedy search of its head; None if it is another kind of search.
    no_stream: why it cannot decode a stream; empty if it can, which is set for a method with `stream`.
    fuses: whether its search adds the scores of language models and hot words, see `maya.decode.fusion`.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = ()
    greedy: ClassVar[Mapping[str, Any] | None] = None
    no_stream: ClassVar[str] = "it reads whole utterances"
    fuses: ClassVar[bool] = False

    @property
    def needs_texts(self) -> bool:
        """Whether it makes a language model of the training texts."""
        return False

    def objection(self, heads: Sequence[HeadConfig]) -> str:
        """Why it cannot read these heads, which are of the right classes; empty if it can."""
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodContext:
    """What a method is built from.

    model: in evaluation mode. heads: names of the heads that it reads. texts: gives the language and the
    token ids of each training text, for methods that make a language model; None where there are none.
    fusion: language models and hot words for methods whose configuration `fuses`. align_by: a trained CTC
    head that gives times to the tokens of methods without any; "" where there is none. tokenizer: None in
    training, where hypotheses need neither words nor texts.
    """

    model: SpeechModel
    heads: tuple[str, ...]
    texts: Callable[[], Iterable[tuple[str, Sequence[int]]]] | None = None
    fusion: Fusion | None = None
    align_by: str = ""
    tokenizer: Tokenizer | None = None


class StreamDecoder(Protocol):
    """Decoding of B streams. `hyps` grows, and its frames count from the start of each stream. Of the entries
    that are there, only the last of scores, durations and confidences may still change."""

    hyps: list[Hypothesis]

    def push(self, enc: Tensor, enc_lens: Tensor, final: bool = False) -> None:
        """enc (B, S, D), enc_lens (B,): the next frames of each stream, 0 for a stream that pauses. `final`:
        no frames follow."""


class Method:
    """A decoding method and the model it decodes with. `class Mine(Method, config=MyConfig)` registers it.

    A subclass defines `search`, or `stream` if it can decode streams, or both. heads: the modules it reads.
    reads_audio: it takes recordings of any length by `recordings`, which are then not cut.
    sets_spans: its model says when words are, so that their edges are not measured on the sound.
    """

    reads_audio: ClassVar[bool] = False
    sets_spans: bool = False

    def __init_subclass__(cls, *, config: type | None = None) -> None:
        super().__init_subclass__()
        if config is None:
            return
        streams = cls.stream is not Method.stream
        if not streams and cls.search is Method.search:
            raise MayaError(f"the decoding method {cls.__name__} has neither `search` nor `stream`")
        if streams:
            cast(Any, config).no_stream = ""
        register_builder(config, cls)

    def __init__(self, cfg: Any, context: MethodContext) -> None:
        if context.fusion is not None and not cfg.fuses:
            raise MayaError(f"the method {cfg.kind} takes no language model and no hot words")
        self.cfg, self.model, self.fusion = cfg, context.model, context.fusion
        self._lists: Tensor | None = None
        self.aligner: Any = context.model.head(context.align_by) if context.align_by else None
        self.heads: tuple[Any, ...] = tuple(context.model.head(name) for name in context.heads)

    @torch.no_grad()
    def __call__(
        self, encoded: Encoded, langs: Tensor | None = None, *, lists: Tensor | None = None
    ) -> list[Hypothesis]:
        """Hypotheses without text for what `SpeechModel.encode_audio` returned.

        langs (B,): indices or -1. lists (B,): which list of hot words each row has, see `Fusion.start`.
        """
        self._lists = lists
        return self.search(self.conditioned(encoded, langs), langs)

    def start_fusion(self, rows: int, langs: Tensor | None = None) -> State:
        """The first state of `fusion` for B = rows utterances, with the lists of hot words of this call."""
        assert self.fusion is not None
        return self.fusion.start(rows, langs, self._lists)

    def conditioned(self, encoded: Encoded, langs: Tensor | None) -> Encoded:
        """The frames as its heads read them: with the language embedding where they are `conditioned`."""
        return self.model.with_language(encoded, langs) if self.heads[0].conditioned else encoded

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        """One hypothesis for each row of `encoded`, which is conditioned already. langs (B,) or None."""
        decoder = self.stream(len(encoded.frames), langs)
        decoder.push(encoded.frames, encoded.lens, final=True)
        return decoder.hyps

    def recordings(self, audio: Tensor, lens: Tensor, langs: Tensor) -> list[Hypothesis]:
        """Hypotheses of audio (B, N) at the model's rate, lens (B,) samples, in langs (B,): indices, -1 for
        languages to identify. Only of a method that `reads_audio`."""
        raise NotImplementedError(f"{type(self).__name__}.recordings")

    def push_each(
        self, decoders: Sequence[StreamDecoder], enc: Tensor, enc_lens: Tensor, finals: Sequence[bool]
    ) -> None:
        """Push frames (B, S, D), conditioned already, of which (B,) exist, to B decoders of one row each that
        `stream` made. A method that can computes them as one batch."""
        for row, (decoder, size) in enumerate(zip(decoders, enc_lens.tolist(), strict=True)):
            decoder.push(enc[row : row + 1, :size], enc_lens[row : row + 1], finals[row])

    def stream(self, batch: int, langs: Tensor | None = None) -> StreamDecoder:
        """A decoder of `batch` streams, langs (batch,) or None. Raises MayaError for a method that cannot
        decode streams."""
        cfg = cast(Any, self.cfg)
        raise MayaError(f"the method {cfg.kind} cannot decode a stream: {cfg.no_stream}")
