"""Every key of a section must be read, marked harmless, or ignored on request."""

from pathlib import Path
from typing import Any

import pytest

from maya.convert.nemo.section import Section
from maya.errors import MayaError


def section(ignored: tuple[str, ...] = (), **values: Any) -> Section:
    return Section(Path("m.nemo"), "encoder", values, ignored)


def test_values_have_the_type_of_their_default() -> None:
    s = section(a=3, b=0.5, c=2, d="1e-5", e=True)
    assert (s.take("a", 1), s.take("b", 1.0), s.take("c", 0.0), s.take("d", 0.0)) == (3, 0.5, 2.0, 1e-5)
    assert s.take("missing", 7) == 7 and s.take("e", False)
    for key, default in (("e", 1), ("e", 0.0), ("a", "x"), ("a", True), ("b", 1)):
        with pytest.raises(MayaError, match=f"m.nemo: encoder.{key} is .*, not a"):
            s.take(key, default)
    with pytest.raises(MayaError, match="encoder.none is missing"):
        s.need("none", int)


def test_refuses_values_of_other_networks() -> None:
    s = section(a=True, b=[1, 2], c=1)
    s.fixed("b", None, [1, 2])
    s.fixed("absent", None)
    for key, allowed in (("a", 1), ("c", True), ("b", [2, 1])):
        with pytest.raises(MayaError, match=f"encoder.{key} is .* does not support"):
            s.fixed(key, allowed)
    section(("encoder.a",), a=True).fixed("a", False)  # ignored on request


def test_refuses_unread_keys() -> None:
    s = section(a=1, b=2, c=3)
    s.take("a", 0)
    s.harmless("b")
    with pytest.raises(MayaError, match="encoder.c = 3 is unknown.*--ignore encoder.c"):
        s.close()
    s.raw("c")
    s.close()
    with pytest.raises(MayaError, match="encoder is missing"):
        Section(Path("m.nemo"), "encoder", None)
