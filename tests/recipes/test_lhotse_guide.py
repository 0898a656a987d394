"""The code blocks of docs/guides/lhotse.md run unchanged."""

import re
import shlex
from pathlib import Path

import pytest
from lhotse import CutSet

from maya.recipes.cli import run
from tests.data.making import make_cuts

SMALL = (
    "tokenizer.vocab_size=30", "model.encoder.d_model=32", "model.encoder.n_layers=2", "train.steps=3",
    "model.heads.transducer.predictor.hidden=32", "train.precision=fp32",
)  # fmt: skip


def blocks(repo: Path, language: str) -> list[str]:
    text = (repo / "docs" / "guides" / "lhotse.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the manifests that the guide names."""
    (tmp_path / "test").mkdir()
    for number, name in enumerate(("read", "meetings", "dev", "noise", "test/cuts")):
        cuts = make_cuts(tmp_path / name, [1.2 + 0.2 * (i % 5) for i in range(8)])
        cuts = cuts.drop_supervisions() if name == "noise" else cuts
        cuts.modify_ids(lambda cut, n=number: f"{n}-{cut}").to_file(tmp_path / f"{name}.jsonl.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_experiment_trains(repo: Path, folder: Path) -> None:
    (folder / "mine.py").write_text(blocks(repo, "python")[0])
    for line in blocks(repo, "bash")[0].splitlines():
        program, *words = shlex.split(line)
        options = [word for value in SMALL for word in ("--set", value) if words[0] != "evaluate"]
        assert program == "maya" and run([*words, *options]) == (0, "")
    assert (folder / "exp" / "mine" / "best.pt").is_file()


def test_sampler_in_a_user_loop(repo: Path, folder: Path) -> None:
    names: dict[str, object] = {}
    exec(blocks(repo, "python")[1], names)
    assert names["state"] == {"position": [2, 0, 1, [], ""]}
    assert len(list(CutSet.from_jsonl_lazy("read.jsonl.gz"))) == 8
