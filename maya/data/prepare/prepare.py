"""From a corpus folder to validated tables of train, dev and test (maya.data.table.table).

Recordings stay where they are, at the rates they have: a row points at a file, or at a byte range of a tar.
Audio is resampled to the model's rate when it is loaded, so models of several rates share a prepared folder.
"""

import errno
import itertools
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from maya.config import config
from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import PARTS, Dropped, Row
from maya.data.measure.flags import Flag
from maya.data.measure.overlaps import overlap_groups, overlaps
from maya.data.measure.probe import ProbeConfig, Probed, probe
from maya.data.prepare import audio_files
from maya.data.prepare.audio_checks import AudioCheckConfig, audio_limits, check_audio
from maya.data.prepare.audio_files import AudioFiles
from maya.data.prepare.earlier import Earlier, corpus_name, read_earlier, split_options
from maya.data.prepare.findings import Findings
from maya.data.prepare.split import Item, SplitConfig, split
from maya.data.prepare.text_checks import TextCheckConfig, check_leaks, check_texts
from maya.data.report.page import Page, draw
from maya.data.report.statistics import Statistics
from maya.data.report.text_table import table
from maya.data.table.table import Entry, entry_of, part_path, write_table
from maya.data.table.utterances import encode_cuts
from maya.errors import MayaError
from maya.files import try_lock
from maya.ranges import Share
from maya.text.languages import language_code

__all__ = ["Examined", "PrepareConfig", "PrepareReport", "encode_cuts", "examine", "prepare_corpus", "to_cut"]

_FILES = (
    "dropped.jsonl",
    "flagged.jsonl",
    audio_files.NAME,
    "splits.json",
    *(part_path(Path(), part).name for part in PARTS),
    "report.json",
    "report.html",
    "summary.json",
)


@config
class PrepareConfig:
    """language: of the utterances of a folder that does not say; the only one asked for, if it is one.
    max_dropped_fraction: with more of the utterances unusable, the corpus is refused."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    audio_checks: AudioCheckConfig = field(default_factory=AudioCheckConfig)
    text_checks: TextCheckConfig = field(default_factory=TextCheckConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    language: str | None = None
    max_dropped_fraction: Share = 0.2


@dataclass(kw_only=True, slots=True)
class PrepareReport:
    """What was made of a corpus.

    rows: utterances read; not_selected: utterances by language that was not asked for; dropped: utterances
    left out by reason; flagged: utterances kept but suspect, by reason and language; languages: see
    statistics; splits: see split; notes: what a person should know; subsets: where the
    corpus has several dev or test sets, the utterances of each; corpus: its name (see earlier);
    split_options: of the split; changes: sentences on what differs from an earlier preparation, for people.
    """

    rows: int
    not_selected: dict[str, int]
    dropped: dict[str, int]
    flagged: dict[str, dict[str, int]]
    languages: dict[str, Any]
    splits: dict[str, Any]
    notes: list[str]
    subsets: dict[str, int] = field(default_factory=dict)
    corpus: str = ""
    split_options: dict[str, Any] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Everything above as text."""
        lines = [table(self.languages, self.splits)]
        if self.subsets:
            lines.append("evaluation sets: " + ", ".join(f"{name} {n}" for name, n in self.subsets.items()))
        if self.dropped:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
            lines.append(f"dropped {sum(self.dropped.values())} of {self.rows} (dropped.jsonl): {counts}")
        if self.flagged:
            lines.append("kept but flagged (flagged.jsonl):")
            lines += [
                f"  {reason}: " + " ".join(f"{language} {count}" for language, count in counts_of.items())
                for reason, counts_of in self.flagged.items()
            ]
        return "\n".join(lines + self.notes + self.changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What is known of a corpus before anything is written.

    selected: rows in the languages asked for; others: how many there are of the rest; kept: what is usable,
    in the order of the corpus; dropped, flags: what is not, and what is suspect; parts: of those kept, by id;
    splits: see split; refusal: why the corpus cannot be used, if it cannot; audio: the files of the
    selected rows as they were before anything was measured.
    """

    corpus: Path
    selected: list[Row]
    others: Counter[str]
    kept: list[Probed]
    dropped: list[Dropped]
    flags: list[Flag]
    parts: dict[str, str]
    splits: dict[str, Any]
    notes: list[str]
    refusal: str | None
    audio: AudioFiles

    @property
    def rows(self) -> int:
        """Utterances read: kept or dropped."""
        return len(self.kept) + len(self.dropped)

    def entries(self) -> dict[str, list[Entry]]:
        """What is kept, by part."""
        found: dict[str, list[Entry]] = {part: [] for part in PARTS}
        for one in self.kept:
            found[self.parts[one.row.id]].append(entry_of(one))
        return found

    def subsets(self) -> dict[str, str]:
        """By id, the evaluation set of its own that the corpus puts an utterance of dev or test into."""
        held = (one.row for one in self.kept if self.parts[one.row.id] == one.row.split != "train")
        return {row.id: row.subset for row in held if row.subset is not None}

    def page(self, entries: Mapping[str, Iterable[Entry]], cfg: AudioCheckConfig) -> Page:
        """The numbers of the report page (maya.data.report.page)."""
        statistics, findings = Statistics(), Findings()
        for part, mine in entries.items():
            for entry in mine:
                statistics.add(entry, part)
        findings.add("dropped", self.dropped)
        findings.add("flagged", self.flags)
        shown = findings.ids()
        return Page(
            title=f"Corpus {self.corpus.resolve().name}",
            summary={
                "rows": self.rows,
                "languages": statistics.summary(),
                "splits": self.splits,
                "notes": self.notes,
            },
            statistics=statistics.spreads(),
            findings=findings.as_json({row.id: row.text for row in self.selected if row.id in shown}),
            limits=audio_limits(cfg),
        )


def prepare_corpus(
    corpus_dir: Path, out_dir: Path, *, languages: Sequence[str], cfg: PrepareConfig
) -> PrepareReport:
    """Validate, normalise and split a corpus.

    Writes train.parquet, dev.parquet and test.parquet (see table) and, where the corpus has several
    dev or test sets, a table of each (dev-clean.parquet), dropped.jsonl and flagged.jsonl (id, language,
    reason, detail, where; see maya.data.prepare.audio_checks and text_checks for the flags), splits.json,
    audio_files.arrow (see audio_files), summary.json, and a page for people, report.html, with its
    numbers, report.json. All of them appear together, after everything else has succeeded; the same corpus,
    config and earlier split give the same bytes. What was measured stays in `out_dir`.probed, and audio from
    inside tables in `out_dir`.audio: a run that was killed goes on where it was, and one with another split
    or other checks decodes nothing.

    What `out_dir` holds of the same corpus, which may have grown or moved since, keeps its split (see
    maya.data.prepare.split), unless cfg.split has other options than then.

    languages: those to take; utterances in others are counted and left; all if empty. Raises MayaError when
    the corpus cannot be read, when `out_dir` was prepared from another corpus, when all of a language or more
    than cfg.max_dropped_fraction of everything would be dropped, when the disk is full, and while another
    process prepares into `out_dir`.
    """
    try:
        lock = try_lock(probed_path(out_dir) / ".lock")
    except OSError as error:
        raise MayaError(f"cannot write {error.filename or out_dir}: {error.strerror}") from error
    if lock.holder:
        raise MayaError(
            f"{out_dir} is being prepared by {lock.holder}: wait until it ends, or choose another folder"
        )
    try:
        return _prepare_corpus(corpus_dir, out_dir, languages, cfg)
    finally:
        lock.release()


def _prepare_corpus(
    corpus_dir: Path, out_dir: Path, languages: Sequence[str], cfg: PrepareConfig
) -> PrepareReport:
    keep, made = probed_path(out_dir), out_dir.with_name(f"{out_dir.name}.audio")
    earlier = read_earlier(out_dir)
    found = examine(corpus_dir, languages=languages, cfg=cfg, keep=keep, made=made, earlier=earlier)
    if found.refusal is not None:
        raise MayaError(found.refusal)
    entries = found.entries()
    subsets = by_subset(entries, found.subsets())
    page = found.page(entries, cfg.audio_checks)
    report = PrepareReport(
        rows=found.rows,
        not_selected=dict(sorted(found.others.items())),
        dropped=dict(sorted(Counter(d.reason for d in found.dropped).items())),
        flagged=_by_reason(found.flags),
        languages=dict(page.summary["languages"]),
        splits=found.splits,
        notes=found.notes,
        subsets={name: len(mine) for name, mine in subsets.items()},
        corpus=corpus_name(corpus_dir),
        split_options=split_options(cfg.split),
        changes=earlier.changes(corpus_name(corpus_dir), entries, cfg.split) if earlier else [],
    )
    findings: dict[str, Sequence[Dropped | Flag]] = {
        "dropped.jsonl": found.dropped,
        "flagged.jsonl": found.flags,
    }
    _write(out_dir, entries | subsets, findings, report, page, found.audio)
    return report


def by_subset(entries: Mapping[str, list[Entry]], subset_of: Mapping[str, str]) -> dict[str, list[Entry]]:
    """The entries of each subset, in order; `subset_of` is by id."""
    found: dict[str, list[Entry]] = {}
    for entry in itertools.chain.from_iterable(entries.values()):
        if entry.id in subset_of:
            found.setdefault(subset_of[entry.id], []).append(entry)
    return {name: found[name] for name in sorted(found)}


def examine(
    corpus_dir: Path,
    *,
    languages: Sequence[str],
    cfg: PrepareConfig,
    keep: Path | None = None,
    made: Path | None = None,
    earlier: Earlier | None = None,
) -> Examined:
    """Look at every utterance of a corpus and at all of them together, as preparing does, and write nothing
    but, with `keep`, what was measured of the audio (see probe) and, with `made`, the audio that
    lies inside tables (see maya.data.corpus.hugging_face).

    languages: as for prepare_corpus. earlier: the preparation that the corpus is to replace, and whose split
    it keeps. Raises MayaError when the corpus cannot be read, is another than the earlier, or has nothing in
    these languages; every other reason to refuse it is told with what was found.
    """
    languages = [language_code(language) for language in languages]
    only = languages[0] if len(languages) == 1 else None
    reading_notes: list[str] = []
    default = language_code(cfg.language) if cfg.language else only
    rows, dropped = read_corpus(corpus_dir, default, made, reading_notes)
    dropped = [_with_code(one) for one in dropped]
    selected = [row for row in rows if not languages or row.language in languages]
    others = Counter(row.language for row in rows if languages and row.language not in languages)
    if not selected:
        raise MayaError(
            f"{corpus_dir} has no utterance in {', '.join(languages)}, only in {', '.join(sorted(others))}; "
            f"set languages={','.join(sorted(others))} to take these"
        )
    if earlier is not None:
        earlier.check_ids(corpus_name(corpus_dir), rows)
    audio = audio_files.of_rows(corpus_dir, selected)  # first: what changes from here on is then noticed
    usable, unusable = probe(corpus_dir, selected, cfg.probe, keep)
    if earlier is not None:
        earlier.check_audio(corpus_name(corpus_dir), usable)
    well_heard, audio_flags, ill_heard = check_audio(usable, cfg.audio_checks)
    checked = check_texts(well_heard, cfg.text_checks)
    kept = checked.kept
    dropped += unusable + ill_heard + checked.dropped
    shared = list(overlaps(kept))
    groups = overlap_groups(shared)
    to_keep = earlier.kept_split(cfg.split) if earlier is not None else None
    parts, splits = split([_item(p, groups.get(p.row.id)) for p in kept], cfg.split, to_keep)
    audio_flags = [flag for flag in audio_flags if flag.id in parts]  # of those that texts leave
    return Examined(
        corpus=corpus_dir,
        selected=selected,
        others=others,
        kept=kept,
        dropped=dropped,
        flags=audio_flags + checked.flags + check_leaks(kept, parts, checked.twins, shared),
        parts=parts,
        splits=splits,
        notes=reading_notes + _notes(selected, others, languages, splits, cfg.split) + _overlap_notes(groups),
        refusal=_refusal(corpus_dir, selected, kept, dropped, parts, cfg.max_dropped_fraction),
        audio=audio,
    )


def probed_path(out: Path) -> Path:
    """Where what was measured of the audio is kept (see measured), beside the output folder."""
    return out.with_name(f"{out.name}.probed")


def to_cut(probed: Probed) -> Cut:
    """The lhotse cut of an utterance, as its table gives it; see maya.data.table.entry."""
    return entry_of(probed).cut()


def _with_code(dropped: Dropped) -> Dropped:
    """With the code that rows have, where its language is one; readers keep what the corpus says."""
    try:
        return replace(dropped, language=language_code(dropped.language)) if dropped.language else dropped
    except MayaError:
        return dropped


def _overlap_notes(groups: Mapping[str, str]) -> list[str]:
    if not groups:
        return []
    count = len(set(groups.values()))
    return [f"{len(groups)} utterances share audio with others: {count} groups, each kept in one part"]


def _item(probed: Probed, group: str | None) -> Item:
    row = probed.row
    return Item(
        id=row.id,
        language=row.language,
        speaker=row.speaker or row.id,
        text=probed.text,
        seconds=probed.seconds,
        part=row.split,
        group=group,
    )


def _refusal(
    corpus: Path,
    selected: list[Row],
    kept: list[Probed],
    dropped: list[Dropped],
    parts: Mapping[str, str],
    max_fraction: float,
) -> str | None:
    """Why what is left cannot be what was meant; None if it can."""
    total = Counter(row.language for row in selected)
    left = Counter(p.row.language for p in kept)
    for language, count in sorted(total.items()):
        if not left[language]:
            mine = [d for d in dropped if d.language == language]
            return f"{corpus}: all {count} utterances of {language!r} are unusable, {_reasons(mine)}"
    if len(dropped) > max_fraction * (len(kept) + len(dropped)):
        return (
            f"{corpus}: {len(dropped)} of {len(kept) + len(dropped)} utterances are unusable, more than "
            f"max_dropped_fraction={max_fraction:g} allows: {_reasons(dropped)}"
        )
    if "train" not in parts.values():
        return f"{corpus}: no utterance is left to train on; all of them are marked dev or test"
    return None


def _reasons(dropped: list[Dropped]) -> str:
    counts = Counter(d.reason for d in dropped).most_common()
    first = dropped[0]
    return ", ".join(f"{n} {reason}" for reason, n in counts) + f"; the first is {first.id!r}: {first.detail}"


def _by_reason(flags: Iterable[Flag]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for flag in flags:
        counts[flag.reason][flag.language] += 1
    return {reason: dict(sorted(counts[reason].items())) for reason in sorted(counts)}


def _notes(
    rows: list[Row],
    others: Counter[str],
    languages: Sequence[str],
    splits: dict[str, Any],
    cfg: SplitConfig,
) -> list[str]:
    notes = []
    if unnamed := sum(row.speaker is None for row in rows):
        notes.append(f"{unnamed} utterances name no speaker: each counts as a speaker of its own")
    if others:
        counts = ", ".join(f"{n} in {language}" for language, n in sorted(others.items()))
        every = ",".join(sorted({*languages, *others}))
        notes.append(
            f"left out because their language was not asked for: {counts} (languages={every} takes them too)"
        )
    if absent := [code for code in languages if code not in splits]:
        notes.append(f"no utterances in {', '.join(absent)}")
    if by_text := [code for code, how in splits.items() if how["method"].endswith("text")]:
        codes = ", ".join(by_text)
        notes.append(f"too few speakers to hold any out, so dev and test have known voices: {codes}")
    whole = [code for code, how in splits.items() if how["method"] == "train"]
    if whole and (cfg.dev or cfg.test):
        notes.append(f"too few texts to hold any out, so dev and test have none of: {', '.join(whole)}")
    for part, use in (("dev", "training is not validated"), ("test", "there is nothing to decode and score")):
        if splits and not any(facts["parts"][part]["utterances"] for facts in splits.values()):
            why = "" if getattr(cfg, part) else f" (prepare.split.{part} is 0)"
            notes.append(f"there is no {part} set{why}: {use}")
    return notes


def _write(
    out: Path,
    entries: dict[str, list[Entry]],
    findings: Mapping[str, Sequence[Dropped | Flag]],
    report: PrepareReport,
    page: Page,
    audio: AudioFiles,
) -> None:
    """Write all files beside `out`, then move them in; summary.json is the last to appear."""
    partial = out.parent / f".{out.name}.partial"
    with _room_for(sum(map(len, entries.values())), out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir()
        try:
            for part, mine in entries.items():
                write_table(part_path(partial, part), mine)
            for name, found in findings.items():
                lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in found)
                (partial / name).write_text("".join(lines), encoding="utf-8")
            _write_json(partial / "splits.json", report.splits)
            numbers = {name: getattr(page, name) for name in ("statistics", "findings", "limits")}
            (partial / "report.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
            (partial / "report.html").write_text(draw(page), encoding="utf-8")
            audio.write(partial / audio_files.NAME)
            summary = {name: value for name, value in asdict(report).items() if name != "changes"}
            _write_json(partial / "summary.json", summary)
            if not out.exists():
                partial.rename(out)
                return
            for subset in _subsets_of(out / "summary.json"):  # what the corpus had
                part_path(out, subset).unlink(missing_ok=True)
            (out / "summary.json").unlink(missing_ok=True)
            for part in PARTS:  # what earlier versions wrote, which nothing reads any more
                (out / f"cuts_{part}.jsonl.gz").unlink(missing_ok=True)
            for name in [*(part_path(Path(), subset).name for subset in report.subsets), *_FILES]:
                (partial / name).replace(out / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _subsets_of(summary: Path) -> list[str]:
    """The subsets that an earlier preparation wrote tables of."""
    try:
        return list(json.loads(summary.read_text(encoding="utf-8")).get("subsets", {}))
    except (OSError, ValueError):
        return []


@contextmanager
def _room_for(utterances: int, out: Path) -> Iterator[None]:
    """Say what is missing when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise MayaError(f"cannot write {error.filename or out}: {error.strerror}") from error
        there = next(path for path in (out, *out.parents) if path.exists())
        free = shutil.disk_usage(there).free
        raise MayaError(
            f"the disk of {out} is full: about {max(1, utterances * 400 // 1_000_000)} MB are needed, "
            f"{free // 1_000_000} MB are free; make room or choose another folder"
        ) from error


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
