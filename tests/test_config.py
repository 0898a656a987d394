import json
from dataclasses import field
from typing import Literal

import pytest

from maya.config import Kinds, config, from_dict, leaves, override, to_dict
from maya.errors import MayaError


@config
class Inner:
    rate: float = 0.1
    width: int = 4
    kind: Literal["relu", "tanh"] = "relu"


@config
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    on: bool = False
    limit: int | None = None
    durations: tuple[int, ...] = (0, 1)
    pair: tuple[int, float] = (1, 2.0)
    words: list[str] = field(default_factory=list)
    contexts: tuple[tuple[int, int], ...] = ()


@config
class Red:
    kind: Literal["red"] = "red"
    shade: int = 1


@config
class Blue:
    kind: Literal["blue"] = "blue"
    shade: int = 2
    depth: float = 0.5


@config
class Painted:
    colour: Red | Blue = field(default_factory=Red)


def test_kind_selects_the_configuration_from_json() -> None:
    cfg = Painted(colour=Blue(depth=0.25))
    override(cfg, "colour.depth=0.75")
    again = from_dict(Painted, json.loads(json.dumps(to_dict(cfg))))
    assert isinstance(again.colour, Blue) and again.colour.depth == 0.75
    assert isinstance(
        from_dict(Painted, {"colour": {"shade": 4}}).colour, Red
    )  # written before there were two
    with pytest.raises(MayaError, match="unknown kind 'green' of configuration; expected one of red, blue"):
        from_dict(Painted, {"colour": {"kind": "green"}})
    with pytest.raises(MayaError, match="no field 'depth'"):
        from_dict(Painted, {"colour": {"kind": "red", "depth": 1.0}})
    with pytest.raises(MayaError, match="colour is a group of options"):
        override(cfg, "colour=red")


class Shapes(Kinds):
    """A family."""


@config
class Drawing:
    shape: Shapes
    by_name: dict[str, Shapes] = field(default_factory=dict)


def test_a_configuration_of_a_family_needs_the_decorator_and_a_kind() -> None:
    """JSON would lose its class, and loading would give the first of the family."""

    @config
    class Round(Shapes):
        kind: Literal["round"] = "round"

    @config
    class Nameless(Shapes):
        corners: int = 3

    @config
    class Undecided(Shapes):
        kind: Literal["a"]

    class Plain(Shapes):
        kind: Literal["plain"] = "plain"

    assert from_dict(Drawing, to_dict(Drawing(shape=Round()))).shape == Round()
    assert list(Shapes.kinds()) == ["round"]
    for shape in (Nameless(), Undecided(kind="a"), Plain()):
        sentence = f"{type(shape).__name__} cannot be saved without a name; give the class .* @config"
        with pytest.raises(MayaError, match=sentence):
            Drawing(shape=shape)
        with pytest.raises(MayaError, match=sentence):
            Drawing(shape=Round(), by_name={"x": shape})


def test_the_example_in_an_error_is_accepted() -> None:
    cfg = Outer(name="x", contexts=((70, 13),))
    with pytest.raises(MayaError, match=r"for example \(\(70,13\)\), not"):
        override(cfg, "contexts=(70,13)")
    override(cfg, "contexts=((70,13))")
    assert cfg.contexts == ((70, 13),)


def test_assignments_are_checked() -> None:
    cfg = Outer(name="x")
    with pytest.raises(AttributeError, match="Inner has no field 'raet'; did you mean 'rate'?"):
        cfg.inner.raet = 0.2  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="Inner has no field 'widht'; did you mean 'width'?"):
        Inner(widht=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Inner.width expects a whole number, not 4.5"):
        cfg.inner.width = 4.5  # type: ignore[assignment]
    with pytest.raises(TypeError, match="not True"):
        cfg.inner.width = True  # a bool is no size
    with pytest.raises(TypeError, match="one of relu, tanh"):
        Inner(kind="gelu")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Outer("x")  # type: ignore[misc]  # keyword only


def test_numbers_and_lists_are_converted_to_the_declared_type() -> None:
    cfg = Outer(name="x", durations=[0, 2], inner=Inner(rate=1))  # type: ignore[arg-type]
    assert cfg.durations == (0, 2) and isinstance(cfg.inner.rate, float)


def test_defaults_are_not_shared() -> None:
    first, second = Outer(name="a"), Outer(name="b")
    first.inner.width = 9
    first.words.append("w")
    assert second.inner.width == 4 and second.words == []


@pytest.mark.parametrize(
    ("assignment", "read", "value"),
    [
        ("inner.rate=3e-4", lambda c: c.inner.rate, 3e-4),
        ("inner.rate=1", lambda c: c.inner.rate, 1.0),
        ("inner.width=8", lambda c: c.inner.width, 8),
        ("inner.kind=tanh", lambda c: c.inner.kind, "tanh"),
        ("name=a=b", lambda c: c.name, "a=b"),
        ("on=true", lambda c: c.on, True),
        ("limit=none", lambda c: c.limit, None),
        ("limit=7", lambda c: c.limit, 7),
        ("durations=0,1,2,3,4", lambda c: c.durations, (0, 1, 2, 3, 4)),
        ("durations=(0, 2)", lambda c: c.durations, (0, 2)),
        ("pair=3,0.5", lambda c: c.pair, (3, 0.5)),
        ("words=hi,ta", lambda c: c.words, ["hi", "ta"]),
        ("contexts=[[70,13],[70,0]]", lambda c: c.contexts, ((70, 13), (70, 0))),
        ("contexts=(70, 1), (-1, -1)", lambda c: c.contexts, ((70, 1), (-1, -1))),
        ("contexts=[[70,13]]", lambda c: c.contexts, ((70, 13),)),
    ],
)
def test_override_reads_by_declared_type(assignment: str, read: object, value: object) -> None:
    cfg = Outer(name="x", limit=1)
    override(cfg, assignment)
    field = read(cfg)  # type: ignore[operator]
    assert field == value and type(field) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.width=4.5", "inner.width expects a whole number, not '4.5'"),
        ("on=yes", "on expects true or false, not 'yes'"),
        ("inner.kind=gelu", "one of relu, tanh"),
        ("pair=1", "pair expects two values, for example 1,2.0, not '1'"),
        ("inner.raet=1", "unknown option 'inner.raet'; did you mean 'inner.rate'?"),
        ("inner.zzzzzz=1", "unknown option 'inner.zzzzzz'; Inner has rate, width, kind"),
        ("width=1", "unknown option 'width'; did you mean 'inner.width'?"),
        ("iner.width=1", "unknown option 'iner.width'; did you mean 'inner.width'?"),
        ("nothing", "not of the form NAME=VALUE"),
        ("inner=3", "inner is a group of options; set one of them, such as inner.rate"),
        ("name.x=3", "'name' is a value"),
        ("durations=1,x", "durations expects a list of whole numbers, for example 0,1, not '1,x'"),
        ("contexts=[70,13]", "contexts expects a list of lists of whole numbers, not '[70,13]'"),
        ("contexts=[[70,13]", "contexts expects a list of lists of whole numbers"),
    ],
)
def test_errors_of_wrong_overrides(assignment: str, message: str) -> None:
    cfg = Outer(name="x")
    before = to_dict(cfg)
    with pytest.raises(MayaError) as caught:
        override(cfg, assignment)
    assert message in str(caught.value)
    assert to_dict(cfg) == before


def test_round_trip_through_json() -> None:
    cfg = Outer(name="x", maybe=Inner(rate=0.5), durations=(0, 1, 4), words=["a"], limit=3)
    again = from_dict(Outer, json.loads(json.dumps(to_dict(cfg))))
    assert again == cfg
    assert isinstance(again.maybe, Inner) and isinstance(again.durations, tuple)


def test_from_dict_names_an_unknown_field() -> None:
    with pytest.raises(MayaError, match="Inner has no field 'depth'"):
        from_dict(Outer, {"name": "x", "inner": {"depth": 3}})


def test_leaves_are_the_fields_that_override_sets() -> None:
    cfg = Outer(name="x")
    names = [name for name, _ in leaves(cfg)]
    assert names[:4] == ["name", "inner.rate", "inner.width", "inner.kind"]
    for name, value in leaves(cfg):
        if isinstance(value, (int, float, str)):
            override(cfg, f"{name}={value}".replace("=False", "=false"))
    assert cfg == Outer(name="x")
