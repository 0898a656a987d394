"""Compiles every Triton kernel for GPUs that need not be present, and checks the results against limits.

    python -m maya.kernels.compile_gate [--quick]

The tests run the kernels in Triton's interpreter, which accepts code that the compiler refuses, and does not
count registers. Here each kernel is compiled as it is launched in production, for sm_80 and sm_90. It must
not spill registers, must fit into shared memory, and may take at most 15 arguments at run time. Products of
fp16 and bf16 must use tensor cores. Products of fp32 may use them only if TF32 is allowed, as in torch.
Prints a table; the exit status is 1 if a kernel fails.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maya.kernels.joint import jit as joint_jit
from maya.kernels.joint import kernel as joint
from maya.kernels.lact import jit as lact_jit
from maya.kernels.lact import kernel as lact
from maya.kernels.lattice import kernel as lattice
from maya.kernels.triton_common import Tiles

TARGETS = (80, 90)
SHARED_KIB = {80: 163, 90: 227}
MOST_ARGUMENTS = 15
MOST_REGISTERS = 65536  # of a processor, for all threads of a program together
BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
# (dtype, precision of products); --quick compiles the first two.
DTYPES = ((torch.bfloat16, "ieee"), (torch.float32, "ieee"), (torch.float16, "ieee"), (torch.float32, "tf32"))

Types = dict[str, str | None]


@dataclass(slots=True, kw_only=True)
class Compilation:
    """One kernel with the specialisation of one launch.

    types: Triton's name of the type of each argument; None for an argument that is None.
    divisible: integers that are multiples of 16 in this case; pointers always are.
    tensor_cores: whether the PTX must have matrix instructions; None if the kernel has no product.
    """

    kernel: Any
    text: str
    types: Types
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3
    divisible: tuple[str, ...] = ()
    tensor_cores: bool | None = None

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Figures of a compiled case. spills: loads and stores of spilled registers in the machine code."""

    arguments: int
    registers: int
    spills: int
    shared: int
    tensor_ops: int
    problems: list[str] = field(default_factory=list)


def all_cases(target: int, *, quick: bool) -> list[Compilation]:
    """The cases of a target. quick: every kernel once per kind of product."""
    dtypes = DTYPES[:2] if quick else DTYPES
    lattices = [*_rnnt_cases(quick), *_tdt_cases(quick)]
    return [
        *lattices,
        *_joint_cases(target, dtypes, quick),
        *_pointwise_cases(quick),
        *_lact_cases(dtypes, quick),
    ]


def kernels() -> set[str]:
    """Names of all kernels, so that the gate cannot miss one."""
    modules = (lattice, joint_jit, lact_jit)
    return {name for module in modules for name in vars(module) if name.endswith("_kernel")}


def examine(case: Compilation, target: int) -> Outcome:
    """Compiles a case and measures the result."""
    arguments = case.kernel.arg_names
    absent = {name: None for name, kind in case.types.items() if kind is None and name in arguments}
    constants = {**case.constants, **absent}
    signature = {name: "constexpr" if name in constants else case.types[name] for name in arguments}
    run_time = [name for name in arguments if signature[name] != "constexpr"]
    aligned = [n for n in run_time if str(signature[n]).startswith("*") or n in case.divisible]
    compiled = triton.compile(
        ASTSource(
            fn=case.kernel,
            signature=signature,
            constexprs={(arguments.index(name),): value for name, value in constants.items()},
            attrs={(arguments.index(name),): [["tt.divisibility", 16]] for name in aligned},
        ),
        target=GPUTarget("cuda", target, 32),
        options={"num_warps": case.warps, "num_stages": case.stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", binary.name)
        code = _run("nvdisasm", "-c", binary.name)
    registers = re.search(r"REG:(\d+)", usage)
    assert registers, usage
    outcome = Outcome(
        arguments=len(run_time),
        registers=int(registers[1]),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        shared=compiled.metadata.shared,
        tensor_ops=len(re.findall(r"\bwgmma\.mma_async|\bmma\.sync", compiled.asm["ptx"])),
    )
    outcome.problems = list(_problems(case, outcome, target))
    return outcome


def _problems(case: Compilation, outcome: Outcome, target: int) -> Iterator[str]:
    if outcome.arguments > MOST_ARGUMENTS:
        yield f"more than {MOST_ARGUMENTS} arguments"
    if outcome.spills:
        yield "spills"
    if outcome.shared > SHARED_KIB[target] * 1024:
        yield f"more than {SHARED_KIB[target]} KiB of shared memory"
    if outcome.registers * 32 * case.warps > MOST_REGISTERS:
        yield "too many registers for one program"
    if case.tensor_cores and not outcome.tensor_ops:
        yield "a product without tensor cores"
    if case.tensor_cores is False and outcome.tensor_ops:
        yield "fp32 rounded for tensor cores"


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([BINARIES / tool, *arguments], check=True, capture_output=True, text=True).stdout


def _types(**kinds: str) -> Types:
    """_types(i32="N W") gives the arguments N and W the type i32; a name that starts with p_ is a pointer
    type.
    """
    names = ((kind.replace("p_", "*"), kinds[kind].split()) for kind in kinds)
    return {name: kind for kind, arguments in names for name in arguments}


LATTICE_TYPES = _types(
    p_fp32="blank label duration log_prob blank_mass label_mass duration_mass", p_fp64="alpha", p_i32="sizes",
    i32="N W",
)  # fmt: skip


def _rnnt_cases(quick: bool) -> Iterator[Compilation]:
    for width in (61,) if quick else (61, 201, 1024):
        columns, warps, stages = lattice.wavefront(width)
        for skew in (1,) if quick or width != 61 else (1, 0):
            for kernel in (lattice.rnnt_alpha_kernel, lattice.rnnt_mass_kernel):
                text = f"U+1={width}" + ("" if skew else ", labels take a frame")
                constants = {"SKEW": skew, "BU": columns, "STAGES": stages}
                yield Compilation(
                    kernel=kernel, text=text, types=LATTICE_TYPES, constants=constants, warps=warps
                )


def _tdt_cases(quick: bool) -> Iterator[Compilation]:
    usual, long = (0, 1, 2, 3, 4), tuple(range(lattice.MAX_DURATION + 1))
    shapes = [(61, usual), (128, usual), (256, usual), (1024, usual), (61, long), (256, long)]
    for width, durations in shapes[:1] if quick else shapes:
        columns, warps, stages = lattice.wavefront(width, durations[-1])
        for kernel in (lattice.tdt_alpha_kernel, lattice.tdt_mass_kernel):
            text = f"U+1={width}, durations to {durations[-1]}"
            constants = {"DURATIONS": durations, "BU": columns, "STAGES": stages}
            yield Compilation(kernel=kernel, text=text, types=LATTICE_TYPES, constants=constants, warps=warps)


def _joint_types(dtype: torch.dtype, out: torch.dtype) -> Types:
    fixed = _types(
        p_fp32="bias partial picked norm blank_log_prob label_log_prob blank_mass label_mass sums dh",
        p_i64="frame state label order starts",
        i32="R H V stride tiles_per_split splits blank seed threshold", fp32="scale",
    )  # fmt: skip
    inputs = dict.fromkeys(("f", "g", "hidden", "weight"), f"*{NAMES[dtype]}")
    return {**fixed, **inputs, "out": f"*{NAMES[out]}"}


def _product_case(
    kernel: Any, text: str, types: Types, tiles: Tiles, precision: str, blocks: str
) -> Compilation:
    """A case of a kernel with a product; its text begins with the dtype. blocks: names of the block sizes."""
    dtype, *rest = text.split(", ")
    shape = f"{tiles.rows}x{tiles.columns}x{tiles.depth}"
    rows, columns, depth = blocks.split()
    constants: dict[str, Any] = tiles.constants(rows, columns, depth, precision)
    return Compilation(
        kernel=kernel, text=", ".join([dtype, shape, *["TF32"] * (precision == "tf32"), *rest]), types=types,
        warps=constants.pop("num_warps"), stages=constants.pop("num_stages"), constants=constants,
        tensor_cores=dtype != "fp32" or precision == "tf32",
    )  # fmt: skip


def _joint_cases(target: int, dtypes: tuple, quick: bool) -> Iterator[Compilation]:
    for dtype, precision in dtypes:
        tiles = joint.TILES[target // 10, dtype.itemsize]
        for odd in (False,) if quick or dtype != torch.bfloat16 else (False, True):
            types = _joint_types(dtype, dtype) | (dict.fromkeys(("bias", "sums")) if odd else {})
            for kernel in (joint_jit.norm_kernel, joint_jit.logit_gradient_kernel):
                text = NAMES[dtype] + ", V odd, no bias" * odd
                case = _product_case(kernel, text, types, tiles, precision, "BR BV BH")
                case.divisible = ("H", "stride") if odd else ("H", "stride", "V")
                yield case


def _pointwise_cases(quick: bool) -> Iterator[Compilation]:
    for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float16, torch.float32):
        for activation in ("tanh",) if quick or dtype != torch.bfloat16 else ("tanh", "relu", "sigmoid"):
            constants = {"ACTIVATION": activation, "DROPOUT": True, **joint.POINTWISE}
            for kernel in (joint_jit.hidden_kernel, joint_jit.segment_kernel):
                text, types = f"{NAMES[dtype]}, {activation}, dropout", _joint_types(dtype, torch.float32)
                yield Compilation(
                    kernel=kernel, text=text, types=types, constants=constants, divisible=("H",)
                )
    types = _joint_types(torch.float32, torch.float32)
    yield Compilation(kernel=joint_jit.finish_kernel, text="", types=types, constants={"BR": joint.ROW_STEP})


def _lact_cases(dtypes: tuple, quick: bool) -> Iterator[Compilation]:
    fixed = _types(
        p_fp32="rates share w step norms scale grad dw dstep dnorms dscale drates",
        i32="T L E D N R C H stride_b stride_t stride_h stride_c",
    )  # fmt: skip
    for dtype, precision in dtypes:
        names = (
            "x",
            "y",
            "up",
            "down",
            "out",
            "halves",
            "ac",
            "delta",
            "dac",
            "dhidden",
            "dhalves",
            "ddelta",
        )
        types: Types = {**dict.fromkeys(names, f"*{NAMES[dtype]}"), **fixed}
        for kernel, products in ((lact_jit.swiglu_kernel, 2), (lact_jit.terms_kernel, 3)):
            tiles = lact.TILES[products, dtype.itemsize]
            for bare in (True, False) if products == 3 and not quick else (False,):
                absent = dict.fromkeys(("rates", "share", "ac", "delta")) if bare else {}
                text = NAMES[dtype] + ", bare" * bare
                case = _product_case(kernel, text, {**types, **absent}, tiles, precision, "BT BE BD")
                case.divisible = ("E", "D")
                yield case
        yield Compilation(
            kernel=lact_jit.second_order_kernel, text=NAMES[dtype], types=types, constants=lact.POINTWISE,
            divisible=("E",),
        )  # fmt: skip
        yield Compilation(
            kernel=lact_jit.gather_kernel, text=NAMES[dtype], types={**types, "mask": "*i1"},
            constants={"BT": 16, "BC": 256, "stride_c": 1},
            divisible=("C", "stride_b", "stride_t", "stride_h"),
        )  # fmt: skip
    for kernel in (lact_jit.renormalise_kernel, lact_jit.renormalise_backward_kernel):
        for learned in ("*i1",) if quick else ("*i1", None):
            absent = {} if learned else dict.fromkeys(("scale", "dscale"))
            yield Compilation(
                kernel=kernel, text="" if learned else "no scale, no mask",
                types={**fixed, "out": "*fp32", "low": "*bf16", "learned": learned, **absent},
                constants={"EPS": 1e-5, **lact.RENORMALISE}, divisible=("C",),
            )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m maya.kernels.compile_gate", description=__doc__
    )
    parser.add_argument(
        "--quick", action="store_true", help="each kernel once per target and kind of product"
    )
    quick = parser.parse_args(arguments).quick
    if triton.knobs.runtime.interpret:
        print("compile_gate: TRITON_INTERPRET is set, so nothing would be compiled; unset it")
        return 2
    print(f"{'kernel':22} {'case':32} {'sm':>3} {'args':>4} {'regs':>4} {'spills':>6} {'KiB':>6} {'mma':>4}")
    failed = 0
    with tempfile.TemporaryDirectory() as cache, triton.knobs.cache.scope():
        triton.knobs.cache.dir = cache  # so that each run compiles anew
        for target in TARGETS:
            cases = all_cases(target, quick=quick)
            missing = kernels() - {case.name for case in cases}
            for name in sorted(missing):
                print(f"{name:22} has no case: add one")
            failed += len(missing)
            for case in cases:
                o = examine(case, target)
                failed += bool(o.problems)
                name = f"{case.name.removesuffix('_kernel'):22} {case.text:32} {target:3}"
                figures = (
                    f"{o.arguments:4} {o.registers:4} {o.spills:6} {o.shared / 1024:6.1f} {o.tensor_ops:4}"
                )
                print(f"{name} {figures} {'; '.join(o.problems)}".rstrip(), flush=True)
    print(f"compile_gate: {failed} failed" if failed else "compile_gate: passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
