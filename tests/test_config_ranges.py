"""Every number of every configuration has a declared range, and one mechanism checks it."""

import dataclasses
import json
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

import maya.train.tune
from maya.config import Kinds, config, field_types, from_dict, override, to_dict
from maya.errors import MayaError
from maya.ranges import (
    INF,
    Ascending,
    Constraint,
    Count,
    Distinct,
    Finite,
    OddInt,
    PosFloat,
    PosInt,
    Range,
    Share,
)
from maya.recipes.experiment import Experiment


def alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if "Union" in str(typing.get_origin(hint) or type(hint)) else (hint,)


def configurations(*roots: type) -> list[type]:
    """All configurations in the fields of `roots`, and all kinds of their families."""
    classes: list[type] = []

    def visit(hint: Any) -> None:
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and hint not in classes:
            classes.append(hint)
            for inner in field_types(hint).values():
                visit(inner)
        if isinstance(hint, type) and issubclass(hint, Kinds):
            for kind in hint.kinds().values():
                visit(kind)
        for argument in typing.get_args(hint):
            if not isinstance(argument, Constraint):
                visit(argument)

    for root in roots:
        visit(root)
    return classes


def numbers(hint: Any, path: str) -> Iterator[tuple[str, type, Range | None]]:
    """(path, int or float, declared range) of each number in a type, those in lists and unions too."""
    if typing.get_origin(hint) is Annotated:
        kind, *rules = typing.get_args(hint)
        if kind in (int, float):
            yield path, kind, next((r for r in rules if isinstance(r, Range)), None)
            return
        hint = kind
    if hint in (int, float):
        yield path, hint, None
    if typing.get_origin(hint) is not typing.Literal:
        for i, argument in enumerate(typing.get_args(hint)):
            if argument is not Ellipsis:
                yield from numbers(argument, f"{path}[{i}]")


CLASSES = configurations(Experiment, maya.train.tune.TuneConfig)


def test_configurations_are_reached() -> None:
    names = {cls.__name__ for cls in CLASSES}
    assert {
        "TrainConfig",
        "ZipformerConfig",
        "LaCTConfig",
        "MemoryConfig",
        "EdenConfig",
        "LoraConfig",
        "TransducerConfig",
        "AttentionDecoderConfig",
    } <= names
    assert len(CLASSES) > 35


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_number_has_a_range(cls: type) -> None:
    for name, hint in field_types(cls).items():
        for path, _, declared in numbers(hint, f"{cls.__name__}.{name}"):
            assert declared is not None, f"{path}: declare its range with a type of maya.ranges"


def with_number(hint: Any, value: Any, current: Any) -> Any:
    """A value of this type that holds `value` where the type holds a number."""
    for option in alternatives(hint):
        bare = typing.get_args(option)[0] if typing.get_origin(option) is Annotated else option
        if bare in (int, float):
            return value
        if typing.get_origin(bare) is tuple and any(numbers(bare, "")):
            items = [a for a in typing.get_args(bare) if a is not Ellipsis]
            if isinstance(current, tuple) and current:
                return (with_number(items[0], value, current[0]), *current[1:])
            return (with_number(items[0], value, None),) * len(items)
    return value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 0, 10**40], ids=str)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_values_outside_the_declared_range_are_refused(cls: type, value: float) -> None:
    made = cls(**{"name": "x"} if cls is Experiment else {})
    for name, hint in field_types(cls).items():
        first = next(numbers(hint, name), None)
        if first is None:
            continue
        before = getattr(made, name)
        _, kind, declared = first
        assert declared is not None
        right_type = kind is float or isinstance(value, int)
        try:
            setattr(made, name, with_number(hint, value, before))
        except MayaError as error:
            text = str(error)
            assert text.startswith(f"{cls.__name__}.{name} ") and "\n" not in text
            rules = [str(declared), "range from low to high", "one item or more", "without repetition"]
            assert any(rule in text for rule in rules), text
            assert getattr(made, name) == before
        else:
            assert right_type and declared.allows(value), f"{cls.__name__}.{name} accepted {value}"


def test_interval_zero_and_infinite_clip_round_trip() -> None:
    experiment = Experiment(name="x")
    for name in ("log_every", "valid_every", "samples_every", "save_every", "average_every"):
        override(experiment, f"train.{name}=0")
    override(experiment, "train.clip=inf")
    assert experiment.train.clip == INF
    again = from_dict(Experiment, json.loads(json.dumps(to_dict(experiment))))
    assert again == experiment


@config
class Numbers:
    rate: PosFloat = 1.0
    level: Finite = 0.0
    share: Share = 0.5
    kernel: OddInt = 3
    frames: Annotated[int, Range(min=0, also=(-1,))] = 0
    maybe: Count | None = None
    sizes: tuple[PosInt, ...] = (1,)
    pair: Annotated[tuple[Finite, Finite], Ascending()] = (0.0, 1.0)
    contexts: tuple[tuple[Count, Count], ...] = ((1, 1),)
    names: Annotated[tuple[str, ...], Distinct(empty=False)] = ("hi",)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("rate", 0, "Numbers.rate must be above 0, not 0"),
        ("rate", math.nan, "Numbers.rate must be above 0, not nan"),
        ("level", -math.inf, "Numbers.level must be a finite number, not -inf"),
        ("share", 1.5, "Numbers.share must be from 0 to 1, not 1.5"),
        ("share", 1.0000001, "Numbers.share must be from 0 to 1, not 1.0000001"),
        pytest.param("rate", 2**1100, "Numbers.rate must be above 0, not 1358", id="large"),
        pytest.param("level", -(2**1100), "Numbers.level must be a finite number, not -1358", id="small"),
        pytest.param("kernel", 10**400, "Numbers.kernel must be odd and 1 or more, not 1000", id="even"),
        ("kernel", 4, "Numbers.kernel must be odd and 1 or more, not 4"),
        ("frames", -2, "Numbers.frames must be 0 or more or -1, not -2"),
        ("maybe", -3, "Numbers.maybe must be 0 or more, not -3"),
        ("sizes", (4, 0), "Numbers.sizes must be 1 or more, not 0"),
        ("pair", (2.0, 1.0), "Numbers.pair must be a range from low to high, not (2.0, 1.0)"),
        ("pair", (math.nan, 1.0), "Numbers.pair must be a finite number, not nan"),
        ("contexts", ((1, 2), (3, -1)), "Numbers.contexts must be 0 or more, not -1"),
        ("rate", "fast", "Numbers.rate expects a number (above 0), not 'fast'"),
        ("maybe", 1.5, "Numbers.maybe expects a whole number (0 or more) or none, not 1.5"),
        ("sizes", 3, "Numbers.sizes expects a list of whole numbers (each 1 or more), not 3"),
        ("names", ("hi", "hi"), "Numbers.names must be a list without repetition and not empty"),
        ("names", (), "Numbers.names must be a list without repetition and not empty, not ()"),
    ],
)
def test_errors_name_field_value_and_range(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(MayaError) as assigned:
        setattr(Numbers(), name, value)
    with pytest.raises(MayaError) as constructed:
        Numbers(**{name: value})
    with pytest.raises(MayaError) as read:
        from_dict(Numbers, {name: value})
    for error in (assigned, constructed, read):
        assert str(error.value).startswith(sentence)


def test_override_errors_use_the_dotted_name() -> None:
    experiment = Experiment(name="x")
    for assignment, sentence in (
        ("train.lr=-1", "train.lr must be above 0, not -1"),
        ("train.lr=nan", "train.lr must be above 0, not nan"),
        ("train.accumulate=0", "train.accumulate must be 1 or more, not 0"),
        ("train.keep=0", "train.keep must be 1 or more, not 0"),
        ("train.save_every=-5", "train.save_every must be 0 or more, not -5"),
        ("train.betas=0.9", "train.betas expects two numbers (each from 0 up to but below 1)"),
        ("train.betas=0.9,1", "train.betas must be"),
        ("data.speed_perturb=0.9,0", "data.speed_perturb must be above 0, not 0"),
        ("data.speed_perturb=", "data.speed_perturb must be a list of one item or more, not ()"),
        ("model.encoder.dropout=1", "model.encoder.dropout must be"),
        ("model.encoder.conv_kernel=8", "model.encoder.conv_kernel must be odd and 1 or more, not 8"),
        ("languages=hi,hindi!", "languages must be the code or the name of a language, such as hi, sat"),
        ("languages=", "languages must be a list without repetition and not empty"),
        ("languages=hi,ta,hi", "languages must be a list without repetition"),
        ("languages=auto", "languages must be the code or the name of a language"),
        ("data.plan.memory.limit=-3", "data.plan.memory.limit must be above 0, not -3"),
        ("train.seed=-1", "train.seed must be from 0 to 4294967295, not -1"),
    ):
        before = to_dict(experiment)
        with pytest.raises(MayaError) as refused:
            override(experiment, assignment)
        assert sentence in str(refused.value), str(refused.value)
        assert to_dict(experiment) == before


@pytest.mark.parametrize("code", ["hi", "sat", "en-IN", "zh-Hant", "pt_BR", "mni-Mtei", "English"])
def test_plausible_language_codes_are_accepted(code: str) -> None:
    assert Experiment(name="x", languages=(code,)).languages == (code,)


@pytest.mark.parametrize("code", ["hindi!", "", " ", "auto", "unknown", "none", "xx", "und", "12", "e"])
def test_unknown_language_codes_are_refused(code: str) -> None:
    with pytest.raises(MayaError, match="languages must be the code or the name of a language, .* not "):
        Experiment(name="x", languages=("hi", code))


@pytest.mark.parametrize(
    ("declared", "inside", "outside"),
    [
        (Range(), [-1e300, 0, 1e300], [math.nan, math.inf, -math.inf]),
        (Range(min=1), [1, 1.5], [0.999, math.inf]),
        (Range(above=0, max=1), [1e-9, 1], [0, 1.0001]),
        (Range(min=0, below=1), [0, 0.999], [1, -1e-9]),
        (Range(min=1, odd=True), [1, 3, 31], [2, 0, -1]),
        (Range(min=0, also=(-1,)), [-1, 0, 7], [-2, -0.5]),
        (Range(above=0, also=(INF,)), [INF, 1], [-INF, math.nan, 0]),
    ],
)
def test_ranges(declared: Range, inside: list[float], outside: list[float]) -> None:
    assert all(declared.allows(value) for value in inside)
    assert not any(declared.allows(value) for value in outside)
