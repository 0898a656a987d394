"""Making the shards of a corpus: in the processes of this machine, on a Ray cluster, or some of them only."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from maya.data.measure.workers import in_processes
from maya.data.prepare.shards import ShardJob, run_shard
from maya.errors import MayaError

Runner = Callable[[Sequence[ShardJob], int], list[Path]]  # jobs, processes -> folders of the shards, in order


def run_here(jobs: Sequence[ShardJob], workers: int) -> list[Path]:
    """Several shards at once where there are enough of them, else one after the other, each in so many
    processes."""
    if len(jobs) < 2 * workers:
        return [run_shard(job) for job in jobs]
    quiet = (_alone(job) for job in jobs)
    with closing(in_processes(run_shard, quiet, workers, "preparing a shard")) as folders:
        return list(_shown(folders, len(jobs)))


def require_all(jobs: Sequence[ShardJob], workers: int) -> list[Path]:
    """Make none: raise MayaError where a shard is missing, or was made from another corpus or options."""
    return run_here([replace(job, check=True) for job in jobs], workers)


def run_on_ray(address: str) -> Runner:
    """Make the shards on a Ray cluster, whose machines see the corpus and the output under the same paths.

    address: of the cluster, such as auto or ray://head:10001; "local" starts one on this machine. Raises
    MayaError where ray is not installed or the cluster is not reached.
    """

    def run(jobs: Sequence[ShardJob], workers: int) -> list[Path]:
        try:
            import ray
        except ImportError:
            raise MayaError("--ray needs the package ray: pip install 'maya-asr[ray]'") from None
        begun = not ray.is_initialized()
        if begun:
            _connect(ray, address, workers)
        try:
            return list(_shown(_results(ray, jobs), len(jobs)))
        finally:
            if begun:
                ray.shutdown()

    return run


def _connect(ray: Any, address: str, workers: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address, runtime_env={"env_vars": {"PYTHONPATH": ":".join(sys.path)}}, **options)
    except Exception as error:  # Ray raises a bare one where its node starts too slowly
        raise MayaError(f"cannot reach the Ray cluster {address}: {str(error).splitlines()[0]}") from None


def _results(ray: Any, jobs: Sequence[ShardJob]) -> Iterable[Path]:
    """The folders in order; a few shards for each CPU of the cluster are given out at a time. Ray gives a
    shard to another machine when one is lost."""
    ahead = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    remote, given = ray.remote(run_shard), list[Any]()
    try:
        for number in range(len(jobs)):
            given += [remote.remote(_alone(job)) for job in jobs[len(given) : number + ahead]]
            yield ray.get(given[number])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MayaError):
            raise error.cause from None
        raise MayaError(f"preparing a shard on the cluster failed: {error}") from None
    except ray.exceptions.RayError as error:
        raise MayaError(f"preparing a shard on the cluster failed: {error}") from None


def _alone(job: ShardJob) -> ShardJob:
    """The job of a process that has others beside it."""
    options, cfg = job.options, job.options.cfg
    cfg = replace(cfg, probe=replace(cfg.probe, num_workers=1))
    return replace(job, options=replace(options, cfg=cfg), quiet=True)


def _shown(folders: Iterable[Path], count: int) -> Iterable[Path]:
    every = 0.5 if sys.stderr.isatty() else 10.0  # seconds between lines in a log
    return tqdm(folders, "preparing", count, unit=" shards", mininterval=every, delay=every)
