"""What the report page shows besides texts: audio, noise, and confidences of words."""

from collections.abc import Callable
from pathlib import Path

from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.score.page import UtteranceDetails, read_confidences, table_details


def read_details(
    hyps: Path, data: Path | None, normalizer: Callable[[str, str], str]
) -> dict[str, UtteranceDetails]:
    """By id, what the page shows besides the texts of a hyps.jsonl: confidences of its words, and audio and
    noise from the prepared data, where they are there and can be read. normalizer: (text, language) -> the
    text that is scored."""
    confidences = read_confidences(hyps, normalizer)
    if data is not None:
        try:
            return table_details(Table.open(part_path(data, hyps.parent.name)), confidences)
        except MayaError:  # data of another version, or removed: the page says that it has no audio
            pass
    return {id_: UtteranceDetails(confidences=values) for id_, values in confidences.items()}
