"""Corpora with a recipe in lhotse: `--corpus lhotse:NAME:DIR`, where DIR is the downloaded corpus."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from maya.data.corpus.common import merged, part_in_name
from maya.data.corpus.lhotse_manifests import rows_of_supervisions, subset_in_name
from maya.data.corpus.manifest import ReadOptions, Result
from maya.errors import MayaError


def read_recipe(name: str, folder: Path, options: ReadOptions) -> Result:
    """The rows of a corpus that `lhotse.recipes.prepare_NAME(folder)` reads, and the supervisions that lie
    outside of their recordings; nothing is written.

    Parts that it names train, dev or test, or alike, become the splits, and their names (dev-clean) subsets.
    Raises MayaError for a name that lhotse does not know, listing those it does, and when it cannot read the
    folder.
    """
    recipe = _recipe(name)
    if not folder.is_dir():
        raise MayaError(f"there is no corpus folder {folder}")
    try:
        manifests_by_part = recipe(folder)
    except Exception as error:  # whatever a recipe lets through for a folder that is not as it expects
        failed = traceback.extract_tb(error.__traceback__)[-1].line or ""  # many assert without a message
        reason = (str(error).strip().splitlines() or [failed])[0][:200]
        raise MayaError(
            f"lhotse's recipe {name} cannot read {folder} ({type(error).__name__}: {reason}); is the corpus "
            "there as its download left it?"
        ) from error
    parts = list(_parts(manifests_by_part, ()))
    if not parts:
        raise MayaError(f"lhotse's recipe {name} found no recordings with supervisions in {folder}")
    results = [
        rows_of_supervisions(
            (supervision.to_dict() for supervision in manifests["supervisions"]),
            {recording.id: recording.to_dict() for recording in manifests["recordings"]},
            Path(f"lhotse:{name}", *names),
            options,
            part_in_name(" ".join(names)),
            names[-1] if names and subset_in_name(f"cuts_{names[-1]}") else None,
        )
        for names, manifests in parts
    ]
    return merged(results)


def recipe_names() -> list[str]:
    """The names of lhotse's recipes."""
    import lhotse.recipes

    return sorted(n.removeprefix("prepare_") for n in dir(lhotse.recipes) if n.startswith("prepare_"))


def _recipe(name: str) -> Callable[[Path], Any]:
    import lhotse.recipes

    import maya.audio.lhotse_audio  # noqa: F401

    recipe = getattr(lhotse.recipes, f"prepare_{name.replace('-', '_')}", None)
    if recipe is None:
        raise MayaError(f"lhotse has no recipe {name!r}; it has {', '.join(recipe_names())}")
    first, *others = inspect.signature(recipe).parameters.values()
    if required := [p.name for p in others if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]:
        raise MayaError(
            f"lhotse's recipe {name} needs more than a folder ({', '.join(required)}): run `lhotse prepare "
            f"{name.replace('_', '-')}` and give the folder of its manifests as --corpus"
        )
    return recipe


def _parts(manifests: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """(names on the way, recordings and supervisions) of the nested dictionaries that recipes return."""
    if not isinstance(manifests, Mapping):
        return
    if manifests.get("recordings") is not None and manifests.get("supervisions") is not None:
        yield names, manifests
        return
    for name, inner in manifests.items():
        yield from _parts(inner, (*names, str(name)))
