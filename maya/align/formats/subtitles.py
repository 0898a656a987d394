"""The formats srt and vtt, through pysubs2."""

from maya.align.formats.base import FormatConfig
from maya.align.formats.cues import Cue, cues
from maya.decode.transcription import Transcript

_BACKSLASH = "\ue000"  # stands for it inside pysubs2, where it begins a command of SubStation Alpha
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def srt(transcript: Transcript, cfg: FormatConfig) -> str:
    """SubRip. "-->" inside a text becomes "→": a line with it would be taken for times."""
    return _written(cues(transcript, cfg, "srt"), "srt")


def vtt(transcript: Transcript, cfg: FormatConfig) -> str:
    """WebVTT. "&", "<" and ">" are written as the standard demands, so that "-->" is no time."""
    return _written(cues(transcript, cfg, "vtt"), "vtt")


def _written(shown: list[Cue], kind: str) -> str:
    from pysubs2 import SSAEvent, SSAFile  # noqa: PLC0415  only these formats need it

    subtitles = SSAFile()
    for cue in shown:
        lines = [_vtt_text(line) if kind == "vtt" else line.replace("-->", "→") for line in cue.lines]
        text = "\\N".join(line.replace("\\", _BACKSLASH) for line in lines)
        subtitles.append(SSAEvent(start=cue.start_ms, end=cue.end_ms, text=text))
    # keep_ssa_tags: braces are text here.
    return str(subtitles.to_string(kind, keep_ssa_tags=True)).replace(_BACKSLASH, "\\")


def _vtt_text(line: str) -> str:
    return "".join(_HTML.get(char, char) for char in line)
