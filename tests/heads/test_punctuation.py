"""The head of punctuation and case: labels, what it learns from letters and from sound, rows and padding."""

from typing import Any

import pytest
import torch

from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import HeadContext, LossStep, PunctuationConfig
from maya.heads.punctuation import SpokenWord, letter_groups, written_in
from maya.text.punctuation import CAPITAL, LOWER
from tests.heads.test_classify import batch_of

LABELS: list[str | None] = [
    "0.0 0.2 Well, 0.3 0.5 why 0.5 0.6 not?", "0.0 0.3 है। 0.4 0.6 क्या", None, "0.1 0.2 Yes.",
]  # fmt: skip


def head_of(**options: Any) -> Any:
    cfg = PunctuationConfig(hidden=16, text_dim=8, buckets=512, **options)
    return cfg.build(HeadContext(dim=8, labels=3, blank=3, frame_seconds=0.04))


def frames_of(*lens: int) -> Encoded:
    size = torch.tensor(lens)
    frames = torch.randn(len(lens), max(lens), 8) * (torch.arange(max(lens)) < size[:, None])[..., None]
    return Encoded(frames, size)


def test_labels() -> None:
    assert written_in("0.32 0.51 Well, 0.62 0.8 yes.")[1] == SpokenWord("yes.", 0.62, 0.8)
    assert written_in("") == []
    for wrong in ("Well, yes.", "0.1 0.2", "0.1 x Well,"):
        with pytest.raises(MayaError, match="no list of words with times"):
            written_in(wrong)
    with pytest.raises(MayaError, match="at least one mark"):
        head_of(marks=())


def test_targets() -> None:
    rows, marks, cases = head_of().targets(batch_of([1.0] * 4, {"written": LABELS}))
    assert [[word.text for word in row] for row in rows] == [
        ["well", "why", "not"],
        ["है", "क्या"],
        [],
        ["yes"],
    ]
    assert marks.tolist() == [[1, 0, 3], [2, 0, -1], [-1, -1, -1], [2, -1, -1]]
    assert cases.tolist() == [[CAPITAL, LOWER, LOWER], [-1, -1, -1], [-1, -1, -1], [CAPITAL, -1, -1]]


def test_times_follow_the_speed() -> None:
    batch = batch_of([1.0], {"written": ["0.4 0.6 yes"]})
    batch.speeds = [2.0]
    assert head_of().targets(batch)[0] == [[SpokenWord("yes", 0.2, 0.3)]]


@pytest.mark.parametrize("sound", [True, False])
def test_a_row_alone_equals_the_row_in_a_batch(sound: bool) -> None:
    head, encoded = head_of(sound=sound).eval(), frames_of(20, 9, 25, 7)
    rows, *_ = head.targets(batch_of([1.0] * 4, {"written": LABELS}))
    together = head(encoded, rows)
    for i, row in enumerate(rows):
        size = int(encoded.lens[i])
        alone = head(Encoded(encoded.frames[i : i + 1, :size], encoded.lens[i : i + 1]), [row])
        for own, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(own[0, : len(row)], all_rows[i, : len(row)], atol=1e-6, rtol=1e-5)


def learnt(head: Any, encoded: Encoded, labels: list[str | None], steps: int = 60) -> list[list[str]]:
    batch = batch_of([1.0] * len(labels), {"written": labels})
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = head.losses(encoded, batch, LossStep())
        (losses["loss"] + losses["case"]).sum().backward()
        optimizer.step()
    head.eval()
    rows, *_ = head.targets(batch)
    return [[mark for mark, _ in row] for row in head.write(encoded, rows)]


def test_marks_and_capitals_are_learnt_from_letters() -> None:
    head, encoded = head_of(sound=False), frames_of(20, 20, 20, 20)
    assert learnt(head, encoded, LABELS) == [[",", "", "?"], [".", ""], [], ["."]]
    written = head.write(
        encoded, [[SpokenWord("Well", 0, 0.2), SpokenWord("why", 0.3, 0.5), SpokenWord("not", 0.5, 0.6)]]
    )
    assert written[0] == [(",", CAPITAL), ("", LOWER), ("?", LOWER)]


def test_marks_are_learnt_from_the_pause_alone() -> None:
    """The same word, with a long pause after it or none."""
    torch.manual_seed(1)
    labels: list[str | None] = ["0 0.2 a. 0.6 0.8 a 0.8 0.9 a", "0 0.2 a 0.2 0.4 a 0.4 0.5 a."] * 4
    encoded = Encoded(torch.zeros(8, 25, 8), torch.full((8,), 25))
    assert learnt(head_of(layers=0), encoded, labels, 300) == [[".", "", ""], ["", "", "."]] * 4


def test_rare_marks_are_learnt_with_a_weight() -> None:
    """One word in twenty has a mark that its sound only hints at."""
    torch.manual_seed(1)
    sound = torch.randn(40, 25, 8)
    sound[::20, :5] += 0.5
    labels: list[str | None] = ["0 0.2 a," if i % 20 == 0 else "0 0.2 a" for i in range(40)]
    recall = {}
    for weight in (1.0, 20.0):
        torch.manual_seed(1)
        said = learnt(
            head_of(layers=0, mark_weight=weight), Encoded(sound, torch.full((40,), 25)), labels, 25
        )
        recall[weight] = sum(row == [","] for row in said[::20])
    assert recall[1.0] == 0 and recall[20.0] == 2


def test_letters_are_hidden_in_training_only() -> None:
    head, encoded = head_of(sound=False, text_dropout=0.9), frames_of(9)
    rows = [[SpokenWord(c, 0.0, 0.1) for c in "abcdefgh"]]
    assert not torch.equal(head(encoded, rows)[0], head(encoded, rows)[0])
    head.eval()
    assert torch.equal(head(encoded, rows)[0], head(encoded, rows)[0])


def test_groups_of_letters_are_the_same_everywhere() -> None:
    assert letter_groups("a", 1 << 32)[:2] == [4251816714, 144653006]
    assert len(letter_groups("ab", 8192)) == 4 + 3 + 2 + 1 and max(letter_groups("word", 7)) < 7
