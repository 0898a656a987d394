"""Keep an operator out of torch.compile without importing the compiler."""

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Like `torch.compiler.disable`: compiled code calls `function` unchanged, between two graphs.

    `torch.compiler.disable` imports torch._dynamo when it decorates, which takes 1.5 to 2 s. This decorator
    waits for the first call after something else has imported the compiler. The choice is made in the
    `__getattr__` of a module, because the compiler runs that method where it would trace a function.
    """
    late: Any = types.ModuleType(f"{function.__module__}.{function.__name__}.late")

    def choose(name: str) -> Any:
        if name != "call":
            raise AttributeError(name)
        if "torch._dynamo" not in sys.modules:
            return function
        late.call = torch.compiler.disable(function)
        return late.call

    late.__getattr__ = choose

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        return late.call(*args, **options)

    return call
