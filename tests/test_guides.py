"""All Python files and commands of the guides in docs/guides run."""

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from maya.recipes.cli import main
from tests import tones

GUIDES = ("encoder", "head", "corpus", "method", "finetune", "use-the-losses")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EMOTIONS = {"happy": 1.3, "sad": 0.8}  # pitch
LONGEST = {"gru.py": 60, "emotion.py": 60, "turns.py": 40, "confident.py": 40}


def blocks(repo: Path, guide: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each fenced block of a guide."""
    page = (repo / "docs" / "guides" / f"{guide}.md").read_text()
    yield from ((m[1], m[2]) for m in BLOCK.finditer(page))


def make_corpus(folder: Path) -> None:
    """48 utterances of tones. The pitch depends on the emotion."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    rows = []
    for i in range(48):
        name, emotion = f"en-{i:03d}", list(EMOTIONS)[int(rng.integers(2))]
        text = " ".join("".join(rng.choice(list(tones.LETTERS), 2)) for _ in range(int(rng.integers(1, 4))))
        soundfile.write(folder / f"{name}.wav", tones.speak(text, pitch=EMOTIONS[emotion]), tones.RATE)
        split = ("train", "train", "train", "train", "dev", "test")[i % 6]
        rows.append(
            {"id": name, "language": "en", "text": text, "audio": f"{name}.wav", "split": split}
            | {"speaker": f"{split}-{i % 4}", "labels": {"emotion": emotion}}
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_turns(folder: Path) -> None:
    """Recordings with several utterances each, in the format of the guide about corpora."""
    rng = np.random.default_rng(2)
    folder.mkdir()
    for i in range(12):
        lines, pieces, seconds = [], [], 0.0
        for turn in range(3):
            text = "".join(rng.choice(list(tones.LETTERS), 3))
            pieces.append(tones.speak(text))
            end = seconds + len(pieces[-1]) / tones.RATE
            lines.append(f"s{i}-{turn % 2}\t{seconds:.3f}\t{end:.3f}\t{text}\n")
            seconds = end
        soundfile.write(folder / f"r{i:02d}.wav", np.concatenate(pieces), tones.RATE)
        (folder / f"r{i:02d}.turns").write_text("".join(lines))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory outside the checkout with the folders `corpus` and `turns`."""
    make_corpus(tmp_path / "corpus")
    make_turns(tmp_path / "turns")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run_python(text: str, folder: Path, names: dict[str, object]) -> None:
    """Write a block to the file that it names, or execute it with the names of the blocks before it."""
    match = re.match(r"# (\w+\.py)\n", text)
    if match:
        (folder / match[1]).write_text(text[match.end() :])
        return
    exec(compile(text, "guide", "exec"), names)


@pytest.mark.parametrize("guide", GUIDES)
def test_guide(guide: str, repo: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, names = set(sys.modules), {"__name__": "guide"}
    for language, text in blocks(repo, guide):
        if language == "python":
            run_python(text, folder, names)
        elif language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    assert words[0] == "maya", line
                    assert main(words[1:]) in (0, None), f"{line}\n{capsys.readouterr()}"
    for path in folder.glob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST.get(path.name, 60), f"{path.name} has {lines} lines"
    for name in set(sys.modules) - before:
        if importlib.util.find_spec("tests") and name in {p.stem for p in folder.glob("*.py")}:
            del sys.modules[name]
