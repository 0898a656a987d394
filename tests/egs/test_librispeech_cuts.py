"""egs/librispeech/cuts.py: lhotse's own dataset with our sampler, and the functions that data.cuts names."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lhotse.dataset.sampling.base import CutSampler
from lhotse.dataset.sampling.round_robin import RoundRobinSampler

from egs.librispeech import cuts as recipe
from maya.recipes.experiment_file import load_function
from tests.data.making import make_cuts


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifests")
    for number, part in enumerate((*recipe.TRAIN, "dev-clean", "dev-other")):
        cuts = make_cuts(folder / part, [0.8 + 0.1 * (i % 5) for i in range(6)])
        cuts.modify_ids(lambda name, n=number: f"{n}-{name}").to_file(
            folder / f"librispeech_cuts_{part}.jsonl.gz"
        )
    make_cuts(folder / "noise", [1.0, 2.0]).to_file(folder / "musan_cuts.jsonl.gz")
    return folder


def names(batch: dict[str, Any]) -> list[str]:
    return [cut.id.partition("_sp")[0] for cut in batch["supervisions"]["cut"]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_in_the_style_of_icefall(manifests: Path, num_workers: int) -> None:
    sampler, loader = recipe.train_dataloader(
        recipe.train_cuts(folder=manifests), max_duration=6.0, num_workers=num_workers
    )
    assert isinstance(sampler, CutSampler)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append([names(batch) for batch in sampler.follow(loader)])
        assert Counter(name for batch in epochs[-1] for name in batch).most_common(1)[0][1] == 1
        assert sum(map(len, epochs[-1])) == 18
    assert epochs[0] != epochs[1] and "36/36" in sampler.get_report()
    sampler.set_epoch(0)
    for number, batch in enumerate(sampler.follow(loader)):
        assert batch["inputs"].shape[2] == 80 and torch.isfinite(batch["inputs"]).all()
        if number == 1:
            break
    resumed, again = recipe.train_dataloader(
        recipe.train_cuts(folder=manifests), max_duration=6.0, num_workers=num_workers
    )
    resumed.load_state_dict(sampler.state_dict())
    assert [names(batch) for batch in resumed.follow(again)] == epochs[0][2:]


def test_sampler_works_in_lhotse_round_robin(manifests: Path) -> None:
    ours, other = (
        recipe.train_dataloader(recipe.read(part, manifests), max_duration=6.0, speeds=(1.0,))[0]
        for part in ("train-clean-100", "dev-clean")
    )
    batches = list(RoundRobinSampler(ours, other))
    assert [batch[0].id[0] for batch in batches] == ["0", "3"] * (len(batches) // 2)
    assert sum(map(len, batches)) == 12


def test_functions_named_by_data_cuts(manifests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (manifests / "data").mkdir()
    (manifests / "data" / "manifests").symlink_to(manifests)
    monkeypatch.chdir(manifests)
    cuts = load_function("egs.librispeech.cuts:train_cuts")(epoch=1)
    assert len(list(cuts)) == 18
    assert len(list(load_function("egs.librispeech.cuts:dev_cuts")())) == 12
