"""Every Triton kernel compiles for GPUs that need not be present, within limits; and the gate can fail."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maya.kernels import compile_gate
from maya.kernels.gate import limits, table, ttgir
from maya.kernels.gate.cases import GateCase, cases, with_tf32
from maya.kernels.gate.figures import Figures, programs
from maya.kernels.gate.pretence import Pointer, backward, pretended

REPO = Path(__file__).resolve().parents[2]
GOOD = Figures(
    arguments=8, registers=64, spills=0, shared=49152, ctas=4, has_product=True, tensor_ops=32, half_loads=0,
    half_stores=0, wide_stores=8, loop_half_loads=0, step=75, wait=2, waiting_loads=0, pipelined=True,
    layouts=1,
)  # fmt: skip
CASE = GateCase("bf16", lambda: None)


def run(module: str, *options: str) -> str:
    # In a process of its own: the compiler refuses kernels that were imported for the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_kernel_compiles_within_limits() -> None:
    out = run("maya.kernels.compile_gate", "--quick")
    assert out.endswith("compile_gate: passed\n")
    assert all(name.removesuffix("_kernel") in out for name in compile_gate.kernels())


@pytest.mark.slow
def test_all_cases_compile_within_limits() -> None:
    assert run("maya.kernels.compile_gate").endswith("compile_gate: passed\n")


@pytest.fixture(scope="module")
def refusals() -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = json.loads(run("tests.kernels.failing_kernels"))
    return kinds


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("spills", "spills"),
        ("16-bit stores", "16 bits"),
        ("two layouts", "layout"),
        ("waiting loads", "16 bits"),
        ("waiting loads", "pipeline"),
        ("no tensor cores", "tensor cores"),
        ("rounded", "tensor cores"),
        ("too much shared memory", "shared"),
        ("too much shared memory", "programs"),
        ("arguments", "arguments"),
    ],
)
def test_gate_refuses(refusals: dict[str, list[str]], case: str, kind: str) -> None:
    assert kind in refusals[case]


def test_gate_accepts_a_good_product(refusals: dict[str, list[str]]) -> None:
    assert refusals["good product"] == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"spills": 2}, "spills"),
        ({"arguments": 16}, "arguments"),
        ({"shared": 228 * 1024}, "shared"),
        ({"ctas": 1}, "programs"),
        ({"half_stores": 64}, "16 bits"),
        ({"half_loads": 8, "loop_half_loads": 8}, "16 bits"),
        ({"pipelined": False, "waiting_loads": 1}, "pipeline"),
        ({"tensor_ops": 0}, "tensor cores"),
        ({"layouts": 2}, "layout"),
    ],
)
def test_each_limit(change: dict[str, int], kind: str) -> None:
    kernel = "logit_gradient_kernel"
    assert list(limits.problems(kernel, CASE, 90, GOOD)) == []
    assert [x.kind for x in limits.problems(kernel, CASE, 90, replace(GOOD, **change))] == [kind]


def test_steps_of_lattices_have_a_budget() -> None:
    case = GateCase("TDT U+1=61, durations 0-4", lambda: None)
    long = replace(GOOD, step=256)
    assert [x.kind for x in limits.problems("tdt_alpha_kernel", case, 90, long)] == ["step"]
    assert list(limits.problems("tdt_alpha_kernel", case, 90, replace(GOOD, step=255))) == []
    assert set(limits.LONGEST_STEP) <= {x.name for x in cases()}


def test_code_for_sm_80_fits_into_small_gpus() -> None:
    large = replace(GOOD, shared=100 * 1024)
    assert [x.kind for x in limits.problems("norm_kernel", CASE, 80, large)] == ["shared"]
    assert list(limits.problems("norm_kernel", CASE, 90, large)) == []


def test_unmet_limits_are_named_exactly() -> None:
    entry = limits.Unmet("norm_kernel", "spills", "why", case="fp16", targets=(100,))
    assert entry.covers("norm_kernel", "fp16 V=32769", 100, "spills")
    assert not entry.covers("norm_kernel", "bf16 V=32769", 100, "spills")
    assert not entry.covers("norm_kernel", "fp16 V=32769", 90, "spills")
    assert not entry.covers("norm_kernel", "fp16 V=32769", 100, "shared")
    assert all(x.kernel in compile_gate.kernels() and x.reason for x in limits.UNMET)


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "expected"),
    [
        (128, 96 * 1024, 8, 2),
        (129, 96 * 1024, 8, 1),  # registers come in steps of 8 a thread
        (166, 96 * 1024, 8, 1),
        (227, 48 * 1024, 4, 2),
        (32, 0, 4, 16),
        (32, 0, 1, 32),  # at most 32 programs
        (32, 114 * 1024, 1, 1),  # 1 KiB of each program is reserved
        (255, 228 * 1024, 8, 0),
    ],
)
def test_programs_of_a_processor(registers: int, shared: int, warps: int, expected: int) -> None:
    """The figures of NVIDIA's occupancy calculator for compute capability 9.0."""
    assert programs(90, registers, shared, warps) == expected


def test_tensor_memory_limits_programs() -> None:
    assert programs(100, 64, 0, 4, tensor_columns=256) == 2


LOOP = """
  tt.func public @k(%x: !tt.ptr<f32> loc("x"(#loc)), %n: i32) attributes {noinline = false} {
    %p = tt.splat %x : !tt.ptr<f32> -> tensor<64x!tt.ptr<f32>, #blocked> loc(#loc1)
    %r:2 = scf.for %i = %c0 to %n step %c1 iter_args(%acc = %z, %q = %p) -> (tensor<64xf32>, i32)  : i32 {
      %w = ttg.async_wait %t {num = NUM : i32} loc(#loc2)
      %d = tt.dot %a, %b, %acc : tensor<64xf32, #mma> loc(callsite(#loc3 at #loc4))
      scf.if %m {
        %l = tt.load %q : tensor<64x!tt.ptr<f32>, #blocked> loc(#loc5)
      } loc(#loc5)
      scf.yield %d, %q : tensor<64xf32, #mma>, i32 loc(#loc6)
    } loc(#loc7)
    tt.store %r#1, %l, %m : tensor<64x!tt.ptr<f32>, #LAYOUT> loc(#loc8)
    tt.return loc(#loc9)
  } loc(#loc10)
"""


@pytest.mark.parametrize(("pending", "stages", "expected"), [(2, 3, True), (0, 3, False), (0, 2, True)])
def test_pipelines_of_products(pending: int, stages: int, expected: bool) -> None:
    (loop,) = ttgir.product_loops(LOOP.replace("NUM", str(pending)))
    assert ttgir.waits(loop) == [pending]
    assert ttgir.waiting_loads(loop) == 0  # the load under a condition is not one of every step
    assert ttgir.is_pipelined(loop, stages) == expected


def test_layouts_of_tensors_in_place() -> None:
    assert ttgir.in_place(LOOP.replace("#LAYOUT", "#blocked")) == {"x": {"#blocked"}}
    assert ttgir.in_place(LOOP.replace("#LAYOUT", "#mma")) == {"x": {"#blocked", "#mma"}}
    copied = LOOP.replace("tt.load %q", "ttg.async_copy_global_to_local %q, %s")
    assert len(ttgir.in_place(copied.replace("#LAYOUT", "#blocked"))["x"]) == 2


def test_pretended_device() -> None:
    """Product code sees a CUDA device; waiting for it raises; tensors of the CPU are real."""
    with pretended(90):
        x = torch.zeros(1 << 20, 1 << 20, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        assert x.is_cuda and x.device == torch.device("cuda", 0)
        assert torch.empty_like(x).is_cuda and torch.tensor([1, 2]).to(x.device).is_cuda
        lens = torch.tensor([3, 4])
        assert not lens.is_cuda and lens.device == torch.device("cpu") and lens.tolist() == [3, 4]
        assert torch.cuda.get_device_capability(x.device) == (9, 0)
        assert (Pointer(x).data_ptr() % 16, Pointer(x[0, 3:]).data_ptr() % 16) == (0, 6)
        backward((x * 2).sum())
        assert x.grad is not None and x.grad.is_cuda
        for wait in (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.nonzero):
            with pytest.raises((RuntimeError, NotImplementedError)):
                wait(x[0, 0])
    assert not x.is_cuda and x.device == torch.device("meta")


def test_tf32_is_switched_back() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with_tf32(lambda: None)
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_cases_have_different_names() -> None:
    names = [x.name for x in cases()]
    assert len(set(names)) == len(names)


def test_page_names_every_kernel_and_the_compiler(repo: Path) -> None:
    page = (repo / "docs/benchmarks/gate.md").read_text(encoding="utf-8")
    assert "Compiled\nwith Triton 3." in page or "Compiled with Triton 3." in page
    for target in compile_gate.TARGETS:
        part = page.split(f"## sm_{target}\n")[1].split("\n## ")[0]
        assert {name for name in compile_gate.kernels() if f"`{name}`" not in part} == set()


def test_page_shows_what_has_changed(tmp_path: Path) -> None:
    row = table.GateRow("norm_kernel", "bf16", 90, GOOD, [])
    table.save([row], tmp_path / "before.json")
    row.figures = replace(GOOD, registers=48)
    page = table.page([row], table.load(tmp_path / "before.json"), [limits.Unmet("k", "spills", "why")])
    assert "| `norm_kernel` | bf16 | 8 | 64 → 48 | 0 | 48.0 |" in page
    assert "* `k`, spills: why" in page
