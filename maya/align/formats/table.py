"""The table of formats. A line adds one."""

from collections.abc import Callable
from dataclasses import dataclass

from maya.align.formats.base import FormatConfig
from maya.align.formats.plain import TSV_HEADER, ctm, rttm, tsv, txt
from maya.align.formats.structured import json_text, jsonl
from maya.align.formats.subtitles import srt, vtt
from maya.align.formats.textgrid import textgrid
from maya.decode.transcription import Transcript


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """write: the text of a transcript. suffix: of its file. joins: whether the texts of several recordings,
    one after the other, are a valid text of the same format. header: the first line of a file."""

    write: Callable[[Transcript, FormatConfig], str]
    suffix: str
    joins: bool = False
    header: str = ""


FORMATS = {
    "txt": Format(write=txt, suffix=".txt", joins=True),
    "json": Format(write=json_text, suffix=".json"),
    "jsonl": Format(write=jsonl, suffix=".jsonl", joins=True),
    "srt": Format(write=srt, suffix=".srt"),
    "vtt": Format(write=vtt, suffix=".vtt"),
    "ctm": Format(write=ctm, suffix=".ctm", joins=True),
    "textgrid": Format(write=textgrid, suffix=".TextGrid"),
    "tsv": Format(write=tsv, suffix=".tsv", joins=True, header=TSV_HEADER),
    "rttm": Format(write=rttm, suffix=".rttm", joins=True),
}
