"""Transcripts from files of any tool: `read_transcripts` chooses the reader by the name of the file.

| format | file | a line |
|---|---|---|
| kaldi | `text`, .txt | `ID WORD WORD ...` |
| trn | .trn | `WORD WORD ... (ID)` |
| ctm | .ctm | `RECORDING CHANNEL START SECONDS WORD [CONFIDENCE]` |
| stm | .stm | `RECORDING CHANNEL SPEAKER START END [<LABEL>] WORD WORD ...` |
| rttm | .rttm | `SPEAKER RECORDING CHANNEL START SECONDS <NA> <NA> SPEAKER <NA> <NA>` |
| json | .json, .jsonl | JSON lines of NeMo, of Maya (hyps.jsonl) or of another tool; a JSON list (SegLST) |

Formats: SCTK's documentation (trn, ctm, stm), the NIST Rich Transcription evaluation plans (rttm), meeteval
(SegLST). All may be packed as .gz.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from maya.data.corpus.manifest import read_lines
from maya.errors import MayaError
from maya.score.files.lines import read_ctm, read_kaldi_text, read_rttm, read_stm, read_trn
from maya.score.files.objects import read_objects
from maya.score.files.transcript import Side, TranscriptRow

FileFormat = Literal["auto", "kaldi", "trn", "ctm", "stm", "rttm", "json"]
FORMATS: tuple[str, ...] = ("auto", "kaldi", "trn", "ctm", "stm", "rttm", "json")
_SUFFIXES = {
    ".txt": "kaldi", ".trn": "trn", ".ctm": "ctm", ".stm": "stm", ".rttm": "rttm",
    ".json": "json", ".jsonl": "json",
}  # fmt: skip
_READERS: dict[str, Callable[[Path], list[TranscriptRow]]] = {
    "kaldi": read_kaldi_text, "trn": read_trn, "ctm": read_ctm, "stm": read_stm, "rttm": read_rttm,
}  # fmt: skip


def read_transcripts(path: Path, side: Side, kind: FileFormat = "auto") -> list[TranscriptRow]:
    """The transcripts of a file, in its order. side: whether to take references or hypotheses, for formats
    that hold both. kind: "auto" for that of the file's name, or of its first line.

    Raises MayaError for a file that cannot be read, and names the line at fault.
    """
    name = format_of(path) if kind == "auto" else kind
    rows = read_objects(path, side) if name == "json" else _READERS[name](path)
    if not rows:
        raise MayaError(f"{path} holds no transcripts")
    return rows


def format_of(path: Path) -> str:
    """The format by the file's name; without a known suffix JSON if the file begins so, else Kaldi's."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    first = next((line.strip() for line in read_lines(path) if line.strip()), "")
    return "json" if first.startswith(("{", "[")) else "kaldi"
