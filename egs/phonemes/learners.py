"""Speech of learners that people have judged: SpeechOcean762 and L2-ARCTIC.

Labels: phonemes, what was heard, in IPA; canonical, what was to be said; phone_scores, a number for each
canonical phoneme from 0 (wrong or missing) to 2 (right); and of SpeechOcean762 the experts' scores of an
utterance: accuracy, completeness, fluency, prosodic, total.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

from maya.data.corpus.manifest import read_lines
from maya.errors import MayaError
from maya.text.ipa import arpabet_units

SCORES = ("accuracy", "completeness", "fluency", "prosodic", "total")
RIGHT, WRONG = 2.0, 0.0
_HELD_OUT = 10  # every tenth training speaker is for dev
# The usual test speakers of L2-ARCTIC, one of each first language; dev has another of each of three.
TEST_SPEAKERS = ("NJS", "TLV", "TNI", "TXHC", "YKWK", "ZHAA")
DEV_SPEAKERS = ("EBVS", "HKK", "SVBI")
_SILENT = ("", "sil", "sp", "spn")


def speechocean(source: Path) -> Iterator[dict[str, Any]]:
    """Rows of train/ and test/ with wav.scp, text and utt2spk, and resource/scores.json. A phone that the
    experts heard otherwise is what they heard; one of which they did not say what (<unk>) is left out."""
    path = source / "resource" / "scores.json"
    try:
        judged = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MayaError(
            f"{path} cannot be read ({error}); is --source the folder of SpeechOcean762?"
        ) from None
    for part in ("train", "test"):
        texts, speakers, audio = (_table(source / part / name) for name in ("text", "utt2spk", "wav.scp"))
        aside = set(sorted(set(speakers.values()))[::_HELD_OUT]) if part == "train" else set()
        for name in sorted(audio):
            if name not in judged or name not in texts or name not in speakers:
                raise MayaError(
                    f"{name} of {source / part} has no text, speaker or scores; copy the corpus again"
                )
            yield {
                "id": name, "language": "en", "speaker": speakers[name], "text": texts[name].lower(),
                "split": "dev" if speakers[name] in aside else part,
                "audio": str((source / audio[name]).resolve()), "labels": _judged(judged[name], name),
            }  # fmt: skip


def _judged(entry: dict[str, Any], name: str) -> dict[str, str]:
    canonical: list[str] = []
    perceived: list[str] = []
    scores: list[float] = []
    for word in entry["words"]:
        phones = word["phones"].split() if isinstance(word["phones"], str) else list(word["phones"])
        if len(phones) != len(word["phones-accuracy"]):
            raise MayaError(f"{name}: {word['text']} has {len(phones)} phones and another number of scores")
        said = dict(enumerate(phones))
        for slip in word.get("mispronunciations") or ():
            said[slip["index"]] = slip["pronounced-phone"].strip()
        canonical += phones
        perceived += [phone.rstrip("*") for phone in said.values() if phone not in ("<DEL>", "<unk>")]
        scores += [float(score) for score in word["phones-accuracy"]]
    labels = {name: f"{float(entry[name]):g}" for name in SCORES}
    return labels | _labels(canonical, perceived, scores)


def _labels(canonical: Sequence[str], perceived: Sequence[str], scores: Sequence[float]) -> dict[str, str]:
    return {
        "phonemes": " ".join(arpabet_units(perceived)), "canonical": " ".join(arpabet_units(canonical)),
        "phone_scores": " ".join(f"{score:g}" for score in scores),
    }  # fmt: skip


def _table(path: Path) -> dict[str, str]:
    """A table of Kaldi's: a name, white space, and the rest of the line."""
    try:
        pairs = [line.split(maxsplit=1) for line in read_lines(path) if line.strip()]
    except OSError as error:
        raise MayaError(f"{path} cannot be read ({error.strerror}); copy the corpus again") from None
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}


def l2arctic(source: Path) -> Iterator[dict[str, Any]]:
    """Rows of what was annotated by hand: SPEAKER/annotation/NAME.TextGrid beside wav/ and transcript/."""
    files = sorted(source.glob("*/annotation/*.TextGrid"))
    if not files:
        raise MayaError(f"{source} has no SPEAKER/annotation/NAME.TextGrid; is it the folder of L2-ARCTIC?")
    for path in files:
        speaker, name = path.parents[1].name, path.stem
        split = "test" if speaker in TEST_SPEAKERS else "dev" if speaker in DEV_SPEAKERS else "train"
        text = path.parents[1] / "transcript" / f"{name}.txt"
        if not text.is_file():
            raise MayaError(f"{path} has no {text}; copy the corpus again")
        spoken = re.sub(r"[^a-z' ]+", " ", text.read_text(encoding="utf-8").lower())
        triples = list(starmap(_triple, annotated(path)))
        yield {
            "id": f"{speaker}-{name}", "language": "en", "speaker": speaker, "split": split,
            "text": " ".join(spoken.split()),
            "audio": str((path.parents[1] / "wav" / f"{name}.wav").resolve()),
            "labels": _labels(
                [said for said, _, _ in triples if said], [own for _, own, _ in triples if own],
                [RIGHT if not kind else WRONG for said, _, kind in triples if said],
            ),
        }  # fmt: skip


def annotated(path: Path) -> Iterator[tuple[Path, str]]:
    """The labels of the tier of phones, in order, without silences."""
    from praatio import textgrid
    from praatio.utilities.errors import PraatioException

    try:
        tiers = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
        entries = tiers.getTier("phones").entries
    except (PraatioException, LookupError, ValueError, OSError) as error:
        raise MayaError(f"{path} is no TextGrid with a tier of phones ({error})") from None
    yield from ((path, e.label.strip()) for e in entries if e.label.strip().lower() not in _SILENT)


def _triple(path: Path, label: str) -> tuple[str, str, str]:
    """(to be said, heard, kind) of a label: "AH0", or "DH, D, s" with the kind s, d or a for substitution,
    deletion and addition; "" for no phone. A deviation (*) counts as the phone; err is no phone."""
    cells = [cell.strip() for cell in label.split(",")]
    if len(cells) == 1:
        return cells[0], cells[0], ""
    if len(cells) != 3 or cells[2].lower() not in ("s", "d", "a"):
        raise MayaError(f"{path}: {label!r} is no phone and no `correct,perceived,s|d|a`")
    said, perceived = ("" if cell.lower() in (*_SILENT, "err") else cell.rstrip("*") for cell in cells[:2])
    return said, perceived, cells[2].lower()
