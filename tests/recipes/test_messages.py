"""Each message of a command is printed once."""

import logging
import subprocess
import sys

import pytest

from maya.recipes import cli
from maya.recipes.messages import messages_on_stderr


def test_message_is_printed_once_with_a_root_handler() -> None:
    """Runs in a new process, where the root logger has no handler yet."""
    program = (
        "import logging\n"
        "from maya.recipes.messages import messages_on_stderr\n"
        "with messages_on_stderr():\n"
        "    logging.getLogger('maya.data').warning('before')\n"
        "    logging.warning('of another package')\n"  # this gives the root logger a handler
        "    logging.getLogger('maya.data').warning('after')\n"
        "    logging.getLogger('maya.data').info('news')\n"
        "    with messages_on_stderr():\n"
        "        pass\n"
        "    logging.getLogger('maya').warning('at last')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert lines == ["before", "WARNING:root:of another package", "after", "news", "at last"], done.stderr


def test_repeated_commands_print_once_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "dispatch", lambda args: logging.getLogger("maya.x").warning("look here"))
    for _ in range(3):
        assert cli.main(["info", "x"]) == 0
        assert capsys.readouterr().err == "look here\n"
    log = logging.getLogger("maya")
    assert log.propagate and not log.handlers, "what a command set up is put back"


def test_only_rank_0_prints_info_and_all_ranks_warn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, expected in ((0, "news\n7 files\n"), (1, "rank 1: 7 files\n")):
        monkeypatch.setattr("maya.train.distributed.rank", lambda number=number: number)
        with messages_on_stderr():
            logging.getLogger("maya.x").info("news")
            logging.getLogger("maya.x").warning("%d files", 7)
        assert capsys.readouterr().err == expected
