import os
from pathlib import Path

from maya.recipes.prepare import corpus_identity
from tests.data.making import write_corpus, write_tar


def test_a_tar_that_was_written_again_makes_it_another_corpus(tmp_path: Path) -> None:
    """Cuts are bound to the time of their tar: the stage has to run again, or training would refuse them."""
    write_corpus(tmp_path, per_speaker=1, speakers=2)
    plain = corpus_identity(tmp_path)
    tar = write_tar(tmp_path / "a.tar", {"x": b"1"})
    with_tar = corpus_identity(tmp_path)
    assert corpus_identity(tmp_path) == with_tar != plain
    os.utime(tar, (1, 1))
    assert corpus_identity(tmp_path) != with_tar


def test_every_file_that_describes_a_corpus_counts(tmp_path: Path) -> None:
    """A new line in any of them makes the stage run again; a file beside them does not."""
    for name, text in (("wav.scp", "a a.wav\n"), ("text", "a one\n"), ("utt2lang", "a en\n")):
        (tmp_path / name).write_text(text)
    found = [corpus_identity(tmp_path)]
    (tmp_path / "notes").write_text("nothing that is read")
    assert corpus_identity(tmp_path) == found[0]
    for name in ("wav.scp", "text", "utt2lang"):
        with (tmp_path / name).open("a") as file:
            file.write("b b\n")
        found.append(corpus_identity(tmp_path))
    assert len(set(found)) == 4
