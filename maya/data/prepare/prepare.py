"""From a corpus folder to validated tables of train, dev and test (maya.data.table.table).

Recordings stay where they are, at the rates they have: a row points at a file, or at a byte range of a tar.
Audio is resampled to the model's rate when it is loaded, so models of several rates share a prepared folder.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maya.data.corpus.manifest import PARTS
from maya.data.measure.workers import cpus
from maya.data.prepare import audio_files
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.earlier import corpus_name, read_earlier, split_options
from maya.data.prepare.examine import Examined, examine, shard_options
from maya.data.prepare.run_shards import Runner, run_here
from maya.data.prepare.shards import forget_rows, forget_shards, shard_jobs
from maya.data.report.page import Page, draw
from maya.data.report.text_table import table
from maya.data.table.table import Table, TableWriter, part_path
from maya.errors import MayaError
from maya.files import is_disk_full, read_json, try_lock, write_json

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


def prepare_corpus(
    corpus_dir: Path,
    out_dir: Path,
    *,
    languages: Sequence[str],
    cfg: PrepareConfig,
    runner: Runner = run_here,
    root: str = "",
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

    languages: those to take; utterances in others are counted and left; all if empty. runner: makes the
    shards (see run_shards); root: where the audio lies, if elsewhere (see ShardOptions). Raises MayaError
    when the corpus cannot be read, when `out_dir` was prepared from another corpus, when all of a language or
    more than cfg.max_dropped_fraction of everything would be dropped, when the disk is full, and while
    another process prepares into `out_dir`.
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
        return _prepare_corpus(corpus_dir, out_dir, languages, cfg, runner, root)
    finally:
        lock.release()


def _prepare_corpus(
    corpus_dir: Path, out_dir: Path, languages: Sequence[str], cfg: PrepareConfig, runner: Runner, root: str
) -> PrepareReport:
    keep, earlier = probed_path(out_dir), read_earlier(out_dir)
    examined = examine(
        corpus_dir, languages=languages, cfg=cfg, keep=keep, made=made_path(out_dir), earlier=earlier,
        runner=runner, root=root,
    )  # fmt: skip
    if examined.refusal is not None:
        shutil.rmtree(examined.work, ignore_errors=True)
        raise MayaError(examined.refusal)
    page = examined.page()
    report = PrepareReport(
        rows=examined.rows,
        not_selected=dict(sorted(examined.others.items())),
        dropped=examined.counts("dropped"),
        flagged=examined.findings.counts("flagged"),
        languages=dict(page.summary["languages"]),
        splits=examined.splits,
        notes=examined.notes,
        corpus=corpus_name(corpus_dir),
        split_options=split_options(cfg.split),
        changes=examined.changes,
    )
    _write(out_dir, examined, report, page)
    shutil.rmtree(examined.work, ignore_errors=True)
    forget_shards(keep / "shards")  # the measurements stay
    return report


def prepare_part(
    corpus_dir: Path,
    out_dir: Path,
    *,
    languages: Sequence[str],
    cfg: PrepareConfig,
    part: int,
    of: int,
    root: str = "",
) -> int:
    """Check the audio of every `of`-th shard of a corpus, beginning with number `part` (from 1); the number
    of these shards. prepare_corpus, called when all parts are done, finds them beside `out_dir`."""
    keep = probed_path(out_dir)
    options = shard_options(corpus_dir, languages, cfg, keep=keep, made=made_path(out_dir), root=root)
    jobs = shard_jobs(options, keep / "shards", part=part, of=of)
    try:
        return len(run_here(jobs, cfg.probe.num_workers or cpus()))
    finally:
        forget_rows(jobs)


def made_path(out: Path) -> Path:
    """The folder for audio from inside tables, beside the output folder."""
    return out.with_name(f"{out.name}.audio")


def probed_path(out: Path) -> Path:
    """The folder for measurements of the audio (see measured), beside the output folder."""
    return out.with_name(f"{out.name}.probed")


def _write(out: Path, examined: Examined, report: PrepareReport, page: Page) -> None:
    """Write all files beside `out`, then move them in; summary.json is the last to appear."""
    partial = out.parent / f".{out.name}.partial"
    with _room_for(len(examined.shards), out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir()
        try:
            report.subsets = _write_tables(partial, examined)
            for name, problems in (("dropped", examined.dropped()), ("flagged", examined.flags())):
                with (partial / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in problems)
            write_json(partial / "splits.json", report.splits)
            numbers = {name: getattr(page, name) for name in ("statistics", "findings", "limits")}
            (partial / "report.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
            (partial / "report.html").write_text(draw(page), encoding="utf-8")
            audio_files.join(
                [folder / audio_files.NAME for folder in examined.shards.folders],
                partial / audio_files.NAME,
                examined.shards.scratch,
            )
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


def _write_tables(folder: Path, examined: Examined) -> dict[str, int]:
    """Write the tables of the parts, and one of each set of dev and test where the corpus has several: the
    number of utterances of each of these."""
    sets: dict[str, list[str | None]] = {part: [] for part in PARTS}
    with ExitStack() as stack:
        writers = {part: stack.enter_context(TableWriter(part_path(folder, part))) for part in PARTS}
        for (entry, part), subset in zip(examined.kept(), examined.subsets(), strict=True):
            writers[part].add(entry)
            if part != "train":
                sets[part].append(subset)
    names = sorted({subset for some in sets.values() for subset in some if subset is not None})
    with ExitStack() as stack:
        writers = {name: stack.enter_context(TableWriter(part_path(folder, name))) for name in names}
        for part in PARTS if names else ():
            entries = Table.open(part_path(folder, part)).entries() if sets[part] else iter(())
            for entry, subset in zip(entries, sets[part], strict=True):
                if subset is not None:
                    writers[subset].add(entry)
    return {name: writer.rows for name, writer in writers.items() if names}


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
