"""`maya check-storage` and what `maya ready` says of the storage: each reason to refuse a place."""

import pytest

from maya.recipes.cli import main
from maya.storage.s3 import Place, connect, keys
from tools.s3_server import BUCKET, Fault, Proxy

TOPICS = ["credentials", "bucket", "write", "read", "overwrite", "list", "multipart", "delete"]


def lines(capsys: pytest.CaptureFixture[str], place: Place) -> tuple[int, list[str]]:
    status = main(["check-storage", str(place)])
    return status, capsys.readouterr().out.strip().split("\n")


def test_a_good_place_passes_and_stays_clean(
    capsys: pytest.CaptureFixture[str], place: Place, proxy: Proxy
) -> None:
    status, printed = lines(capsys, place)
    assert status == 0 and [line.split()[1] for line in printed[:-1]] == TOPICS
    assert all(line.startswith("passed") for line in printed[:-1]) and printed[-1].endswith("can be used")
    assert list(keys(connect(), BUCKET, place.prefix)) == []


@pytest.mark.parametrize(
    ("fault", "topic", "words"),
    [
        (Fault(action="forbid", when="^HEAD", times=9), "bucket", "check the rights of the key"),
        (Fault(action="forbid", when="^PUT", times=9), "write", "check the rights of the key"),
        (Fault(action="corrupt answer", when="^GET .*small"), "read", "not those that were written"),
        (Fault(action="forbid", when="list-type"), "list", "AccessDenied"),
        (Fault(action="500", when="partNumber", times=9), "multipart", "InternalError"),
        (Fault(action="corrupt upload", when="partNumber=1"), "multipart", "put together wrongly"),
        (Fault(action="forbid", when="^DELETE", times=9), "delete", "AccessDenied"),
        (Fault(action="refuse", when=".", times=99), "bucket", "onnection"),
    ],
)  # fmt: skip
def test_the_first_failure_is_named(
    capsys: pytest.CaptureFixture[str], place: Place, proxy: Proxy, fault: Fault, topic: str, words: str
) -> None:
    fault.happened = 0
    proxy.faults.append(fault)
    status, printed = lines(capsys, place)
    assert status == 1 and printed[-1].endswith("cannot be used")
    failed = [line for line in printed if line.startswith("FAILED")]
    assert len(failed) == 1 and failed[0].split()[1] == topic and words in failed[0]


def test_what_must_be_set_up_is_said(
    capsys: pytest.CaptureFixture[str], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, printed = lines(capsys, Place("no-such-bucket", "a"))
    assert status == 1 and "no-such-bucket does not exist; create it" in printed[1]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    status, printed = lines(capsys, Place(BUCKET, "a"))
    assert status == 1 and "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in printed[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    status, printed = lines(capsys, Place(BUCKET, "a"))
    assert status == 1 and "AWS_ENDPOINT_URL is not an address" in printed[0]
    assert main(["check-storage", "s3://bucket"]) == 1
    assert "does not name a folder of a bucket" in capsys.readouterr().err
