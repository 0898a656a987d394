"""An operator that torch.compile leaves alone, as `torch.compiler.disable` does."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maya.kernels.uncompiled import uncompiled


def inner(x: Tensor) -> Tensor:
    return x.sinh()


def operator(x: Tensor, *, scale: float = 1.0) -> Tensor:
    """The operator of the tests: sinh through a function of its own, times `scale`."""
    return inner(x) * scale


def graphs_of(call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, list[str]]:
    """The result of compiled code, and the names of all operators that the compiler traced."""
    names: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        names.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    torch._dynamo.reset()
    return torch.compile(call, backend=backend)(x), names


@pytest.mark.parametrize("wrap", [uncompiled, torch.compiler.disable])
def test_the_operator_is_not_traced(wrap: Callable) -> None:
    wrapped = wrap(operator)
    x = torch.randn(5, requires_grad=True)

    def layer(x: Tensor) -> Tensor:
        def deeper(y: Tensor) -> Tensor:
            return wrapped(y.cos(), scale=2.0).exp()

        return deeper(x + 1)

    y, names = graphs_of(layer, x)
    torch.testing.assert_close(y, layer(x))
    assert "cos" in names and "exp" in names and "sinh" not in names and "mul" not in " ".join(names)
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_an_operator_called_before_compilation_is_not_traced() -> None:
    """The first call may come before anything is compiled."""
    wrapped = uncompiled(operator)
    x = torch.randn(3)
    first = wrapped(x)
    y, names = graphs_of(lambda x: wrapped(x).exp(), x)
    torch.testing.assert_close(y, first.exp())
    assert "sinh" not in names


def test_name_and_docstring_are_kept() -> None:
    wrapped = uncompiled(operator)
    assert wrapped.__name__ == "operator" and wrapped.__doc__ == operator.__doc__


def test_the_compiler_is_imported_late() -> None:
    """In a process of its own: the decorator, and a call, load no compiler; compiling afterwards works."""
    program = (
        "import sys, torch\n"
        "from maya.kernels.uncompiled import uncompiled\n"
        "f = uncompiled(lambda x: x.sinh())\n"
        "x = torch.ones(3)\n"
        "first = f(x)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "seen = []\n"
        "def backend(graph, _):\n"
        "    seen.extend(str(n.target) for n in graph.graph.nodes)\n"
        "    return graph.forward\n"
        "y = torch.compile(lambda x: f(x + 1).exp(), backend=backend)(x)\n"
        "assert torch.equal(y, (x + 1).sinh().exp())\n"
        "assert 'exp' in seen and 'sinh' not in seen, seen\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
