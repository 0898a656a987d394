"""GPUs as their makers publish them: memory, and dense matrix-product rates without sparsity."""

from dataclasses import dataclass

from maya.errors import MayaError

GB = 1e9


@dataclass(frozen=True, slots=True)
class Gpu:
    """memory_gb: 10⁹ bytes. tflops: 10¹² operations per second in `precision`, the one training would use."""

    name: str
    memory_gb: float
    tflops: float
    precision: str = "bf16"


# Published figures (data sheets of NVIDIA, dense), none measured here. Those without bf16 train in fp32.
GPUS = {
    "b200": Gpu("NVIDIA B200", 180, 2250),
    "h200": Gpu("NVIDIA H200 SXM", 141, 989),
    "h100": Gpu("NVIDIA H100 SXM", 80, 989),
    "h100-pcie": Gpu("NVIDIA H100 PCIe", 80, 756),
    "a100-80": Gpu("NVIDIA A100 80 GB", 80, 312),
    "a100-40": Gpu("NVIDIA A100 40 GB", 40, 312),
    "l40s": Gpu("NVIDIA L40S", 48, 362),
    "l4": Gpu("NVIDIA L4", 24, 121),
    "a10g": Gpu("NVIDIA A10G", 24, 70),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 24, 165),
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", 24, 71),
    "v100": Gpu("NVIDIA V100 SXM2 32 GB", 32, 15.7, "fp32"),
}


def gpu_named(name: str) -> Gpu:
    """A GPU of the table, by its name in any case. Raises MayaError for an unknown name."""
    if name.lower() not in GPUS:
        raise MayaError(f"unknown GPU {name!r}; expected one of {', '.join(GPUS)}")
    return GPUS[name.lower()]
