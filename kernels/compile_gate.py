"""Compiles every Triton kernel for GPUs that need not be there, and holds what comes out to limits.

    python -m maya.kernels.compile_gate [--quick]

The interpreter, in which the tests run the kernels, takes much that the compiler refuses, and knows nothing
of registers. Here each kernel is compiled as it is launched in production, for sm_80 and sm_90; it must not
spill registers, must fit into shared memory, take at most 15 arguments at run time, and use tensor cores
where it has a product: of fp16 and bf16 always; of fp32 only if TF32 is allowed, else plain fp32, as torch
does by default. Prints a table; the exit status is 1 if a kernel fails. --quick: every kernel once per target
and kind of product.
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

TARGETS = (80, 90)
SHARED_KIB = {80: 163, 90: 227}
MOST_ARGUMENTS = 15
MOST_REGISTERS = 65536  # of a processor, all threads of a program together
BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(slots=True, kw_only=True)
class Case:
    """One kernel as one launch specialises it.

    types: Triton's name of the type of each argument; None for an argument that is None.
    divisible: integers that are multiples of 16 in this case; pointers always are.
    tensor_cores: whether the PTX must hold matrix instructions; None: whatever it likes, it has no product.
    """

    kernel: Any
    text: str
    types: dict[str, str | None]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3
    divisible: tuple[str, ...] = ()
    tensor_cores: bool | None = None

    @property
    def name(self) -> str:
        found: str = self.kernel.fn.__name__
        return found


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the compiler made of a case. spills: loads and stores of spilled registers in the machine code."""

    arguments: int
    registers: int
    spills: int
    shared: int
    tensor_ops: int
    problems: list[str] = field(default_factory=list)


def all_cases(target: int, *, quick: bool) -> list[Case]:
    losses = [
        *_rnnt_cases(quick),
        *_tdt_cases(quick),
        *_product_cases(target, quick),
        *_pointwise_cases(quick),
    ]
    return [*losses, *_lact_cases(quick)]


def kernels() -> set[str]:
    """Names of all kernels there are, so that none can be forgotten here."""
    return {
        name for module in (lattice, joint_jit, lact_jit) for name in vars(module) if name.endswith("_kernel")
    }


def examine(case: Case, target: int) -> Outcome:
    """Compiles a case and measures what came out."""
    arguments = case.kernel.arg_names
    nothing = {name: None for name, kind in case.types.items() if kind is None and name in arguments}
    constants = {**case.constants, **nothing}
    signature = {name: "constexpr" if name in constants else case.types[name] for name in arguments}
    run_time = [name for name in arguments if signature[name] != "constexpr"]
    aligned = [n for n in run_time if str(signature[n]).startswith("*") or n in case.divisible]
    made = triton.compile(
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
        binary.write(made.asm["cubin"])
        binary.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", binary.name)
        code = _run("nvdisasm", "-c", binary.name)
    found = re.search(r"REG:(\d+)", usage)
    assert found, usage
    outcome = Outcome(
        arguments=len(run_time),
        registers=int(found[1]),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        shared=made.metadata.shared,
        tensor_ops=len(re.findall(r"\bwgmma\.mma_async|\bmma\.sync", made.asm["ptx"])),
    )
    outcome.problems = list(_problems(case, outcome, target))
    return outcome


def _problems(case: Case, outcome: Outcome, target: int) -> Iterator[str]:
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


LATTICE_TYPES: dict[str, str | None] = {
    "blank": "*fp32", "label": "*fp32", "duration": "*fp32", "sizes": "*i32", "alpha": "*fp64",
    "log_prob": "*fp32", "blank_mass": "*fp32", "label_mass": "*fp32", "duration_mass": "*fp32",
    "wavefronts": "i32", "width": "i32",
}  # fmt: skip


def _rnnt_cases(quick: bool) -> Iterator[Case]:
    for width in (61,) if quick else (61, 201, 1024):
        columns, warps, stages = lattice.wavefront(width)
        for skew in (1,) if quick or width != 61 else (1, 0):
            for kernel in (lattice.rnnt_alpha_kernel, lattice.rnnt_mass_kernel):
                yield Case(
                    kernel=kernel,
                    text=f"U+1={width}" + ("" if skew else ", labels take a frame"),
                    types=LATTICE_TYPES,
                    constants={"SKEW": skew, "COLUMNS": columns, "STAGES": stages},
                    warps=warps,
                )


def _tdt_cases(quick: bool) -> Iterator[Case]:
    usual, long = (0, 1, 2, 3, 4), tuple(range(lattice.MAX_DURATION + 1))
    shapes = [(61, usual), (128, usual), (256, usual), (1024, usual), (61, long), (256, long)]
    for width, durations in shapes[:1] if quick else shapes:
        columns, warps, stages = lattice.wavefront(width, durations[-1])
        for kernel in (lattice.tdt_alpha_kernel, lattice.tdt_mass_kernel):
            yield Case(
                kernel=kernel,
                text=f"U+1={width}, durations to {durations[-1]}",
                types=LATTICE_TYPES,
                constants={"DURATIONS": durations, "COLUMNS": columns, "STAGES": stages},
                warps=warps,
            )


def _joint_types(dtype: torch.dtype) -> dict[str, str | None]:
    of_input = dict.fromkeys(("f", "g", "hidden", "weight"), TYPES[dtype])
    wide = dict.fromkeys(
        (
            "bias",
            "partial",
            "picked",
            "norm",
            "of_blank",
            "of_label",
            "blank_mass",
            "label_mass",
            "sums",
            "dh",
        ),
        "*fp32",
    )
    places = dict.fromkeys(("frame", "state", "label", "order", "starts"), "*i64")
    sizes = dict.fromkeys(
        ("rows", "width", "vocab", "stride", "per_split", "splits", "blank", "seed", "threshold"), "i32"
    )
    return {**of_input, **wide, **places, **sizes, "scale": "fp32"}


def _product_cases(target: int, quick: bool) -> Iterator[Case]:
    dtypes = [(torch.bfloat16, "ieee"), (torch.float32, "ieee")]
    if not quick:
        dtypes += [(torch.float16, "ieee"), (torch.float32, "tf32")]
    for dtype, precision in dtypes:
        for odd in (False,) if quick or dtype != torch.bfloat16 else (False, True):
            types = {**_joint_types(dtype), "out": TYPES[dtype]}
            if odd:
                types |= {"bias": None, "sums": None}
            tiles = joint.TILES[target // 10, dtype.itemsize]
            for kernel in (joint_jit.norm_kernel, joint_jit.logit_gradient_kernel):
                text = f"{NAMES[dtype]}, {tiles.rows}x{tiles.columns}x{tiles.depth}"
                yield Case(
                    kernel=kernel,
                    text=text + ", TF32" * (precision == "tf32") + ", V odd, no bias" * odd,
                    types=types,
                    constants={
                        "PRECISION": precision, "ROWS": tiles.rows, "COLUMNS": tiles.columns,
                        "DEPTH": tiles.depth,
                    },
                    warps=tiles.warps,
                    stages=tiles.stages,
                    divisible=("width", "stride") if odd else ("width", "stride", "vocab"),
                    tensor_cores=dtype != torch.float32 or precision == "tf32",
                )  # fmt: skip


def _pointwise_cases(quick: bool) -> Iterator[Case]:
    rows, columns = joint.POINTWISE
    for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float16, torch.float32):
        for activation in ("tanh",) if quick or dtype != torch.bfloat16 else ("tanh", "relu", "sigmoid"):
            for kernel in (joint_jit.hidden_kernel, joint_jit.segment_kernel):
                yield Case(
                    kernel=kernel,
                    text=f"{NAMES[dtype]}, {activation}, dropout",
                    types={**_joint_types(dtype), "out": "*fp32"},
                    constants={"ACTIVATION": activation, "DROPOUT": True, "ROWS": rows, "COLUMNS": columns},
                    divisible=("width",),
                )
    yield Case(
        kernel=joint_jit.finish_kernel,
        text="",
        types=_joint_types(torch.float32),
        constants={"ROWS": joint.ROW_STEP},
    )


def _lact_cases(quick: bool) -> Iterator[Case]:
    fp32 = dict.fromkeys(("rates", "w", "step", "norms", "scale", "grad", "of_w", "of_step"), "*fp32")
    fp32 |= dict.fromkeys(("of_norms", "of_scale", "of_rates"), "*fp32")
    sizes = dict.fromkeys(("frames", "hidden", "channels", "rows", "columns"), "i32")
    dtypes = [(torch.bfloat16, "ieee"), (torch.float32, "ieee")]
    if not quick:
        dtypes += [(torch.float16, "ieee"), (torch.float32, "tf32")]
    for dtype, precision in dtypes:
        names = ("x", "y", "up", "down", "out", "halves", "both", "delta", "of_both", "of_hidden")
        types: dict[str, str | None] = {**dict.fromkeys(names, TYPES[dtype]), **fp32, **sizes}
        for kernel, products in ((lact_jit.swiglu_kernel, 2), (lact_jit.terms_kernel, 3)):
            tiles = lact.TILES[products, dtype.itemsize]
            text = f"{NAMES[dtype]}, {tiles.rows}x{tiles.columns}x{tiles.depth}" + ", TF32" * (
                precision == "tf32"
            )
            for forward in (True, False) if kernel is lact_jit.terms_kernel and not quick else (False,):
                nothing = dict.fromkeys(("rates", "both", "delta")) if forward else {}
                yield Case(
                    kernel=kernel,
                    text=text + ", bare" * forward,
                    types={**types, **nothing},
                    constants={
                        "PRECISION": precision, "ROWS": tiles.rows, "COLUMNS": tiles.columns,
                        "DEPTH": tiles.depth,
                    },
                    warps=tiles.warps,
                    stages=tiles.stages,
                    divisible=("hidden", "channels"),
                    tensor_cores=dtype != torch.float32 or precision == "tf32",
                )  # fmt: skip
        rows, columns = lact.POINTWISE
        yield Case(
            kernel=lact_jit.second_order_kernel,
            text=NAMES[dtype],
            types=types,
            constants={"ROWS": rows, "COLUMNS": columns},
            divisible=("hidden",),
        )
    for kernel in (lact_jit.renormalise_kernel, lact_jit.renormalise_backward_kernel):
        for learned in ("*i1",) if quick else ("*i1", None):
            optional = {} if learned else dict.fromkeys(("scale", "of_scale"))
            rows, columns = lact.RENORMALISE
            yield Case(
                kernel=kernel,
                text="" if learned else "no scale, no mask",
                types={**fp32, **sizes, "out": "*fp32", "learned": learned, **optional},
                constants={"EPS": 1e-5, "ROWS": rows, "COLUMNS": columns},
                divisible=("columns",),
            )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m maya.kernels.compile_gate", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="every kernel once per target")
    quick = parser.parse_args(arguments).quick
    if triton.knobs.runtime.interpret:
        print("compile_gate: nothing compiles while TRITON_INTERPRET is set; run it without")
        return 2
    print(f"{'kernel':22} {'case':32} {'sm':>3} {'args':>4} {'regs':>4} {'spills':>6} {'KiB':>6} {'mma':>4}")
    failed = 0
    with tempfile.TemporaryDirectory() as cache, triton.knobs.cache.scope():
        triton.knobs.cache.dir = cache  # each run compiles anew
        for target in TARGETS:
            cases = all_cases(target, quick=quick)
            forgotten = kernels() - {case.name for case in cases}
            for name in sorted(forgotten):
                print(f"{name:22} is compiled nowhere: give it a case")
            failed += len(forgotten)
            for case in cases:
                outcome = examine(case, target)
                failed += bool(outcome.problems)
                print(
                    f"{case.name.removesuffix('_kernel'):22} {case.text:32} {target:3} {outcome.arguments:4} "
                    f"{outcome.registers:4} {outcome.spills:6} {outcome.shared / 1024:6.1f} "
                    f"{outcome.tensor_ops:4} {'; '.join(outcome.problems)}".rstrip(),
                    flush=True,
                )
    print(f"compile_gate: {failed} failed" if failed else "compile_gate: passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
