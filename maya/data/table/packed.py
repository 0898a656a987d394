"""Cuts in little memory: each as the bytes of its JSON, one after the other.

A lhotse cut costs about 5 KB as Python objects, and every data worker would come to own a copy as it touches
their reference counts. As bytes it costs about 0.6 KB, shared by all workers.
"""

import json
from array import array

import numpy as np
from lhotse import SupervisionSegment
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item
from torch import Tensor

import maya.audio.lhotse_audio  # noqa: F401
from maya.audio.load import load_cut_audio
from maya.data.corpus.manifest import checked_labels, labels_in
from maya.errors import MayaError


class PackedCuts:
    """Cuts that can be appended, and read by number."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, cut: Cut) -> None:
        """Keep a cut; MayaError where it cannot be written as JSON, as one that holds its audio."""
        try:
            self._bytes += json.dumps(cut.to_dict(), ensure_ascii=False).encode()
        except TypeError as error:
            raise MayaError(
                f"cut {cut.id!r} holds audio or arrays in memory ({error}), and all cuts are to be kept; "
                "save it with lhotse's save_audios, or open a Shar folder with "
                "maya.data.loading.lhotse_cuts.shar_in_place"
            ) from None
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Cut:
        if not 0 <= index < len(self):
            raise IndexError(index)
        packed = np.frombuffer(self._bytes, np.uint8)[self._ends[index] : self._ends[index + 1]]
        return deserialize_item(json.loads(packed.tobytes()))

    def load_audio(self, index: int, sample_rate: int | None = None) -> Tensor:
        """(N,) samples of a cut; see maya.audio.load.load_cut_audio."""
        return load_cut_audio(self[index], sample_rate)


def labels_of(supervision: SupervisionSegment) -> dict[str, str | None]:
    """The labels in a supervision's `custom` (see maya.data.corpus.manifest.labels_in), and its speaker, None
    where it names none. Raises MayaError for a value that is no label."""
    try:
        labels = checked_labels(labels_in(supervision.custom or {}, ()))
    except ValueError as error:
        raise MayaError(f"supervision {supervision.id!r}: {error}") from None
    speaker = labels.get("speaker") if supervision.speaker is None else str(supervision.speaker)
    return {**labels, "speaker": speaker}


def check_cut(cut: Cut) -> None:
    """MayaError unless the cut is one utterance."""
    if len(cut.supervisions) != 1:
        raise MayaError(
            f"cut {cut.id!r} has {len(cut.supervisions)} supervisions where one is needed; "
            "cut it into utterances with lhotse's trim_to_supervisions"
        )
