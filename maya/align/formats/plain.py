"""Formats of plain lines: txt, tsv, ctm and rttm."""

from maya.align.formats.base import FormatConfig, hypothesis_of, timed, words_in_order
from maya.decode.transcription import Transcript


def txt(transcript: Transcript, cfg: FormatConfig) -> str:
    """The text, a line for each segment. For a model that only predicts labels, a line for each of them."""
    hyp = transcript.hypothesis
    if hyp is None:
        return "".join(line + "\n" for line in label_texts(transcript))
    return "".join(segment.text + "\n" for segment in hyp.segments) or f"{hyp.text}\n"


def label_texts(transcript: Transcript) -> list[str]:
    """The predicted labels as "emotion=happy 0.93"."""
    return [
        f"{name}={p.label}" + ("" if p.probability is None else f" {p.probability:.2f}")
        for name, p in transcript.predictions.items()
    ]


TSV_HEADER = "file\tchannel\tstart\tend\tconfidence\ttext\n"


def line_name(transcript: Transcript) -> str:
    """The id in one column of a line: tabs, line ends and other runs of space become one."""
    return " ".join(transcript.id.split())


def tsv(transcript: Transcript, cfg: FormatConfig) -> str:
    """A line for each segment: file, channel, start and end in seconds, confidence, text. Without header.

    The channel of an average is 1. Tabs and line ends in names become spaces.
    """
    segments = timed(hypothesis_of(transcript, "tsv").segments, transcript, "tsv")
    return "".join(
        f"{line_name(transcript)}\t{transcript.channel or 1}\t{s.start:.3f}\t{s.end:.3f}\t"
        f"{'' if s.confidence is None else f'{s.confidence:.4f}'}\t{s.text}\n"
        for s in segments
    )


def ctm(transcript: Transcript, cfg: FormatConfig) -> str:
    """NIST's CTM, a line for each word: file, channel, start, duration, word, and confidence where it is
    known. Spaces in the name of the file become "_", because spaces divide the columns."""
    name = line_name(transcript).replace(" ", "_")
    lines = []
    for word in words_in_order(transcript, "ctm"):
        line = f"{name} {transcript.channel or 1} {word.start:.3f} {word.end - word.start:.3f} {word.text}"
        lines.append(line if word.confidence is None else f"{line} {word.confidence:.4f}")
    return "".join(line + "\n" for line in lines)


def rttm(transcript: Transcript, cfg: FormatConfig) -> str:
    """NIST's RTTM, a line for each turn of a speaker: file, channel, start, duration, speaker. Spaces in the
    name of the file become "_"."""
    name = "_".join(transcript.id.split())
    return "".join(
        f"SPEAKER {name} {transcript.channel or 1} {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> "
        f"{turn.speaker} <NA> <NA>\n"
        for turn in transcript.turns
    )
