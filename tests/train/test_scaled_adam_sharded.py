"""ScaledAdam under FSDP2 on two CPU processes gives the weights of one process, for all shard sizes."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.tensor import DTensor

from maya.train.optimizers.scaled_adam import ScaledAdam

STEPS = 14  # past the first threshold, with a step that it clips


def model() -> nn.Module:
    torch.manual_seed(5)
    # Rows that two ranks cannot share evenly (5, 3), vectors and a single element.
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3), nn.PReLU(), nn.Linear(3, 1))


def train(net: nn.Module, steps: range, optimizer: ScaledAdam) -> None:
    for step in steps:
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (net(x).square().sum() * (100.0 if step == 12 else 1.0)).backward()
        optimizer.step()


def worker(rank: int, port: int, out: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    net = model()
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    optimizer = ScaledAdam(net.named_parameters())
    train(net, range(8), optimizer)
    again = ScaledAdam(net.named_parameters())
    again.load_state_dict(optimizer.state_dict())
    train(net, range(8, STEPS), again)
    state = again.state[next(net.parameters())]
    assert isinstance(state["delta"], DTensor) and state["delta"].shape == (5, 4)
    weights = {k: v.full_tensor().detach() for k, v in net.named_parameters()}
    clipping = again.clippings()[0]
    torch.save({"weights": weights, "clip": [clipping.norm, clipping.threshold]}, Path(out) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)  # torch 2.11 with gloo and sharded tensors hangs while the interpreter ends


@pytest.mark.slow
def test_two_sharded_processes_equal_one(tmp_path: Path) -> None:
    net = model()
    optimizer = ScaledAdam(net.named_parameters())
    train(net, range(STEPS), optimizer)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(worker, (port, str(tmp_path)), nprocs=2)
    (clipping,) = optimizer.clippings()
    for rank in (0, 1):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in net.named_parameters():
            torch.testing.assert_close(got["weights"][name], value.detach(), rtol=1e-5, atol=1e-6)
        assert got["clip"] == pytest.approx([clipping.norm, clipping.threshold], rel=1e-4)
