"""Stage 1: a corpus folder → validated, split tables."""

import argparse
from pathlib import Path

from maya.config import to_dict
from maya.data.corpus.folder import corpus_files, describing_files, form_of, is_named
from maya.data.corpus.manifest import PARTS
from maya.data.prepare import audio_files
from maya.data.prepare.earlier import corpus_name, split_options
from maya.data.prepare.prepare import prepare_corpus, prepare_part
from maya.data.prepare.remote import copy_descriptions, s3_name, send_tables
from maya.data.prepare.run_shards import Runner, require_all, run_here, run_on_ray
from maya.errors import MayaError
from maya.recipes.arguments import CORPUS, add_experiment, add_force
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.markers import content, digest, is_done, mark_done, stamp, table_identity

_BULKY = (".tar", ".arrow", ".parquet")  # known by size and time
_OUTPUTS = ("dropped.jsonl", "flagged.jsonl", "splits.json", "report.json", "report.html", "summary.json")


def arguments(p: argparse.ArgumentParser) -> None:
    add_experiment(p)
    p.add_argument("--corpus", type=Path, required=True, help=CORPUS)
    p.add_argument("--out", type=Path, required=True, help="folder to write train, dev and test.parquet to")
    add_force(p)
    several = p.add_mutually_exclusive_group()
    text = "check the audio of part K of N only, as one of N jobs of any scheduler; then run --merge"
    several.add_argument("--part", type=_part, metavar="K/N", help=text)
    several.add_argument("--merge", action="store_true", help="write the tables from all parts")
    text = "a folder of object storage, s3://bucket/folder, to send the tables to as well"
    p.add_argument("--upload", metavar="S3", help=text)
    text = "check the audio on the Ray cluster at ADDRESS (auto, ray://head:10001; local starts one here)"
    several.add_argument("--ray", metavar="ADDRESS", help=text)


def _part(text: str) -> tuple[int, int]:
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 1/4 or 4/4")
    return int(part), int(of)


def run(args: argparse.Namespace) -> None:
    experiment = load_experiment(args.experiment, args.overrides)
    corpus, root = args.corpus, s3_name(args.corpus) or ""
    if root:
        corpus = copy_descriptions(root, args.out.with_name(f"{args.out.name}.source"))
    if args.part:
        cfg, (part, of) = experiment.prepare, args.part
        require_corpus(corpus)
        count = prepare_part(
            corpus, args.out, languages=experiment.languages, cfg=cfg, part=part, of=of, root=root
        )
        print(f"prepare: {count} shards are ready, part {part} of {of}")
        return
    runner = run_on_ray(args.ray) if args.ray else require_all if args.merge else run_here
    prepare(experiment, corpus, args.out, force=args.force, runner=runner, root=root)
    if args.upload:
        print(f"prepare: sent {len(send_tables(args.out, args.upload))} files to {args.upload}")


def prepare(
    experiment: Experiment,
    corpus: Path,
    out: Path,
    *,
    force: bool = False,
    runner: Runner = run_here,
    root: str = "",
) -> None:
    """Validate the corpus in `corpus`, split it and write {train,dev,test}.parquet into `out`.

    Nothing is done where the corpus, its audio, the options and the tables are those of the last time.
    `force` prepares again, and keeps the split as a corpus that grew does. runner: makes the shards of the
    corpus (see maya.data.prepare.run_shards); root: where its audio lies, if elsewhere. Raises MayaError as
    `prepare_corpus` does.
    """
    require_corpus(corpus)
    options = to_dict(experiment.prepare) | {"split": split_options(experiment.prepare.split)}
    del options["shard_rows"]  # the tables do not depend on it
    inputs = {
        "corpus": corpus_name(corpus),
        "contents": corpus_identity(corpus),
        "languages": list(experiment.languages),
        "options": options,
        **({"root": root} if root else {}),
    }
    prepared = audio_files.read(out / audio_files.NAME)
    now = prepared and prepared.now()
    complete = all((out / name).is_file() for name in _OUTPUTS)
    current = inputs | {"audio": now.digest() if now else "", "tables": _tables(out)}
    marker = out / "stage.json"
    if complete and is_done(marker, current) and not force and not experiment.prepare.split.fresh:
        print(f"prepare: {out} is up to date")
        return
    if prepared and now and (changed := prepared.changed(now)):
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        print(f"prepare: audio changed since {out} was prepared: {changed[0]}{others}")
    report = prepare_corpus(
        corpus, out, languages=experiment.languages, cfg=experiment.prepare, runner=runner, root=root
    )
    print(report.table())
    audio = audio_files.digest_of(out / audio_files.NAME)
    mark_done(marker, inputs | {"audio": audio, "tables": _tables(out)})


def _tables(out: Path) -> dict[str, str]:
    """Identities of the tables: a marker belongs to these very tables, even if a run ended between two."""
    return {part: table_identity(out, part) for part in PARTS}


def require_corpus(corpus: Path) -> None:
    """MayaError unless `corpus` is a folder, lhotse:NAME:DIR, nemo:MANIFESTS:TARS or of a registered form."""
    if not is_named(corpus) and not corpus.is_dir() and form_of(corpus) is None:
        raise MayaError(
            f"{corpus} is not a folder; give --corpus a folder with manifest.jsonl, metadata.csv, wav + txt "
            "or another form that docs/data.md lists, lhotse:NAME:DIR or nemo:MANIFESTS:TARS"
        )


def corpus_identity(corpus: Path) -> str:
    """The identity of a corpus: the bytes of its manifests, and sizes and times of tars and tables, since
    rows name places in them; without any of these the names, sizes and times of its files."""
    described = describing_files(corpus)
    bulky = {path for path in described if is_named(corpus) or path.suffix in _BULKY}
    manifests = [path for path in described if path not in bulky]
    if not described:
        files = corpus_files(corpus) if corpus.is_dir() else [corpus]
        return digest({_name(path, corpus): stamp(path) for path in files})
    if len(manifests) == 1:  # as in earlier versions, so that no corpus is prepared again
        contents = content(manifests[0])
    else:
        contents = digest({_name(path, corpus): content(path) for path in manifests})
    tars = sorted({*bulky, *corpus.glob("*.tar"), *corpus.glob("*/*.tar")})
    return digest({"manifest": contents, "tars": [stamp(tar) for tar in tars]}) if tars else contents


def _name(path: Path, corpus: Path) -> str:
    return str(path.relative_to(corpus)) if path.is_relative_to(corpus) else str(path)
