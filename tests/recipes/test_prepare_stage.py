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
