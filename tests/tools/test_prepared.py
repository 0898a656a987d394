"""has_set of tools/prepared.sh, which lets run.sh leave out what cannot be done."""

import json
import subprocess
from pathlib import Path

import pytest


def has_set(repo: Path, data: Path, name: str) -> tuple[bool, str]:
    script = f'. "{repo}/tools/prepared.sh"; set -euo pipefail; if has_set "$1" "$2" 5; then echo yes; fi'
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(data), name], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.endswith("yes\n"), done.stdout.removesuffix("yes\n")


@pytest.mark.parametrize("counts", [{"hi": 0, "en": 0}, {"hi": 0, "en": 2}])
def test_a_set_of_no_utterances_is_said(repo: Path, tmp_path: Path, counts: dict[str, int]) -> None:
    splits = {code: {"parts": {"test": {"utterances": n}}} for code, n in counts.items()}
    (tmp_path / "summary.json").write_text(json.dumps({"splits": splits}))
    there, said = has_set(repo, tmp_path, "test")
    assert there == any(counts.values())
    assert said == ("" if there else f"{tmp_path} has no test set: stage 5 is left out\n")


@pytest.mark.parametrize("text", [None, "", "[]", '{"splits": {"hi": 1}}', "{"])
def test_data_that_say_nothing_are_left_to_the_stage(repo: Path, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    assert has_set(repo, tmp_path, "test") == (True, "")
