"""lhotse cuts of entries, for those who ask for them; training on a table needs none."""

from collections.abc import Iterator
from typing import Any, Protocol

from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut, MonoCut

import maya.audio.lhotse_audio  # noqa: F401
from maya.audio.byte_ranges import ByteRange
from maya.data.measure.entry import Entry


def audio_cut(entry: Entry) -> Cut:
    """The cut of an entry without a transcript: a MonoCut, or a MultiCut where several channels are read.

    It has the stored rate; of a part of a recording only the part is read. Raises MayaError as Entry.check.
    """
    entry.check()
    audio, whole = entry.audio, entry.num_samples / entry.sample_rate
    address = audio.address if isinstance(audio, ByteRange) else audio
    recording = Recording(
        id=entry.id,
        sources=[AudioSource(type="file", channels=list(range(entry.channels)), source=address)],
        sampling_rate=entry.sample_rate,
        num_samples=entry.num_samples,
        duration=whole,
    )
    cut = recording.to_cut()
    if entry.channel is not None and entry.channels > 1:
        cut = MonoCut(id=entry.id, start=0.0, duration=whole, channel=entry.channel, recording=recording)
    if entry.start is None:
        return cut
    # A duration that was rounded at another rate may reach past the end by less than a sample.
    duration = min(entry.duration, whole - entry.start)
    return cut.truncate(offset=entry.start, duration=duration, preserve_id=True)


def entry_cut(entry: Entry) -> Cut:
    """The cut of an entry with one supervision: text, language and speaker; custom: the published text, kind,
    source, licence and labels, as far as there are any."""
    cut = audio_cut(entry)
    custom: dict[str, Any] = {
        name: getattr(entry, name) for name in ("raw_text", "kind", "source", "licence")
    }
    custom["labels"] = dict(entry.labels) or None
    cut.supervisions = [
        SupervisionSegment(
            id=entry.id,
            recording_id=entry.id,
            start=0.0,
            duration=cut.duration,
            channel=cut.channel,
            text=entry.text,
            language=entry.language,
            speaker=entry.speaker,
            custom={name: value for name, value in custom.items() if value is not None},
        )
    ]
    return cut


class EntryTable(Protocol):
    """A table of entries (maya.data.table.table.Table)."""

    def __len__(self) -> int: ...

    def entries(self) -> Iterator[Entry]: ...

    def entry(self, row: int) -> Entry: ...

    def row_of(self, id: str) -> int: ...


class LazyCuts:
    """The cuts of a table, made when a lazy CutSet needs them."""

    def __init__(self, table: EntryTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Cut]:
        return map(entry_cut, self.table.entries())

    def __getitem__(self, index: int | str) -> Cut:
        if isinstance(index, str):
            index = self.table.row_of(index)
        return entry_cut(self.table.entry(index + (len(self) if index < 0 else 0)))
