"""The recipes reach their error rates. They train for minutes: only `make test-all` runs them."""

import json
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def _run(recipe: str, work: Path, processes: int, *options: str) -> dict:
    """Run the recipe with the command of its RESULTS.md. Returns its result.json."""
    script = REPO / "egs" / recipe / "run.sh"
    command = [script, "--work", work, "--gpus", str(processes), "--cpu", "true", *options]
    subprocess.run(command, check=True, cwd=REPO, timeout=3600)
    (result,) = work.glob("*/decode/test/result.json")
    return json.loads(result.read_text())


@pytest.mark.slow
def test_built_in_corpus_is_learnt(tmp_path: Path) -> None:
    pytest.importorskip(
        "espeakng_loader", reason="the built-in corpus needs espeakng-loader: pip install 'maya-asr[mini]'"
    )
    result = _run("indic12", tmp_path, 0)
    assert len(result["languages"]) == 12
    assert result["macro"]["cer"] <= 0.15


@pytest.mark.slow
def test_digits_are_learnt_from_real_voices(shared: Path, tmp_path: Path) -> None:
    result = _run("digits", tmp_path, 2, "--source", str(shared / "corpora" / "digits"))
    assert result["macro"]["wer"] <= 0.10
