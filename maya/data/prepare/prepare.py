"""From a corpus folder to validated tables of train, dev and test (maya.data.table.table).

Recordings stay where they are, at the rates they have: a row points at a file, or at a byte range of a tar.
Audio is resampled to the model's rate when it is loaded, so models of several rates share a prepared folder.
"""

import itertools
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from maya.config import config
from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import PARTS, Problem, Row
from maya.data.measure.entry import Entry
from maya.data.measure.overlaps import overlap_groups, overlaps
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.prepare import audio_files
from maya.data.prepare.audio_checks import AudioCheckConfig, audio_limits, check_audio
from maya.data.prepare.audio_files import AudioFiles
from maya.data.prepare.earlier import Earlier, corpus_name, read_earlier, split_options
from maya.data.prepare.split import Item, SplitConfig, split
from maya.data.prepare.text_checks import TextCheckConfig, check_leaks, check_texts
from maya.data.report.findings import Findings
from maya.data.report.page import Page, draw
from maya.data.report.statistics import Statistics
from maya.data.report.text_table import table
from maya.data.table.table import part_path, write_table
from maya.errors import MayaError
from maya.files import is_disk_full, read_json, try_lock, write_json
from maya.ranges import Share
from maya.text.languages import language_code

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
    """language: of utterances whose corpus does not name one; by default the experiment's, if it has one.
    labels: fields or columns of the corpus that are labels, besides those it marks as such (`labels`,
    label_NAME). max_dropped_fraction: a corpus of which more is unusable is refused."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    audio_checks: AudioCheckConfig = field(default_factory=AudioCheckConfig)
    text_checks: TextCheckConfig = field(default_factory=TextCheckConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    language: str | None = None
    labels: tuple[str, ...] = ()
    max_dropped_fraction: Share = 0.2


@dataclass(kw_only=True, slots=True)
class PrepareReport:
    """The result of preparing a corpus.

    rows: utterances read; not_selected: utterances in languages that are not selected, by language; dropped:
    by reason; flagged: kept but suspect, by reason and language; languages: see statistics; splits: see
    split; notes: sentences for people; subsets: utterances of each dev or test set where the corpus has
    several; corpus: its name (see earlier); split_options: of the split; changes: sentences for people on
    what differs from an earlier preparation.
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
    """A corpus after all checks, before anything is written.

    selected: rows in the selected languages; others: the number of rows in other languages; kept: usable
    utterances, in the order of the corpus; dropped, flags: unusable and suspect ones; parts: of those kept,
    by id; splits: see split; refusal: the reason why the corpus cannot be used, None if it can; audio: the
    files of the selected rows as they were before anything was measured.
    """

    corpus: Path
    selected: list[Row]
    others: Counter[str]
    kept: list[Entry]
    dropped: list[Problem]
    flags: list[Problem]
    parts: dict[str, str]
    splits: dict[str, Any]
    notes: list[str]
    refusal: str | None
    audio: AudioFiles

    @property
    def rows(self) -> int:
        """Number of utterances read: kept or dropped."""
        return len(self.kept) + len(self.dropped)

    def entries(self) -> dict[str, list[Entry]]:
        """The utterances that are kept, by part."""
        by_part: dict[str, list[Entry]] = {part: [] for part in PARTS}
        for entry in self.kept:
            by_part[self.parts[entry.id]].append(entry)
        return by_part

    def subsets(self) -> dict[str, str]:
        """By id, the evaluation set of the corpus that an utterance of dev or test belongs to."""
        return {
            row.id: row.subset
            for row in self.selected
            if row.subset is not None and self.parts.get(row.id, "train") == row.split != "train"
        }

    def page(self, entries: Mapping[str, Iterable[Entry]], cfg: AudioCheckConfig) -> Page:
        """The numbers of the report page (maya.data.report.page)."""
        statistics, findings = Statistics(), Findings()
        for part, some in entries.items():
            for entry in some:
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
    examined = examine(corpus_dir, languages=languages, cfg=cfg, keep=keep, made=made, earlier=earlier)
    if examined.refusal is not None:
        raise MayaError(examined.refusal)
    entries = examined.entries()
    subsets = by_subset(entries, examined.subsets())
    page = examined.page(entries, cfg.audio_checks)
    report = PrepareReport(
        rows=examined.rows,
        not_selected=dict(sorted(examined.others.items())),
        dropped=dict(sorted(Counter(problem.reason for problem in examined.dropped).items())),
        flagged=_by_reason(examined.flags),
        languages=dict(page.summary["languages"]),
        splits=examined.splits,
        notes=examined.notes,
        subsets={name: len(some) for name, some in subsets.items()},
        corpus=corpus_name(corpus_dir),
        split_options=split_options(cfg.split),
        changes=earlier.changes(corpus_name(corpus_dir), entries, cfg.split) if earlier else [],
    )
    problems = {"dropped.jsonl": examined.dropped, "flagged.jsonl": examined.flags}
    _write(out_dir, entries | subsets, problems, report, page, examined.audio)
    return report


def by_subset(entries: Mapping[str, list[Entry]], subset_of: Mapping[str, str]) -> dict[str, list[Entry]]:
    """The entries of each subset, in order; `subset_of` is by id."""
    subsets: dict[str, list[Entry]] = {}
    for entry in itertools.chain.from_iterable(entries.values()):
        if entry.id in subset_of:
            subsets.setdefault(subset_of[entry.id], []).append(entry)
    return dict(sorted(subsets.items()))


def examine(
    corpus_dir: Path,
    *,
    languages: Sequence[str],
    cfg: PrepareConfig,
    keep: Path | None = None,
    made: Path | None = None,
    earlier: Earlier | None = None,
) -> Examined:
    """Check every utterance of a corpus and all of them together, as preparing does.

    Nothing is written but, with `keep`, the measurements of the audio (see probe) and, with `made`, audio
    that lies inside tables (see maya.data.corpus.hugging_face). languages: as for prepare_corpus. earlier:
    the preparation that the corpus is to replace; its split is kept. Raises MayaError when the corpus cannot
    be read, is another than the earlier, or has nothing in these languages. Every other reason to refuse it
    is in the result.
    """
    languages = [language_code(language) for language in languages]
    only = languages[0] if len(languages) == 1 else None
    notes: list[str] = []
    default = language_code(cfg.language) if cfg.language else only
    rows, dropped = read_corpus(corpus_dir, default, made, notes, cfg.labels)
    dropped = [_with_code(problem) for problem in dropped]
    selected = [row for row in rows if not languages or row.language in languages]
    others = Counter(row.language for row in rows if languages and row.language not in languages)
    if not selected:
        raise MayaError(
            f"{corpus_dir} has no utterance in {', '.join(languages)}, only in {', '.join(sorted(others))}; "
            f"set languages={','.join(sorted(others))} to take these"
        )
    if earlier is not None:
        earlier.check_ids(corpus_name(corpus_dir), rows)
    audio = audio_files.of_rows(corpus_dir, selected)  # first: later changes are then noticed
    usable, unusable = probe(corpus_dir, selected, cfg.probe, keep)
    if earlier is not None:
        earlier.check_audio(corpus_name(corpus_dir), usable)
    good_audio, audio_flags, bad_audio = check_audio(usable, cfg.audio_checks)
    checked = check_texts(good_audio, cfg.text_checks)
    kept = checked.kept
    dropped += unusable + bad_audio + checked.dropped
    shared = list(overlaps(kept))
    groups = overlap_groups(shared)
    to_keep = earlier.kept_split(cfg.split) if earlier is not None else None
    named_parts = {row.id: row.split for row in selected if row.split is not None}
    items = [_item(entry, named_parts.get(entry.id), groups.get(entry.id)) for entry in kept]
    parts, splits = split(items, cfg.split, to_keep)
    audio_flags = [flag for flag in audio_flags if flag.id in parts]  # without those that the texts drop
    return Examined(
        corpus=corpus_dir,
        selected=selected,
        others=others,
        kept=kept,
        dropped=dropped,
        flags=audio_flags + checked.flags + check_leaks(kept, parts, checked.twins, shared),
        parts=parts,
        splits=splits,
        notes=notes + _notes(selected, others, languages, splits, cfg.split) + _overlap_notes(groups),
        refusal=_refusal(corpus_dir, selected, kept, dropped, parts, cfg.max_dropped_fraction),
        audio=audio,
    )


def probed_path(out: Path) -> Path:
    """The folder for measurements of the audio (see measured), beside the output folder."""
    return out.with_name(f"{out.name}.probed")


def _with_code(dropped: Problem) -> Problem:
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


def _item(entry: Entry, part: str | None, group: str | None) -> Item:
    return Item(
        id=entry.id,
        language=entry.language,
        speaker=entry.speaker,
        text=entry.text,
        seconds=entry.duration,
        part=part,
        group=group,
    )


def _refusal(
    corpus: Path,
    selected: list[Row],
    kept: list[Entry],
    dropped: list[Problem],
    parts: Mapping[str, str],
    max_fraction: float,
) -> str | None:
    """The reason to refuse a corpus; None if there is none."""
    usable = Counter(entry.language for entry in kept)
    for language, count in sorted(Counter(row.language for row in selected).items()):
        if not usable[language]:
            problems = [problem for problem in dropped if problem.language == language]
            return f"{corpus}: all {count} utterances of {language!r} are unusable, {_reasons(problems)}"
    if len(dropped) > max_fraction * (len(kept) + len(dropped)):
        return (
            f"{corpus}: {len(dropped)} of {len(kept) + len(dropped)} utterances are unusable, more than "
            f"max_dropped_fraction={max_fraction:g} allows: {_reasons(dropped)}"
        )
    if "train" not in parts.values():
        return f"{corpus}: no utterance is left to train on; all of them are marked dev or test"
    return None


def _reasons(dropped: list[Problem]) -> str:
    counts = Counter(d.reason for d in dropped).most_common()
    first = dropped[0]
    return ", ".join(f"{n} {reason}" for reason, n in counts) + f"; the first is {first.id!r}: {first.detail}"


def _by_reason(flags: Iterable[Problem]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for flag in flags:
        counts[flag.reason][flag.language] += 1
    return {reason: dict(sorted(counts[reason].items())) for reason in sorted(counts)}


def _notes(
    rows: list[Row], others: Counter[str], languages: Sequence[str], splits: dict[str, Any], cfg: SplitConfig
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
    if by_text := [code for code, facts in splits.items() if facts["method"].endswith("text")]:
        codes = ", ".join(by_text)
        notes.append(f"too few speakers to hold any out, so dev and test have known voices: {codes}")
    whole = [code for code, facts in splits.items() if facts["method"] == "train"]
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
    findings: Mapping[str, Sequence[Problem]],
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
            for part, some in entries.items():
                write_table(part_path(partial, part), some)
            for name, problems in findings.items():
                lines = (json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
                (partial / name).write_text("".join(lines), encoding="utf-8")
            write_json(partial / "splits.json", report.splits)
            numbers = {name: getattr(page, name) for name in ("statistics", "findings", "limits")}
            (partial / "report.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
            (partial / "report.html").write_text(draw(page), encoding="utf-8")
            audio.write(partial / audio_files.NAME)
            summary = {name: value for name, value in asdict(report).items() if name != "changes"}
            write_json(partial / "summary.json", summary)
            if not out.exists():
                partial.rename(out)
                return
            for subset in read_json(out / "summary.json").get("subsets", {}):  # of the earlier corpus
                part_path(out, subset).unlink(missing_ok=True)
            (out / "summary.json").unlink(missing_ok=True)
            for part in PARTS:  # what earlier versions wrote, which nothing reads any more
                (out / f"cuts_{part}.jsonl.gz").unlink(missing_ok=True)
            for name in [*(part_path(Path(), subset).name for subset in report.subsets), *_FILES]:
                (partial / name).replace(out / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _room_for(utterances: int, out: Path) -> Iterator[None]:
    """Turn write errors into MayaError; for a full disk it says how much room is needed."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise MayaError(f"cannot write {error.filename or out}: {error.strerror}") from error
        existing = next(path for path in (out, *out.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        raise MayaError(
            f"the disk of {out} is full: about {max(1, utterances * 400 // 1_000_000)} MB are needed, "
            f"{free // 1_000_000} MB are free; make room or choose another folder"
        ) from error
