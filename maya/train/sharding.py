"""FSDP2: each rank holds a share of the parameters, gradients and optimizer state of a model.

Each block of the encoder is a unit whose weights are gathered while it runs; all else is one unit. Weights
stay fp32 and autocast computes in bf16, as with DDP: the two differ by rounding in the sums over ranks alone.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from maya.errors import MayaError
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, count_parameters
from maya.train.config import TrainConfig
from maya.train.distributed import is_dtensor

ABOVE = 2_000_000_000  # parameters from which train.parallel=auto shards them
ELEMENTWISE = ("exp_avg", "exp_avg_sq", "delta")  # of an optimizer's state, what is as large as the parameter


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 holds this model."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # see is_dtensor
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def sharding_wanted(cfg: TrainConfig, parameters: int) -> bool:
    """Whether a training over several processes shards a model of so many parameters."""
    return cfg.parallel == "fsdp" or (cfg.parallel == "auto" and parameters > ABOVE)


def shard(model: SpeechModel, cfg: TrainConfig, accelerator: Accelerator) -> None:
    """Spread the model over the ranks if `cfg.parallel` asks for it. Do so before the optimizer is made.

    FSDP2 takes no scalars and no parameter that two units share. Each rank holds these whole, see
    `average_whole_gradients`. Raises MayaError for what cannot be trained so.
    """
    if not sharding_wanted(cfg, count_parameters(model)) or not dist.is_initialized():
        return
    names = Counter(p for _, p in model.named_parameters(remove_duplicate=False))
    whole = {p for p, count in names.items() if p.ndim == 0 or count > 1}
    refuse(model.cfg, cfg, any(p.ndim and p.requires_grad for p in whole))
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415  see is_dtensor

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in model.encoder.blocks():
        fully_shard(block, mesh=mesh, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)


def refuse(model: SpeechModelConfig, cfg: TrainConfig, shares: bool) -> None:
    """MayaError for a training that FSDP2 cannot do. shares: parameters that learn have several places."""
    instead = "; give train.parallel=ddp, or "
    if getattr(model.encoder, "layer_drop", 0):
        raise MayaError(
            "with train.parallel=fsdp all ranks must run the same layers" + instead
            + "model.encoder.layer_drop=0"
        )  # fmt: skip
    for name, what in (("l2_sp", "the values to pull to"), ("fixed_pieces", "the rows that stay")):
        if getattr(cfg, name):
            raise MayaError(f"with train.parallel=fsdp no rank has {what} whole{instead}train.{name}=0")
    if cfg.optimizer == "muon":
        raise MayaError("Muon needs whole matrices" + instead + "train.optimizer=adamw")
    if shares and cfg.optimizer == "adamw":
        raise MayaError(
            "the layers share parameters, which FSDP2 leaves whole and AdamW cannot mix with sharded ones"
            + instead + "train.optimizer=scaled_adam"
        )  # fmt: skip


def average_whole_gradients(model: nn.Module) -> None:
    """After a backward pass: the mean over ranks of the gradients that FSDP2 leaves alone."""
    if not is_sharded(model):
        return
    grads = [p.grad for p in model.parameters() if p.grad is not None and not is_dtensor(p)]
    if grads:
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        parts = (flat / dist.get_world_size()).split([grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with every tensor whole. Of a sharded model all ranks must call this; its tensors are on
    the CPU of rank 0, and the others get an empty dict."""
    state = model.state_dict()
    if not is_sharded(model):
        return state
    gathered = {}
    for name, value in state.items():
        value = value.full_tensor() if is_dtensor(value) else value
        if dist.get_rank() == 0:
            gathered[name] = value.cpu()
    return gathered


@contextmanager
def _gathered(model: nn.Module) -> Iterator[None]:
    from torch.distributed.fsdp import FSDPModule, fully_shard  # noqa: PLC0415  see is_dtensor

    fully_shard.state(model)._lazy_init()  # type: ignore[attr-defined]
    units = [unit for unit in model.modules() if isinstance(unit, FSDPModule)]
    # Without FSDP2's hooks: ranks have unlike numbers of batches here, and it would count their passes.
    hooks = [(own, dict(own)) for u in units for own in (u._forward_pre_hooks, u._forward_hooks)]
    for unit in units:
        unit.unshard()
    for own, _ in hooks:
        own.clear()
    try:
        yield
    finally:
        for own, kept in hooks:
            own.update(kept)
        for unit in units:
            unit.reshard()


def gathered(model: nn.Module) -> Any:
    """A context in which every rank holds all weights, so that each runs the model by itself: validation,
    samples. All ranks must enter it."""
    return _gathered(model) if is_sharded(model) else nullcontext()


def mesh_of(model: nn.Module) -> DeviceMesh | None:
    """The ranks that a model is spread over; None for one that is whole."""
    return next((p.device_mesh for p in model.parameters() if is_dtensor(p)), None)


def spread(values: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tensors by the names of the model's parameters, whole or spread, as the model holds its own."""
    mesh, own = mesh_of(model), dict(model.named_parameters())
    return {
        name: _share(value, mesh) if mesh is not None and is_dtensor(own.get(name)) else value
        for name, value in values.items()
    }


def spread_state(optimizer: torch.optim.Optimizer) -> None:
    """Keep of the state that an optimizer has loaded this rank's share, where its parameter is sharded."""
    for p, state in optimizer.state.items():
        if is_dtensor(p):
            shares = {name: _share(state[name], p.device_mesh) for name in ELEMENTWISE if name in state}
            state.update(shares)


def _share(value: Tensor, mesh: DeviceMesh) -> Tensor:
    """This rank's share of a whole tensor; nothing is sent."""
    from torch.distributed.tensor import Shard, distribute_tensor  # noqa: PLC0415  see is_dtensor

    if is_dtensor(value):
        return value
    return distribute_tensor(value.to(mesh.device_type), mesh, [Shard(0)], src_data_rank=None)
