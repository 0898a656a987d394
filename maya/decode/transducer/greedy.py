"""Greedy transducer decoding of a whole batch by label looping: see `maya.decode.label_looping`.

Definition. At each frame the best token is taken. A blank advances by its predicted duration, at least 1; a
label by its predicted duration, which may be 0. In an RNN-T a blank advances by 1 and a label by 0. After
`max_symbols` labels on one frame the row moves on by one frame. The last duration of an utterance may reach
past its end. With language models or hot words the acoustic model still decides between blank and label, and
gives the duration; the label is the best by acoustic log probability plus their scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.confidence import ConfidenceConfig
from maya.decode.fusion import State
from maya.decode.hypothesis import Hypothesis
from maya.decode.label_looping.loops import LabelLoop, LoopName, make_loop
from maya.decode.label_looping.rules import RowLabels, RowStates, TransducerRules
from maya.heads import HeadConfig, TransducerConfig
from maya.heads.transducer import AnyPredictor, Joint
from maya.kernels import onednn
from maya.ranges import PosInt


@config
class GreedyTransducerConfig(MethodConfig):
    """max_symbols: labels on one frame, after which decoding moves on to the next frame.

    loop: "auto" is "packed" on a CPU and "graph" on a CUDA device; "masked" has fixed shapes without a graph.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (TransducerConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {}
    fuses: ClassVar[bool] = True

    kind: Literal["transducer"] = "transducer"
    max_symbols: PosInt = 10
    loop: LoopName = "auto"
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)


class GreedyTransducer(Method, config=GreedyTransducerConfig):
    """One push of `TransducerDecoder`."""

    def __init__(self, cfg: GreedyTransducerConfig, context: MethodContext) -> None:
        super().__init__(cfg, context)
        (head,) = self.heads
        rules = TransducerRules(
            predictor=head.decoder, joint=head.joint, blank=head.blank, durations=head.durations,
            max_symbols=cfg.max_symbols, fusion=self.fusion or None, confidence=cfg.confidence,
        )  # fmt: skip
        self.loop = make_loop(rules, cfg.loop)

    def stream(self, batch: int, langs: Tensor | None = None) -> "TransducerDecoder":
        fusion = self.start_fusion(batch, langs) if self.fusion else None
        return TransducerDecoder(self.loop, batch, fusion)

    def push_each(
        self, decoders: Sequence[Any], enc: Tensor, enc_lens: Tensor, finals: Sequence[bool]
    ) -> None:
        if not enc.shape[1]:
            return
        states = RowStates.join([decoder.states for decoder in decoders])
        lens = enc_lens.to(enc.device, torch.int64)
        labels = decoders[0].labels(states, enc, lens, final=False)
        for row, (decoder, length) in enumerate(zip(decoders, lens.tolist(), strict=True)):
            decoder.append(0, labels[row], length)
            decoder.states = states.row(row)


class TransducerDecoder:
    """Greedy decoding of B = batch streams with a TDT or an RNN-T. Put the modules in eval mode first.

    Between two pieces each row keeps the states of the predictor and of the fusion, the frames that the last
    duration skips beyond the piece, and the number of labels on its frame. fusion: the rows' first state.
    """

    def __init__(self, loop: LabelLoop, batch: int, fusion: State = None) -> None:
        self.loop, self.joint = loop, loop.rules.joint
        self.hyps = [Hypothesis() for _ in range(batch)]
        self.states = RowStates.start(loop.rules, batch, fusion)
        self._pushed = [0] * batch  # frames so far

    @torch.no_grad()
    def push(self, enc: Tensor, enc_lens: Tensor, final: bool = False) -> None:
        """enc (B, S, D), enc_lens (B,): the next frames of each stream, 0 for a stream that pauses. After a
        `final` push nothing may follow, because no state is kept for it."""
        if not enc.shape[0] or not enc.shape[1]:
            return
        lens = enc_lens.to(enc.device, torch.int64)
        pieces = self.labels(self.states, enc, lens, final)
        for row, (labels, length) in enumerate(zip(pieces, lens.tolist(), strict=True)):
            self.append(row, labels, length)

    @torch.no_grad()
    def labels(self, states: RowStates, enc: Tensor, lens: Tensor, final: bool) -> list[RowLabels]:
        """The labels of the next frames (B, S, D) of rows whose states move on."""
        with onednn.linear_layers(enc):
            f = self.joint.project_encoder(enc)
        return self.loop(states, f, lens, final)

    def append(self, row: int, labels: RowLabels, length: int) -> None:
        """Add the labels of the next `length` frames of a row."""
        hyp, pushed = self.hyps[row], self._pushed[row]
        hyp.tokens += labels.tokens
        hyp.frames += [pushed + frame for frame in labels.frames]
        hyp.durations += labels.durations if self.loop.rules.durations else [1] * len(labels.tokens)
        hyp.scores += labels.scores
        hyp.confidences += labels.confidences
        self._pushed[row] = pushed + length


def greedy_transducer(
    enc: Tensor, enc_lens: Tensor, predictor: AnyPredictor, joint: Joint, *,
    durations: Sequence[int] | None = None, blank: int, max_symbols: int = 10, loop: LoopName = "auto",
) -> list[Hypothesis]:  # fmt: skip
    """enc (B, S, D), enc_lens (B,) frames -> one Hypothesis per row: one push of `TransducerDecoder`."""
    rules = TransducerRules(
        predictor=predictor, joint=joint, blank=blank, max_symbols=max_symbols,
        durations=None if durations is None else tuple(durations),
    )  # fmt: skip
    decoder = TransducerDecoder(make_loop(rules, loop), len(enc))
    decoder.push(enc, enc_lens, final=True)
    return decoder.hyps
