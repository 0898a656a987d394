"""What training recorded in a run folder: its experiment and the folder of its data."""

import argparse
from pathlib import Path

from maya.config import from_dict
from maya.errors import MayaError
from maya.files import read_json
from maya.recipes.experiment import Experiment, apply_overrides, load_experiment
from maya.recipes.experiment_file import import_recorded


def experiment_of(run: Path, name: str | None, overrides: list[str]) -> Experiment:
    """The experiment `name`, or without one that of the run's config.json, with overrides applied.

    Raises MayaError for a folder without config.json, or with one of another version.
    """
    if name is not None:
        return load_experiment(name, overrides)
    import_recorded(run)
    saved = read_json(run / "config.json")
    if not saved:
        raise MayaError(
            f"{run} is not the folder of a training: {run / 'config.json'} is missing or damaged; name the "
            "experiment with --experiment"
        )
    try:
        experiment = from_dict(Experiment, saved)
    except MayaError as error:
        raise MayaError(
            f"{run / 'config.json'} cannot be read: {error}; name the experiment with --experiment"
        ) from None
    return apply_overrides(experiment, overrides)


def data_of(run: Path, data: Path | None) -> Path:
    """`data`, or without it the prepared data that `run` was trained on. Raises MayaError where they are not
    recorded, or are not there any more."""
    if data is not None:
        return data
    recorded = read_json(run / "environment.json").get("data")
    if recorded is None:
        raise MayaError(f"{run} does not record its data; name the folder with --data")
    if not Path(recorded).is_dir():
        raise MayaError(f"{recorded}, the data of this run, is missing; name the folder with --data")
    return Path(recorded)


def finished_run(args: argparse.Namespace) -> tuple[Experiment, Path | None, Path]:
    """(experiment, data, run) for the options of `maya.recipes.arguments.add_finished_run`. data: None for a
    run from lhotse cuts."""
    run: Path = args.run_dir
    experiment = experiment_of(run, args.experiment, args.overrides)
    from_cuts = args.data is None and experiment.data.source == "lhotse"
    return experiment, None if from_cuts else data_of(run, args.data), run
