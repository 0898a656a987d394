"""Two processes for the tests of distributed training. They start once and serve every test of a session,
because a start takes several seconds: each imports torch."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

SECONDS = 240  # limit for a job on a busy machine


class Pair:
    """Two ranks that wait for jobs."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections: list[Connection] = []
        self.processes = []
        for rank in range(2):
            connection, remote = context.Pipe()
            process = context.Process(target=_serve, args=(rank, remote), daemon=True)
            process.start()
            self.connections.append(connection)
            self.processes.append(process)

    def run(self, job: Callable[..., Any], *args: Any) -> None:
        """Call `job(rank, *args)`, a function of a module, in both as the ranks of one process group.

        An error of either is raised here with its traceback.
        """
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        for connection in self.connections:
            connection.send((port, job, args))
        for rank, connection in enumerate(self.connections):
            if not connection.poll(SECONDS):
                self.close()
                raise TimeoutError(f"rank {rank} did not end in {SECONDS} s")
            error = connection.recv()
            if error:
                self.close()  # the other rank may wait for this one for ever
                raise AssertionError(f"rank {rank} failed:\n{error}")

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank: int, connection: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            port, job, args = connection.recv()
        except EOFError:  # the tests have ended
            return
        connection.send(_do(rank, port, job, args))


def _do(rank: int, port: int, job: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Run a job as one rank of two. Returns the traceback of its error, or ""."""
    from accelerate.state import AcceleratorState, GradientState

    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    try:
        job(rank, *args)
    except BaseException:
        return traceback.format_exc()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        # The next job makes its own accelerator.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return ""
