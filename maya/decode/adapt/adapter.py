"""What the methods of adaptation share, and the state that LaCT carries. A method of your own subclasses
`AdaptConfig` and `Adaptation`."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from maya.config import Kinds, config, register_builder
from maya.decode.adapt.source import SourceStatistics
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.kernels import onednn
from maya.models.speech_model import SpeechModel


@config
class AdaptConfig(Kinds):
    """The base of the methods' options. continual: what an utterance taught serves the following ones too;
    otherwise each begins with the model as it was loaded."""

    continual: bool = False

    @property
    def needs_source(self) -> bool:
        """Whether the method compares speech with that of training, see `SourceStatistics`."""
        return False


class Adaptation:
    """A model that adapts to each utterance before it is decoded. Build it with `cfg.build(model, head)`.

    head: the name of a CTC head, whose output the methods learn from. Any head may decode what `encode`
    returns. Use it as a context, or call `close`: both give the model back as it was. Raises MayaError for a
    head that is no CTC head.
    """

    def __init_subclass__(cls, *, config: type | None = None) -> None:
        super().__init_subclass__()
        if config is not None:
            register_builder(config, cls)

    def __init__(
        self, cfg: Any, model: SpeechModel, head: str, source: SourceStatistics | None = None
    ) -> None:
        if not head or model.head(head).ctc_over != "tokens":
            reason = f"{head!r} is none" if head else "this model has none"
            raise MayaError(f"adaptation learns from a trained CTC head, and {reason}")
        if cfg.needs_source and source is None:
            raise MayaError(f"{cfg.kind} compares speech with that of training: give it a SourceStatistics")
        self.cfg, self.model, self.source = cfg, model, source
        self.head: Any = model.head(head)
        self.parameters = self.choose()
        self._start = [p.detach().clone() for p in self.parameters]

    def choose(self) -> list[nn.Parameter]:
        """The parameters that learn; `reset` gives them their bits back."""
        return []

    def adapt(self, feats: Tensor, lens: Tensor, langs: Tensor, hidden: Collection[int]) -> Encoded:
        """feats (1, T, F), lens (1,), langs (1,) → the frames of the utterance after adaptation to it."""
        raise NotImplementedError

    def encode(
        self, audio: Tensor, lens: Tensor, langs: Tensor | None = None, hidden: Collection[int] = ()
    ) -> Encoded:
        """As `SpeechModel.encode_audio`, row by row in their order: audio (B, N) at the model's rate, lens
        (B,) samples, langs (B,) indices or -1. The frames have no language added yet and no gradients."""
        with torch.inference_mode(False), torch.no_grad():
            rows = []
            for i, size in enumerate(lens.tolist()):
                code = torch.full((1,), -1 if langs is None else int(langs[i]), device=audio.device)
                own = torch.tensor([size], device=audio.device)
                feats, feat_lens = self.model.features(audio[i : i + 1, :size].clone(), own)
                encoded = self.adapt(feats, feat_lens, code, hidden)
                rows.append(encoded)
                if not self.cfg.continual:
                    self.reset()
            return _joined(rows, hidden)

    def run(self, feats: Tensor, lens: Tensor, hidden: Collection[int] = ()) -> Encoded:
        """The encoder on features (B, T, F), with gradients where they are on."""
        with onednn.linear_layers(feats):
            return self.model.encoder(feats, lens, **({"hidden": hidden} if hidden else {}))

    def logits(self, encoded: Encoded, langs: Tensor) -> Tensor:
        """(B, S, V) of the CTC head."""
        conditioned = self.model.with_language(encoded, langs) if self.head.conditioned else encoded
        return self.head.logits(conditioned.frames)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Gradients for `parameters` and for no others."""
        flags = [(p, p.requires_grad) for p in self.model.parameters()]
        for p, _ in flags:
            p.requires_grad_(False)
        for p in self.parameters:
            p.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)
            for p in self.parameters:
                p.grad = None

    def put(self, values: Sequence[Tensor]) -> None:
        """Give `parameters` these values."""
        with torch.no_grad():
            for p, value in zip(self.parameters, values, strict=True):
                p.copy_(value)

    def take(self) -> list[Tensor]:
        """A copy of the values of `parameters`."""
        return [p.detach().clone() for p in self.parameters]

    def reset(self) -> None:
        """Forget all speech: the model as it was loaded, to the bit."""
        self.put(self._start)

    def close(self) -> None:
        """`reset`, and take out what the adapter has put into the model. The adapter is then of no use."""
        self.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _joined(rows: Sequence[Encoded], hidden: Collection[int]) -> Encoded:
    """Rows of one utterance each as a batch, padded with zeros."""
    if len(rows) == 1:
        return rows[0]
    states = {n: pad_sequence([row.hidden[n][0] for row in rows], batch_first=True) for n in hidden}
    frames = pad_sequence([row.frames[0] for row in rows], batch_first=True)
    return Encoded(frames, torch.cat([row.lens for row in rows]), states)


@config
class CarriedConfig(AdaptConfig):
    """The fast weights of LaCT begin with what they have learnt from the utterances before. No gradient of
    the model's own, no loss and no further pass: it costs what recognition costs."""

    kind: Literal["carried"] = "carried"
    continual: bool = True


class Carried(Adaptation, config=CarriedConfig):
    """LaCT's carried state. Raises MayaError for an encoder that learns nothing from an utterance."""

    def __init__(
        self, cfg: CarriedConfig, model: SpeechModel, head: str, source: SourceStatistics | None = None
    ):
        if not model.encoder.adapts:
            kind = getattr(model.encoder.cfg, "kind", "?")
            raise MayaError(f"an encoder of kind {kind!r} carries no state; take suta, dsuta or ebats")
        self.state: Any = None
        super().__init__(cfg, model, head, source)

    def adapt(self, feats: Tensor, lens: Tensor, langs: Tensor, hidden: Collection[int]) -> Encoded:
        encoded, self.state = self.model.encoder.adapt(feats, lens, self.state, hidden=hidden)
        return encoded

    def reset(self) -> None:
        super().reset()
        self.state = None
