"""Lay out recorded English as LibriSpeech is laid out, to try its recipe without its 60 GB.

    python -m tools.librispeech_layout --clean ../shared/corpora/digits --other ../shared/corpora/indic12 \\
        --out exp/librispeech/layout --join 6
    ./egs/librispeech/run.sh --source exp/librispeech/layout --experiment zipformer:tiny

Both corpora are folders of any form that `maya prepare` reads. OUT/LibriSpeech then holds, as the original,

    dev-clean/1001/100003/1001-100003-0000.flac ...      one file an utterance, 16 kHz, 16 bits
    dev-clean/1001/100003/1001-100003.trans.txt          its id and its words, in capitals
    SPEAKERS.TXT, CHAPTERS.TXT, README.TXT               tables with bars

and ORIGINS.TSV, which tells what each utterance was before, and under which licence. No speaker is in two
parts. The same corpora and options give the same files.
"""

import argparse
import random
import re
import shutil
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from maya.data.measure.entry import Entry
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.examine import examine
from maya.errors import MayaError

TOP = "LibriSpeech"
_PER_CHAPTER = 40  # utterances
_FIRST_READER, _FIRST_CHAPTER = 1001, 100001
_HUNDRED_OF = (
    460  # of the hours of clean training speech, train-clean-100 has 100 and train-clean-360 the rest
)
_LETTERS = re.compile(r"[A-Z' ]+")
SAMPLE_RATE = 16000  # Hz, of LibriSpeech
_GAP = round(0.15 * SAMPLE_RATE)  # samples of silence between joined recordings


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """One utterance to be written: recordings of one speaker, one after the other."""

    id: str
    part: str
    recordings: tuple[Entry, ...]

    @property
    def chapter(self) -> str:
        """READER-CHAPTER."""
        return self.id.rpartition("-")[0]

    @property
    def words(self) -> str:
        return " ".join(capitals(item.text) for item in self.recordings)

    def samples(self) -> np.ndarray:
        """(N,) float32 at 16 kHz."""
        pieces: list[np.ndarray] = []
        for item in self.recordings:
            pieces += [np.zeros(_GAP, np.float32), item.load_audio(SAMPLE_RATE).numpy()]
        return np.concatenate(pieces[1:])


def lay_out(
    clean: Path, other: Path, out: Path, *, held: float = 0.2, join: float = 0.0, seed: int = 1
) -> Path:
    """Write `out`/LibriSpeech from the English of two corpora and return it.

    Args:
        held: share of each corpus's speakers that dev gets, and as many test; one at least.
        join: recordings of one speaker are joined until they last about this many seconds (0: left alone).
        seed: of the draw of speakers, and of the order in which recordings are joined.

    Raises MayaError when `out`/LibriSpeech is there, a corpus cannot be read, has fewer than three speakers,
    or shares one with the other.
    """
    top = out / TOP
    if top.exists():
        raise MayaError(f"{top} is there already; remove it, or choose another --out")
    utterances, readers, chapters = list[Spoken](), dict[str, int](), iter(range(_FIRST_CHAPTER, 10**6))
    for kind, corpus in (("clean", clean), ("other", other)):
        speakers = by_speaker(corpus)
        if shared := sorted(speakers.keys() & readers.keys()):
            raise MayaError(
                f"the speaker {shared[0]!r} is in both corpora; a speaker can be in one part only"
            )
        parts = assign(kind, speakers, held, random.Random(f"{seed} {kind}"))
        for speaker, part in sorted(parts.items()):
            readers[speaker] = _FIRST_READER + len(readers)
            joined = join_short(speakers[speaker], join, random.Random(f"{seed} {speaker}"))
            utterances += _numbered(joined, readers[speaker], part, chapters)
    partial = out / f".{TOP}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        seconds = {item.id: _write(partial, item) for item in utterances}
        _write_transcripts(partial, utterances)
        _write_tables(partial, utterances, {number: name for name, number in readers.items()}, seconds)
        partial.rename(top)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return top


def by_speaker(corpus: Path) -> dict[str, list[Entry]]:
    """The utterances of a corpus that LibriSpeech could hold: sound English, in letters and apostrophes."""
    examined = examine(corpus, languages=("en",), cfg=PrepareConfig(max_dropped_fraction=1.0))
    speakers: dict[str, list[Entry]] = defaultdict(list)
    for item, _ in examined.kept():
        if _LETTERS.fullmatch(capitals(item.text)):
            speakers[item.speaker].append(item)
    if len(speakers) < 3:
        raise MayaError(f"{corpus} has {len(speakers)} English speakers; train, dev and test need three")
    return dict(speakers)


def capitals(text: str) -> str:
    """A normalised text as LibriSpeech writes it: capitals without accents."""
    plain = unicodedata.normalize("NFKD", text.upper())
    return "".join(c for c in plain if not unicodedata.combining(c))


def assign(kind: str, speakers: Iterable[str], held: float, rng: random.Random) -> dict[str, str]:
    """The part of each speaker of the "clean" or the "other" corpus."""
    names = sorted(speakers)
    drawn = rng.sample(names, len(names))
    count = min(max(1, round(held * len(drawn))), (len(drawn) - 1) // 2)
    parts = dict.fromkeys(drawn[:count], f"test-{kind}") | dict.fromkeys(
        drawn[count : 2 * count], f"dev-{kind}"
    )
    train = drawn[2 * count :]
    if kind == "other":
        return parts | dict.fromkeys(train, "train-other-500")
    small = max(1, round(100 / _HUNDRED_OF * len(train)))
    return (
        parts
        | dict.fromkeys(train[:small], "train-clean-100")
        | dict.fromkeys(train[small:], "train-clean-360")
    )


def join_short(group: Sequence[Entry], seconds: float, rng: random.Random) -> list[tuple[Entry, ...]]:
    """Recordings of one speaker, each alone or joined in random order up to about so many seconds."""
    if not seconds:
        return [(item,) for item in group]
    groups: list[list[Entry]] = []
    remaining = 0.0
    for item in rng.sample(group, len(group)):
        if remaining < item.duration:
            groups.append([])
            remaining = rng.uniform(0.3, 1.0) * seconds
        groups[-1].append(item)
        remaining -= item.duration + _GAP / SAMPLE_RATE
    return [tuple(group) for group in groups]


def _numbered(
    groups: Sequence[tuple[Entry, ...]], reader: int, part: str, chapters: Iterator[int]
) -> Iterator[Spoken]:
    chapter = 0
    for number, group in enumerate(groups):
        if number % _PER_CHAPTER == 0:
            chapter = next(chapters)
        name = f"{reader}-{chapter}-{number % _PER_CHAPTER:04d}"
        yield Spoken(id=name, part=part, recordings=group)


def _write(top: Path, item: Spoken) -> float:
    """Write its audio; returns its seconds."""
    samples = item.samples()
    folder = top / item.part / item.chapter.replace("-", "/")
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{item.id}.flac", samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return len(samples) / SAMPLE_RATE


def _write_transcripts(top: Path, utterances: Sequence[Spoken]) -> None:
    lines: dict[Path, list[str]] = defaultdict(list)
    for item in utterances:
        path = top / item.part / item.chapter.replace("-", "/") / f"{item.chapter}.trans.txt"
        lines[path].append(f"{item.id} {item.words}\n")
    for path, group in lines.items():
        path.write_text("".join(group))


def _write_tables(
    top: Path, utterances: Sequence[Spoken], readers: dict[int, str], seconds: dict[str, float]
) -> None:
    """SPEAKERS.TXT, CHAPTERS.TXT, README.TXT and ORIGINS.TSV."""
    minutes: dict[str, float] = defaultdict(float)
    part_of: dict[str, str] = {}
    for item in utterances:
        for key in (item.chapter, item.chapter.split("-")[0]):
            minutes[key] += seconds[item.id] / 60
            part_of[key] = item.part
    speakers = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    speakers += [
        f"{n:<5}| U | {part_of[str(n)]:<17}| {minutes[str(n)]:<6.2f}| {readers[n]}" for n in sorted(readers)
    ]
    (top / "SPEAKERS.TXT").write_text("\n".join(speakers) + "\n")
    chapters = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"]
    for chapter in sorted({item.chapter for item in utterances}, key=lambda name: name.split("-")[1]):
        reader, number = chapter.split("-")
        numbers = f"{number:<7}| {reader:<5}| {minutes[chapter]:<6.2f}"
        chapters.append(f"{numbers}| {part_of[chapter]:<17}| 0    | 0     | - | -")
    (top / "CHAPTERS.TXT").write_text("\n".join(chapters) + "\n")
    (top / "README.TXT").write_text(
        "Recordings of other corpora in the layout of LibriSpeech; this is not LibriSpeech.\n"
        "ORIGINS.TSV tells where each utterance is from and its licence.\n"
    )
    rows = ["id\toriginals\tsource\tlicence"]
    for item in utterances:
        first = item.recordings[0]
        names = " ".join(recording.id for recording in item.recordings)
        rows.append("\t".join([item.id, names, first.source or "", first.licence or ""]))
    (top / "ORIGINS.TSV").write_text("\n".join(rows) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m tools.librispeech_layout",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--clean", type=Path, required=True, help="corpus folder for train-clean-*, dev-clean and test-clean")
    add(
        "--other",
        type=Path,
        required=True,
        help="corpus folder for train-other-500, dev-other and test-other",
    )
    add("--out", type=Path, required=True, help="folder in which LibriSpeech/ is made")
    add("--held", type=float, default=0.2, help="share of the speakers for dev, and for test (0.2)")
    add(
        "--join",
        type=float,
        default=0.0,
        help="seconds up to which recordings of a speaker are joined (0: no)",
    )
    add("--seed", type=int, default=1, help="another seed gives other parts (1)")
    args = parser.parse_args(argv)
    try:
        top = lay_out(args.clean, args.other, args.out, held=args.held, join=args.join, seed=args.seed)
    except MayaError as error:
        sys.exit(f"error: {error}")
    for part in sorted(p for p in top.iterdir() if p.is_dir()):
        print(f"{part.name}: {sum(1 for _ in part.rglob('*.flac'))} utterances")


if __name__ == "__main__":
    main()
