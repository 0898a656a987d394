"""Corpora of emotion, sounds and singing as their downloads leave them: a table of layouts.

The path of a recording, or a table, tells speaker, text and labels. Where nothing is said, the text is the
name of the sound. `licence` follows each row, because some of these corpora are not for commercial use.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maya.data.corpus.manifest import Problem, ReadOptions, Result, Row
from maya.data.corpus.walk import walk
from maya.errors import MayaError

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A corpus whose paths tell everything.

    files: the path of a recording in the corpus; its groups become the fields of `row`. row: of these groups
    the fields of a Row: text, speaker, labels and others; None for a recording that is not read.
    """

    name: str
    language: str
    licence: str
    files: re.Pattern[str]
    row: Callable[[Mapping[str, str], Path], Fields | None]


_CREMA_TEXTS = {
    "IEO": "it's eleven o'clock", "TIE": "that is exactly what happened",
    "IOM": "I'm on my way to the meeting", "IWW": "I wonder what this is about",
    "TAI": "the airplane is almost full", "MTI": "maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock", "ITH": "I think I have a doctor's appointment",
    "DFA": "don't forget a jacket", "ITS": "I think I've seen this before", "TSI": "the surface is slick",
    "WSI": "we'll stop in a couple of minutes",
}  # fmt: skip
_CREMA_EMOTIONS = {
    "ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad",
}  # fmt: skip
_LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": None}
_RAVDESS_TEXTS = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}
_RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


def _crema(group: Mapping[str, str], path: Path) -> Fields | None:
    emotion, text = _CREMA_EMOTIONS.get(group["emotion"]), _CREMA_TEXTS.get(group["sentence"])
    if emotion is None or text is None:
        return None
    labels = {"emotion": emotion, "level": _LEVELS.get(group["level"])}
    return {"speaker": group["speaker"], "text": text, "labels": labels}


def _ravdess(group: Mapping[str, str], path: Path) -> Fields | None:
    emotion, text = int(group["emotion"]), _RAVDESS_TEXTS.get(group["statement"])
    if group["modality"] != "03" or text is None or not 1 <= emotion <= len(_RAVDESS_EMOTIONS):
        return None  # 01 and 02 are films of the same recordings
    labels = {
        "emotion": _RAVDESS_EMOTIONS[emotion - 1], "level": "strong" if group["level"] == "02" else "normal",
        "singing": "yes" if group["channel"] == "02" else "no",
        "sex": "male" if int(group["speaker"]) % 2 else "female",
    }  # fmt: skip
    return {"speaker": group["speaker"], "text": text, "labels": labels}


def _vocal_sound(group: Mapping[str, str], path: Path) -> Fields | None:
    labels = {"sound": group["sound"], "sex": {"f": "female", "m": "male"}[group["sex"]]}
    return {"speaker": group["sex"] + group["speaker"], "text": group["sound"], "labels": labels}


def _vocal_set(group: Mapping[str, str], path: Path) -> Fields | None:
    technique, context = group["technique"].lower(), group["context"].lower()
    labels = {
        "technique": technique, "context": context, "singing": "no" if technique == "spoken" else "yes",
        "sex": re.sub(r"\d", "", group["speaker"]),
    }  # fmt: skip
    return {"speaker": group["speaker"], "text": context.replace("_", " "), "labels": labels}


def _open_singer(group: Mapping[str, str], path: Path) -> Fields | None:
    text = path.with_suffix(".txt")
    if not text.is_file():
        return None
    labels = {"singing": "yes", "song": group["song"], "sex": group["sex"].lower()}
    # Numbers of singers begin anew for each sex.
    return {
        "speaker": f"{group['sex'].lower()}-{group['speaker']}", "labels": labels,
        "text": text.read_text(encoding="utf-8").strip(),
    }  # fmt: skip


LAYOUTS = (
    Layout(
        name="CREMA-D", language="en", licence="ODbL-1.0", row=_crema,
        files=re.compile(r"AudioWAV/(?P<speaker>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>[A-Z]{2})\.wav"),
    ),
    Layout(
        name="RAVDESS", language="en", licence="CC-BY-NC-SA-4.0", row=_ravdess,
        files=re.compile(
            r"(?:.*/)?Actor_\d\d/(?P<modality>\d\d)-(?P<channel>\d\d)-(?P<emotion>\d\d)-(?P<level>\d\d)"
            r"-(?P<statement>\d\d)-\d\d-(?P<speaker>\d\d)\.wav"
        ),
    ),
    Layout(
        name="VocalSound", language="en", licence="CC-BY-SA-4.0", row=_vocal_sound,
        files=re.compile(
            r"audio_16k/(?P<sex>[fm])(?P<speaker>\d+)_\d+_"
            r"(?P<sound>laughter|sigh|cough|throatclearing|sneeze|sniff)\.wav"
        ),
    ),
    Layout(
        name="VocalSet", language="en", licence="CC-BY-4.0", row=_vocal_set,
        files=re.compile(
            r"FULL/(?P<speaker>(?:fe)?male\d+)/(?P<context>scales|arpeggios|long_tones|excerpts)"
            r"/(?P<technique>\w+)/[^/]+\.wav"
        ),
    ),
    Layout(
        name="OpenSinger", language="zh", licence="CC-BY-NC-SA-4.0", row=_open_singer,
        files=re.compile(r"(?:.*/)?(?P<sex>Man|Woman)Raw/(?P<speaker>\d+)_(?P<song>[^/]+)/[^/]+\.wav"),
    ),
)  # fmt: skip
_FILLERS, _M4 = Path("metadata/PodcastFillers.csv"), Path("meta.json")
_MELD_FOLDERS = {
    "train": "train/train_splits", "dev": "dev/dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}  # fmt: skip
# Clips that were cut wrongly, by (part, dialogue, utterance): issues 20 and 39 of the corpus's repository.
_MELD_BAD = {("train", 125, 3), ("train", 309, 0), ("test", 38, 4), ("test", 220, 0)}
_MELD_SECONDS = 30.0
_LOOKED_AT = 100  # recordings, of which one must fit a layout


def labelled_layout(folder: Path) -> str:
    """The name of the corpus that a folder holds; "" for none of these."""
    if not folder.is_dir():
        return ""
    if (folder / _FILLERS).is_file():
        return "PodcastFillers"
    if meld_tables(folder):
        return "MELD"
    if (folder / _M4).is_file() and any(folder.glob("*-*#*/")):
        return "M4Singer"
    names = ("AudioWAV", "audio_16k", "FULL", "Actor_*", "ManRaw", "WomanRaw")
    tops = (*names, *(f"*/{name}" for name in names[3:]))
    for top in (path for pattern in tops for path in sorted(folder.glob(pattern))[:1]):
        for path in itertools.islice(top.rglob("*.wav"), _LOOKED_AT):
            inside = path.relative_to(folder).as_posix()
            if layout := next((own for own in LAYOUTS if own.files.fullmatch(inside)), None):
                return layout.name
    return ""


def meld_tables(folder: Path) -> dict[str, Path]:
    """The tables of MELD by part."""
    tables = {part: folder / f"{part}_sent_emo.csv" for part in _MELD_FOLDERS}
    nested = {part: folder / part / f"{part}_sent_emo.csv" for part in _MELD_FOLDERS}
    return {part: path for each in (nested, tables) for part, path in each.items() if path.is_file()}


def labelled_files(folder: Path) -> list[Path]:
    """The tables of a corpus that has some."""
    own = [path for path in (folder / _FILLERS, folder / _M4) if path.is_file()]
    return [*own, *meld_tables(folder).values()]


def read_labelled(folder: Path, options: ReadOptions) -> Result:
    """The rows of the corpus that `labelled_layout` names. A recording that is only Git LFS's pointer to one
    is dropped, and notes tell how many files are not of the layout."""
    name = labelled_layout(folder)
    special = {"PodcastFillers": _fillers, "MELD": _meld, "M4Singer": _m4_singer}
    problems: list[Problem] = []
    if name in special:
        rows_of = special[name](folder, problems)
    else:
        rows_of = _of_paths(folder, next(own for own in LAYOUTS if own.name == name), options)
    rows = []
    for fields in rows_of:
        labels = {key: value for key, value in fields.pop("labels").items() if value}
        path = folder / fields["audio"]
        language = options.language or fields.pop("language", "en")
        fields.pop("language", None)
        row = Row(where=str(path), source=name, language=language, labels=labels, **fields)
        if problem := _pointer(row, path):
            problems.append(problem)
        else:
            rows.append(row)
    return rows, problems


def _of_paths(folder: Path, layout: Layout, options: ReadOptions) -> Iterator[Fields]:
    others = 0
    walked = walk(folder)
    options.notes.extend(walked.notes(folder))
    for path in walked.files:
        if path.suffix.lower() != ".wav":
            continue
        inside = path.relative_to(folder).as_posix()
        match = layout.files.fullmatch(inside)
        fields = layout.row(match.groupdict(), path) if match else None
        if fields is None:
            others += 1
            continue
        name = inside.removesuffix(path.suffix)
        yield fields | {"id": name, "audio": inside, "licence": layout.licence, "language": layout.language}
    if others:
        options.notes.append(f"passed over {others} recordings that are not of {layout.name}'s layout")


def _fillers(folder: Path, problems: list[Problem]) -> Iterator[Fields]:
    """A clip of a second around each event; the label `events` has its times in the clip. The podcast stands
    for the speaker: no episode is in two parts."""
    for line in _table(folder / _FILLERS, ("clip_name", "label_consolidated_vocab", "podcast_filename")):
        part = line["clip_split_subset"]
        label = line["label_consolidated_vocab"].lower()
        times = f"{float(line['event_start_inclip']):g}-{float(line['event_end_inclip']):g}"
        if part not in ("train", "validation", "test"):
            continue
        yield {
            "id": line["clip_name"].removesuffix(".wav"), "licence": "research only", "text": label,
            "audio": f"audio/clip_wav/{part}/{line['clip_name']}", "speaker": line["podcast_filename"],
            "split": "dev" if part == "validation" else part,
            "labels": {"event": label, "events": label if label == "none" else f"{times} {label}"},
        }  # fmt: skip


def _meld(folder: Path, problems: list[Problem]) -> Iterator[Fields]:
    """Clips of the tables; those without a line are not read. A clip lasts as long as its line says, which
    `maya prepare` compares with the audio."""
    for part, path in meld_tables(folder).items():
        for line in _table(path, ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")):
            dialogue, utterance = int(line["Dialogue_ID"]), int(line["Utterance_ID"])
            name = f"dia{dialogue}_utt{utterance}"
            seconds = _clock(line["EndTime"]) - _clock(line["StartTime"])
            clips = [folder / _MELD_FOLDERS[part] / f"{name}{end}" for end in (".wav", ".flac", ".mp4")]
            clip = next((clip for clip in clips if clip.is_file()), None)
            reason = ""
            if clip is None:
                reason = f"{path.name} names {name}, and {_MELD_FOLDERS[part]} has no such clip"
            elif (part, dialogue, utterance) in _MELD_BAD or not 0 < seconds <= _MELD_SECONDS:
                reason = f"{clip} is cut wrongly: its line says {seconds:.1f} s"
            if reason or clip is None:
                word = "missing_audio" if clip is None else "wrong_cut"
                problems.append(
                    Problem(id=f"{part}-{name}", language="en", reason=word, detail=reason, where=str(path))
                )
                continue
            yield {
                "id": f"{part}-{name}", "audio": clip.relative_to(folder).as_posix(), "split": part,
                "text": line["Utterance"], "speaker": line["Speaker"], "duration": seconds,
                "licence": "CC-BY-NC-4.0",
                "labels": {"emotion": line["Emotion"], "sentiment": line["Sentiment"]},
            }  # fmt: skip


def _m4_singer(folder: Path, problems: list[Problem]) -> Iterator[Fields]:
    """Phrases of meta.json: item_name is SINGER#SONG#NUMBER and the audio SINGER#SONG/NUMBER.wav."""
    for item in json.loads((folder / _M4).read_text(encoding="utf-8")):
        singer, song, number = item["item_name"].split("#")
        yield {
            "id": item["item_name"], "audio": f"{singer}#{song}/{number}.wav", "text": item["txt"],
            "speaker": singer, "language": "zh", "licence": "CC-BY-NC-SA-4.0",
            "labels": {"singing": "yes", "song": song, "voice": singer.split("-")[0].lower()},
        }  # fmt: skip


def _table(path: Path, needed: Iterable[str]) -> Iterator[dict[str, str]]:
    """The lines of a CSV file, in UTF-8 or as Windows wrote it. MayaError where a column is missing."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")
    # Some files went through cp1252 and UTF-8 in the wrong order: \x92 is the apostrophe ’.
    text = re.sub("[\x80-\x9f]", lambda m: m.group().encode("latin-1").decode("cp1252", "replace"), text)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for name in needed:
        if name not in (reader.fieldnames or ()):
            raise MayaError(f"{path}: there is no column {name}; is it the corpus's own table?")
    yield from reader


def _clock(text: str) -> float:
    """Seconds of HH:MM:SS,mmm."""
    hours, minutes, seconds = text.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _pointer(row: Row, path: Path) -> Problem | None:
    """A problem where the file is a pointer of Git LFS, as the zip of a repository holds it."""
    try:
        with path.open("rb") as file:
            if not file.read(40).startswith(b"version https://git-lfs"):
                return None
    except OSError:
        return None  # `maya prepare` tells that it is missing
    detail = f"{path} is only a pointer of Git LFS: run git lfs pull in a clone of the repository"
    return Problem(id=row.id, language=row.language, reason="not_downloaded", detail=detail, where=str(path))
