"""`maya restore`: bring a run from object storage into a folder, to train on, average or decode there."""

import argparse

from maya.recipes.arguments import add_run
from maya.storage.download import restore
from maya.storage.s3 import Place, connect


def arguments(p: argparse.ArgumentParser) -> None:
    add_run(p)
    p.add_argument("--from-storage", required=True, metavar="URL", help="where `maya watch` brought the run")
    text = "a training checkpoint, such as step-0005000; default: the newest that is whole"
    p.add_argument("--checkpoint", default="", metavar="NAME", help=text)


def run(args: argparse.Namespace) -> None:
    place = Place.of(args.from_storage)
    path = restore(connect(), place, args.run_dir, name=args.checkpoint)
    if path is None:
        print(f"restore: {args.run_dir}: no training checkpoint was brought")
    else:
        print(f"restore: {path}: verified; `maya train` with this run folder continues from it")
