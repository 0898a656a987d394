"""The options of `maya prepare`."""

from dataclasses import field
from typing import Annotated

from maya.config import config
from maya.data.measure.probe import ProbeConfig
from maya.data.prepare.audio_checks import AudioCheckConfig
from maya.data.prepare.split import SplitConfig
from maya.data.prepare.text_checks import TextCheckConfig
from maya.ranges import Range, Share


@config
class PrepareConfig:
    """language: of utterances whose corpus does not name one; by default the experiment's, if it has one.
    labels: fields or columns of the corpus that are labels, besides those it marks as such (`labels`,
    label_NAME). max_dropped_fraction: a corpus of which more is unusable is refused.
    shard_rows: rows of a manifest that are checked together: what a process holds in memory, and what is done
    again when it is killed. The tables do not depend on it."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    audio_checks: AudioCheckConfig = field(default_factory=AudioCheckConfig)
    text_checks: TextCheckConfig = field(default_factory=TextCheckConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    language: str | None = None
    labels: tuple[str, ...] = ()
    max_dropped_fraction: Share = 0.2
    shard_rows: Annotated[int, Range(min=1, max=10_000_000)] = 50_000
