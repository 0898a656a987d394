"""All checks of a corpus: of each utterance, shard by shard, and then of all of them together.

What is needed of every utterance for the latter is a few columns of numbers; everything else stays in the
shards (see maya.data.prepare.shards).
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maya.data.corpus.manifest import PARTS, Problem
from maya.data.measure.entry import Entry
from maya.data.measure.flags import check_drop, sort_out
from maya.data.measure.measured import forget_others
from maya.data.measure.reasons import TEXT
from maya.data.measure.workers import cpus, in_processes
from maya.data.prepare.audio_checks import audio_limits
from maya.data.prepare.columns import (
    Scratch,
    first_rows,
    is_first,
)
from maya.data.prepare.compare import SharedAudio, Suspicions, compare_texts, suspicions
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.earlier import Earlier, corpus_name
from maya.data.prepare.parts import NO_PART, Leaks, find_leaks, split_shards
from maya.data.prepare.run_shards import Runner, run_here
from maya.data.prepare.shards import (
    DROPPED,
    PROBED,
    READ,
    SUSPECT,
    Noted,
    ShardJob,
    ShardOptions,
    Shards,
    forget_rows,
    id_occurs_twice,
    read_problems,
    row_keys,
    shard_jobs,
    write_problems,
)
from maya.data.prepare.split import SplitConfig
from maya.data.prepare.text_checks import text_findings
from maya.data.report.findings import Findings, Kind
from maya.data.report.page import Page
from maya.data.report.statistics import Statistics
from maya.data.table.labels import NO_TRUTH
from maya.data.table.table import Table
from maya.errors import MayaError
from maya.text.languages import Language, get_language, language_code, language_of_texts


@dataclass(kw_only=True)
class Examined:
    """A corpus after all checks, before anything is written.

    shards: with all usable utterances; parts: (n,) of each, as a number of PARTS, -1 where a check of texts
    dropped it. others: the number of rows in languages that are not selected; selected: in those that are,
    by language. splits: see split; refusal: the reason why the corpus cannot be used, None if it can.
    work: files of this examination, gone when it is closed.
    """

    corpus: Path
    cfg: PrepareConfig
    shards: Shards
    parts: NDArray[np.int8]
    others: Counter[str]
    selected: Counter[str]
    splits: dict[str, Any]
    notes: list[str]
    work: Path
    leaks: Leaks
    changes: list[str] = field(default_factory=list)
    temporary: TemporaryDirectory[str] | None = None

    @property
    def rows(self) -> int:
        """Number of utterances read: kept or dropped."""
        return int((self.parts != NO_PART).sum()) + sum(self.counts("dropped").values())

    def kept(self) -> Iterator[tuple[Entry, str]]:
        """(utterance, its part) of all that are kept, in the order of the corpus."""
        for begin, table in self.shards.tables():
            numbers = self.parts[begin : begin + len(table)].tolist()
            for entry, number in zip(table.entries(), numbers, strict=True):
                if number != NO_PART:
                    yield entry, PARTS[number]

    def subsets(self) -> Iterator[str | None]:
        """Of each utterance of `kept`, the evaluation set of the corpus that it belongs to."""
        for (begin, table), folder in zip(self.shards.tables(), self.shards.folders, strict=True):
            numbers = self.parts[begin : begin + len(table)].tolist()
            extra = pq.read_table(folder / "extra.parquet", columns=["named", "subset"])
            for number, named, subset in zip(numbers, *(c.to_pylist() for c in extra.columns), strict=True):
                if number != NO_PART:
                    yield subset if number == named != PARTS.index("train") else None

    def dropped(self) -> Iterator[Problem]:
        """Utterances that cannot be used, and why."""
        yield from (noted.problem for _, noted in self.shards.problems(READ, PROBED, DROPPED))
        yield from (noted.problem for _, noted in self._of_texts(DROPPED))

    def flags(self) -> Iterator[Problem]:
        """What is suspect about those that are kept."""
        for number, noted in self.shards.problems(SUSPECT):
            if self.parts[int(self.shards.ends[number]) + noted.row] != NO_PART:
                yield noted.problem
        yield from (noted.problem for _, noted in self._of_texts(SUSPECT))
        yield from self.leaks.problems(self.shards, self.parts)

    def _of_texts(self, stage: int) -> Iterator[tuple[int, Noted]]:
        for number in range(len(self.shards.folders)):
            for noted in read_problems(self.work / f"texts-{number:06d}.parquet"):
                if noted.stage == stage:
                    yield number, noted

    @cached_property
    def findings(self) -> Findings:
        findings = Findings()
        findings.add("dropped", self.dropped())
        findings.add("flagged", self.flags())
        return findings

    def counts(self, kind: Kind) -> dict[str, int]:
        """Number of utterances, or flags, of each reason."""
        return {reason: sum(some.values()) for reason, some in self.findings.counts(kind).items()}

    @cached_property
    def statistics(self) -> Statistics:
        """Numbers of all utterances that are kept; of train first, then of dev and test."""
        by_part = [Statistics() for _ in PARTS]
        tasks = (
            (str(table.path), self.parts[begin : begin + len(table)]) for begin, table in self.shards.tables()
        )
        for numbers in in_processes(_count, tasks, _workers(self.cfg, self.shards), "counting"):
            for total, some in zip(by_part, numbers, strict=True):
                total.merge(some)
        for other in by_part[1:]:
            by_part[0].merge(other)
        return by_part[0]

    @cached_property
    def refusal(self) -> str | None:
        """The reason to refuse the corpus; None if it can be used."""
        numbers, codes = self.shards.languages
        usable = np.bincount(numbers[self.parts != NO_PART], minlength=len(codes))
        count_of = dict(zip(codes, usable.tolist(), strict=True))
        for language, count in sorted(self.selected.items()):
            if not count_of.get(language):
                reasons = _reasons(p for p in self.dropped() if p.language == language)
                return f"{self.corpus}: all {count} utterances of {language!r} are unusable, {reasons}"
        dropped, kept = sum(self.counts("dropped").values()), int(usable.sum())
        if dropped > self.cfg.max_dropped_fraction * (kept + dropped):
            return (
                f"{self.corpus}: {dropped} of {kept + dropped} utterances are unusable, more than "
                f"max_dropped_fraction={self.cfg.max_dropped_fraction:g} allows: {_reasons(self.dropped())}; "
                "mend them, or do without them: --set prepare.max_dropped_fraction=0.9"
            )
        pseudo = self.shards.extra("pseudo") & (self.parts > PARTS.index("train"))
        if pseudo.any():
            return f"{self.corpus}: {pseudo.sum()} utterances of dev or test {NO_TRUTH}; move them to train"
        if not (self.parts == PARTS.index("train")).any():
            return f"{self.corpus}: no utterance is left to train on; all of them are marked dev or test"
        return None

    def page(self) -> Page:
        """The numbers of the report page (maya.data.report.page)."""
        return Page(
            title=f"Corpus {self.corpus.resolve().name}",
            summary={
                "rows": self.rows,
                "languages": self.statistics.summary(),
                "splits": self.splits,
                "notes": self.notes,
            },
            statistics=self.statistics.spreads(),
            findings=self.findings.as_json(self._texts(self.findings.ids())),
            limits=audio_limits(self.cfg.audio_checks),
        )

    def _texts(self, ids: set[str]) -> dict[str, str]:
        """The published texts of these utterances."""
        wanted, texts = pa.array(sorted(ids), pa.string()), dict[str, str]()
        for folder in self.shards.folders:
            files = ("problems.parquet", "text"), ("entries.parquet", "raw_text")
            for name, column in files if ids else ():
                table = pq.read_table(folder / name, columns=["id", column])
                some = table.filter(pc.is_in(table["id"], wanted))
                texts |= dict(zip(*(c.to_pylist() for c in some.columns), strict=True))
        return texts


def examine(
    corpus: Path,
    *,
    languages: Sequence[str],
    cfg: PrepareConfig,
    keep: Path | None = None,
    made: Path | None = None,
    earlier: Earlier | None = None,
    runner: Runner = run_here,
    root: str = "",
) -> Examined:
    """Check every utterance of a corpus and all of them together, as preparing does.

    Nothing is written but, with `keep`, shards and the measurements of the audio (see probe) and, with
    `made`, audio that lies inside tables (see maya.data.corpus.hugging_face). languages: as for
    prepare_corpus. earlier: the preparation that the corpus is to replace; its split is kept. runner: makes
    the shards. root: see ShardOptions. Raises MayaError when the corpus cannot be read, is another than the
    earlier, or has nothing in these languages. Every other reason to refuse it is in the result.
    """
    check_drop(cfg.text_checks.drop, TEXT, "text_checks.drop")
    temporary = None if keep else TemporaryDirectory(prefix="maya-examine-")
    top = keep or Path(temporary.name if temporary else "")
    options = shard_options(corpus, languages, cfg, keep=keep, made=made, root=root)
    jobs = shard_jobs(options, top / "shards")
    workers = cfg.probe.num_workers or cpus()
    try:
        if earlier is not None:  # before hours of measuring
            read = in_processes(row_keys, jobs, min(workers, len(jobs)), "reading the corpus")
            earlier.check_ids(corpus_name(corpus), *map(np.concatenate, zip(*read, strict=True)))
        shards = Shards(runner(jobs, workers), Scratch(top / "merging"))
        _check_ids(shards, jobs)
    finally:
        forget_rows(jobs)
    if earlier is not None:
        earlier.check_audio(corpus_name(corpus), shards)
    if keep is not None:
        forget_others(keep, [name for facts in shards.facts for name in facts["measured"]])
    return _compared(corpus, cfg, options, shards, earlier, temporary)


def _compared(
    corpus: Path,
    cfg: PrepareConfig,
    options: ShardOptions,
    shards: Shards,
    earlier: Earlier | None,
    temporary: TemporaryDirectory[str] | None,
) -> Examined:
    """The checks of all utterances together, and the split."""
    others, selected = _selected(shards, corpus, options.languages)
    work = shards.folders[0].parent.with_name("merging")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    noticed, audio = compare_texts(shards, cfg.text_checks, work)
    kept = check_texts(shards, cfg, noticed, work)
    shared = SharedAudio(shards, kept, work)
    parts, splits = split_shards(shards, kept, shared.groups, cfg.split, earlier)
    examined = Examined(
        corpus=corpus,
        cfg=cfg,
        shards=shards,
        parts=parts,
        others=others,
        selected=selected,
        splits=splits,
        notes=shards.notes(cfg.labels)
        + _notes(shards, others, options.languages, splits, cfg.split)
        + shared.notes(),
        work=work,
        leaks=find_leaks(shards, parts, audio, shared.in_other_parts(parts)),
        changes=earlier.changes(corpus_name(corpus), shards, parts, cfg.split) if earlier else [],
        temporary=temporary,
    )
    if examined.rows - sum(1 for _ in shards.problems(READ)) != selected.total():
        raise MayaError(
            f"{corpus}: {selected.total()} utterances were read, and {examined.rows} are kept or dropped; "
            "this is a fault of `maya prepare`"
        )
    return examined


def shard_options(
    corpus: Path,
    languages: Sequence[str],
    cfg: PrepareConfig,
    *,
    keep: Path | None,
    made: Path | None,
    root: str = "",
) -> ShardOptions:
    """The options of the shards of a corpus; languages: to take, all if empty."""
    codes = tuple(language_code(language) for language in languages)
    only = codes[0] if len(codes) == 1 else None
    default = language_code(cfg.language) if cfg.language else only
    return ShardOptions(
        corpus=corpus, cfg=cfg, languages=codes, language=default, keep=keep, made=made, root=root
    )


def _workers(cfg: PrepareConfig, shards: Shards) -> int:
    return min(cfg.probe.num_workers or cpus(), len(shards.folders))


def _selected(shards: Shards, corpus: Path, languages: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """(rows in other languages, rows in those that are selected), by language."""
    read: Counter[str] = Counter()
    for facts in shards.facts:
        read.update(facts["languages"])
    if not read:
        raise MayaError(f"{corpus} describes no utterance that can be used")
    selected = Counter({code: n for code, n in read.items() if not languages or code in languages})
    others = Counter({code: n for code, n in read.items() if code not in selected})
    if not selected:
        raise MayaError(
            f"{corpus} has no utterance in {', '.join(languages)}, only in {', '.join(sorted(others))}; "
            f"set languages={','.join(sorted(others))} to take these"
        )
    return others, selected


def _check_ids(shards: Shards, jobs: Sequence[ShardJob]) -> None:
    """MayaError for an id that two shards have; within a shard, and in a corpus that is not divided, the
    reader says so."""
    column, ends = shards.row_ids()
    first = first_rows(column, shards.scratch)
    for row in np.flatnonzero(~is_first(first)).tolist():
        pair = []
        for place in (int(first[row]), row):
            number = int(np.searchsorted(ends, place, side="right"))
            rows = jobs[number].read().rows
            pair.append(rows[place - (int(ends[number - 1]) if number else 0)])
        if pair[0].id == pair[1].id:
            raise MayaError(id_occurs_twice(pair[1], pair[0]))


def check_texts(shards: Shards, cfg: PrepareConfig, noticed: Suspicions, work: Path) -> NDArray[np.bool_]:
    """(n,) whether an utterance is kept. What is suspect, and what is dropped, goes into `work`."""
    languages = {code: _language(shards, code) for code in shards.languages[1]}
    check = partial(_texts_of_shard, languages=languages, drop=tuple(cfg.text_checks.drop))
    tasks = [
        (table.path, noticed.path(number), work / f"texts-{number:06d}.parquet")
        for number, (_, table) in enumerate(shards.tables())
    ]
    some = in_processes(check, tasks, _workers(cfg, shards), "checking texts")
    return np.concatenate([np.zeros(0, np.bool_), *some])


def _language(shards: Shards, code: str) -> Language:
    """A language with its script, which the corpus tells where the language does not."""
    if (language := get_language(code)).script:
        return language
    rows = (row for _, table in shards.tables() for row in table.read("language", "text"))
    return language_of_texts(code, (text for own, text in rows if own == code))


def _texts_of_shard(
    paths: tuple[Path, Path, Path], languages: dict[str, Language], drop: Sequence[str]
) -> NDArray[np.bool_]:
    """(n,) whether the utterances of a shard are kept. paths: of the table, of what comparing found, and of
    what is to be written."""
    entries = list(Table.open(paths[0]).entries())
    findings = {
        entry.id: list(text_findings(entry.raw_text, entry.text, languages[entry.language]))
        for entry in entries
    }
    for row, finding in suspicions(paths[1]):
        findings[entries[row].id].append(finding)
    _, flags, dropped = sort_out(entries, findings, drop)
    rows = {entry.id: row for row, entry in enumerate(entries)}
    stages = (DROPPED, dropped), (SUSPECT, flags)
    write_problems(
        paths[2], [Noted(s, rows[p.id], p, entries[rows[p.id]].raw_text) for s, some in stages for p in some]
    )
    kept = np.ones(len(entries), np.bool_)
    kept[[rows[p.id] for p in dropped]] = False
    return kept


def _count(task: tuple[str, NDArray[np.int8]]) -> list[Statistics]:
    """The numbers of a shard, for each part. task: its table, and the part of each utterance."""
    path, parts = task
    result = [Statistics() for _ in PARTS]
    for entry, part in zip(Table.open(path).entries(), parts.tolist(), strict=True):
        if part != NO_PART:
            result[part].add(entry, PARTS[part])
    return result


def _reasons(dropped: Iterable[Problem]) -> str:
    first, counts = None, Counter[str]()
    for item in dropped:
        first = first or item
        counts[item.reason] += 1
    named = ", ".join(f"{n} {reason}" for reason, n in counts.most_common())
    return f"{named}; the first is {first.id!r}: {first.detail}" if first else named


def _notes(
    shards: Shards, others: Counter[str], languages: Sequence[str], splits: dict[str, Any], cfg: SplitConfig
) -> list[str]:
    notes = []
    if unnamed := sum(facts["unnamed"] for facts in shards.facts):
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
