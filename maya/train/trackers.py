"""Experiment trackers beside TensorBoard: Weights & Biases, MLflow, Aim and whatever else accelerate has."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.errors import MayaError

log = logging.getLogger(__name__)


class Trackers:
    """The trackers of a run. One that fails is named in a warning and left out: training continues."""

    def __init__(self, names: Sequence[str], run_dir: Path) -> None:
        self._trackers = [open_tracker(name, run_dir) for name in names]

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin the run at each tracker. settings: names and values of the experiment."""
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        self._each("start")
        self._each("store_init_configuration", plain)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._each("log", dict(values), step=step)

    def finish(self) -> None:
        self._each("finish")

    def _each(self, method: str, *args: Any, **options: Any) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*args, **options)
            except Exception as error:  # noqa: BLE001  a service of others; its errors are of any kind
                self._trackers.remove(tracker)
                log.warning("the tracker %s failed and is left out: %s", tracker.name, error)


def open_tracker(name: str, run_dir: Path) -> Any:
    """The tracker that accelerate has under a name, for a run of the folder's name.

    Raises MayaError for an unknown name, or where the package is missing. A class of your own is registered
    with `accelerate.tracking.register_tracker_class` in the experiment's file.
    """
    from accelerate import tracking  # noqa: PLC0415  not for those who read checkpoints

    kind = tracking.LOGGER_TYPE_TO_CLASS.get(name)
    if kind is None:
        names = ", ".join(sorted(tracking.LOGGER_TYPE_TO_CLASS))
        raise MayaError(f"train.trackers: unknown tracker {name!r}; expected one of {names}")
    builtin = {str(entry.value) for entry in tracking.LoggerType}
    if name in builtin and name not in {str(entry.value) for entry in tracking.get_available_trackers()}:
        raise MayaError(f"train.trackers: the package of {name} is not installed; run pip install {name}")
    folders = [str(run_dir)] if kind.requires_logging_directory else []
    return kind(run_dir.name, *folders)
