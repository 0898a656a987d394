from pathlib import Path

import numpy as np
import pytest

from maya.decode.hypothesis import Hypothesis
from maya.errors import MayaError
from maya.recipes import plot_alignment as module
from maya.recipes.plot_alignment import font_for, label_of, plot_alignment, romanise

pytest.importorskip("matplotlib")


def hypothesis(tokens: int, frame_seconds: float = 0.08) -> Hypothesis:
    return Hypothesis(
        tokens=list(range(tokens)),
        frames=[2 * i for i in range(tokens)],
        durations=[0 if i == 1 else 2 for i in range(tokens)],
        scores=[-0.1] * tokens,
        id="utterance",
        frame_seconds=frame_seconds,
    )


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("कमल", "kamala"),
        ("नमस्ते", "namaste"),
        ("हिंदी", "himdii"),
        ("தமிழ்", "tamilll"),  # Unicode calls ழ LLLA
        ("১২", "12"),
        ("abc_", "abc_"),
        ("→", "?"),
    ],
)
def test_romanise(text: str, latin: str) -> None:
    assert romanise(text) == latin


def test_label_falls_back_from_script_to_latin_to_id(monkeypatch: pytest.MonkeyPatch) -> None:
    assert label_of("▁the", 7) == ("_the", None)
    monkeypatch.setattr(module, "font_for", lambda chars: (all(c.isascii() for c in chars), None))
    assert label_of("▁कम", 7) == ("_kama", None)
    monkeypatch.setattr(module, "font_for", lambda chars: (False, None))
    assert label_of("▁कम", 7) == ("7", None)
    assert label_of("", 7) == ("7", None)


def test_font_is_chosen_for_all_characters() -> None:
    assert font_for(frozenset("abc")) == (True, None)
    assert font_for(frozenset("a\U0010fffd")) == (False, None)  # a private code point no font draws


@pytest.mark.parametrize("tokens", [0, 1, 12])
def test_picture_is_written(tmp_path: Path, tokens: int) -> None:
    pieces = ["▁न", "मस्", "ते", "▁hello", "▁"] * 3
    plot_alignment(np.zeros((200, 80), np.float32), hypothesis(tokens), pieces[:tokens], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_impossible_input_is_refused(tmp_path: Path) -> None:
    feats = np.zeros((50, 80), np.float32)
    with pytest.raises(MayaError, match="2 pieces for 3 tokens"):
        plot_alignment(feats, hypothesis(3), ["a", "b"], tmp_path / "a.png")
    with pytest.raises(MayaError, match="how long a frame is"):
        plot_alignment(feats, hypothesis(1, frame_seconds=0.0), ["a"], tmp_path / "a.png")
