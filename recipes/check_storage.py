"""`maya check-storage`: whether object storage can take a run, operation by operation."""

import argparse

from maya.errors import MayaError
from maya.storage.check import check_storage
from maya.storage.s3 import Place, connect


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("url", metavar="URL", help="s3://bucket/folder; what is written there is deleted again")


def run(args: argparse.Namespace) -> int:
    place, failed = Place.of(args.url), False
    try:
        client = connect(attempts=2, read_seconds=20)
    except MayaError as error:
        print(f"FAILED  credentials  {error}")
        return 1
    for result in check_storage(client, place):
        print(f"{'passed' if result.passed else 'FAILED'}  {result.topic:<11}  {result.text}", flush=True)
        failed = failed or not result.passed
    print(f"check-storage: {place} cannot be used" if failed else f"check-storage: {place} can be used")
    return 1 if failed else 0
