"""The input of one training or evaluation step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maya.kernels import host

READ_ON_HOST = ("audio_lens", "tokens", "token_lens", "langs")  # what losses check on the host


@dataclass(frozen=True, slots=True)
class HostCopy:
    """The values of a device tensor, on the CPU. A read of the tensor itself would wait for the device.

    of: the tensor. A copy counts for this very object, so it is not used for another that replaces it.
    """

    of: Tensor
    values: Tensor


@dataclass(kw_only=True, slots=True)
class Batch:
    """B utterances, padded with zeros on the right.

    audio: (B, N) float32 in [-1, 1]                audio_lens: (B,) int64, samples
    sample_rate: of audio, Hz; the model's
    tokens: (B, U) int64, padded with 0             token_lens: (B,) int64
    langs: (B,) int64, index into the model's tuple of languages; -1 where it is not among them
    ids: B utterance ids
    labels: B values for each name of a label, None where an utterance has none; "speaker" is always there
        where the batch is of prepared data
    row_of: (B,) int64, or None: utterances with the same number are of one speaker, and an encoder that
        learns from utterances goes through them in their order with one memory; without, each is by itself
    warps: (B, 3) float32 factors by which the features move formants, see maya.features.warp, or None
    sources: (B, K, N) float32, the speakers in `audio` one by one, or None; see maya.data.loading.mixing
    speeds: by how much each utterance is played faster than its labels say, or None for 1
    host: of a batch on a device, copies on the CPU by the name of the field; see `on_host`
    """

    audio: Tensor
    audio_lens: Tensor
    sample_rate: int
    tokens: Tensor
    token_lens: Tensor
    langs: Tensor
    ids: list[str]
    labels: dict[str, list[str | None]] = field(default_factory=dict)
    warps: Tensor | None = None
    row_of: Tensor | None = None
    sources: Tensor | None = None
    speeds: list[float] | None = None
    host: dict[str, HostCopy] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """B."""
        return len(self.ids)

    @property
    def seconds(self) -> float:
        """Sum of the utterances' durations, without padding."""
        return float(self.on_host("audio_lens").sum()) / self.sample_rate

    def on_host(self, name: str) -> Tensor:
        """The tensor in the field `name` on the CPU if its values are known there, otherwise as it is."""
        x: Tensor = getattr(self, name)
        copy = self.host.get(name)
        return copy.values if copy is not None and copy.of is x else x

    def with_host_copies(self, values: Mapping[str, Tensor]) -> "Batch":
        """The batch with the values of its device tensors, by name. Values that are on a device are dropped,
        and so are those of tensors on the CPU."""
        copies = {
            name: HostCopy(getattr(self, name), x)
            for name, x in values.items()
            if host.reads_freely(x) and not host.reads_freely(getattr(self, name))
        }
        return replace(self, host=copies)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch with its tensors on `device`. What losses check stays on the CPU too, see `on_host`."""
        moved = {name: x.to(device, non_blocking=non_blocking) for name, x in self._tensors().items()}
        return replace(self, **moved).with_host_copies({name: self.on_host(name) for name in READ_ON_HOST})

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from which copies to a GPU can overlap with its work."""
        return replace(self, **{name: x.pin_memory() for name, x in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: x for name, x in values.items() if isinstance(x, Tensor)}


def make_batch(
    audio: Sequence[Tensor],
    tokens: Sequence[Sequence[int] | NDArray[np.integer]],
    langs: Sequence[int],
    ids: Sequence[str],
    *,
    sample_rate: int,
    labels: Mapping[str, Sequence[str | None]] | None = None,
    warps: Tensor | None = None,
) -> Batch:
    """Pad B utterances: `audio` (N_b,) float32 at `sample_rate` Hz each, `tokens` U_b ids each."""
    audio_lens = torch.tensor([len(a) for a in audio], dtype=torch.int64)
    token_lens = torch.tensor([len(t) for t in tokens], dtype=torch.int64)
    padded_audio = torch.zeros(len(audio), int(audio_lens.max()))
    for row, samples in zip(padded_audio, audio, strict=True):
        row[: len(samples)] = samples
    padded_tokens = torch.zeros(len(tokens), int(token_lens.max()), dtype=torch.int64)
    for row, sequence in zip(padded_tokens, tokens, strict=True):
        row[: len(sequence)] = torch.as_tensor(sequence, dtype=torch.int64)
    return Batch(
        audio=padded_audio,
        audio_lens=audio_lens,
        sample_rate=sample_rate,
        tokens=padded_tokens,
        token_lens=token_lens,
        langs=torch.tensor(langs, dtype=torch.int64),
        ids=list(ids),
        labels={name: list(values) for name, values in (labels or {}).items()},
        warps=warps,
    )
