"""The accelerator: where a training runs, in which precision, and how DDP wraps its model."""

import ctypes
import sys
import warnings
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from maya.models.speech_model import SpeechModel
from maya.train.config import TrainConfig
from maya.train.sharding import is_sharded


def make_accelerator(cfg: TrainConfig, *, cpu: bool = False) -> Accelerator:
    """The accelerator places, wraps and casts. It never sees the data loader or the schedule, and never
    scales the loss."""
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    bf16 = cfg.precision == "bf16" or (
        cfg.precision == "auto" and not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    if cpu or not torch.cuda.is_available():
        keep_freed_memory()
    # DDP compares strides of axes of size 1 too, as a depthwise convolution's weight has; they mean nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Views spare a copy of the gradients. DDP moves them after its first step, and where a gradient lies
    # decides how a CPU sums it: a resumed run would differ from an uninterrupted one by rounding.
    views = not cpu and torch.cuda.is_available()
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=views, broadcast_buffers=True)
    # Rank 0 may prepare, save or validate for long; `maya.train.watchdog` notices a step that hangs.
    group = InitProcessGroupKwargs(timeout=timedelta(hours=2))
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=cpu, kwargs_handlers=[ddp, group])


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks rather than return them: every activation of a CPU step would be paged in
    anew, which costs about 10 % of a small model's step. Other C libraries are left alone."""
    m_trim_threshold, m_mmap_threshold, gigabyte = -1, -3, 1 << 30
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(m_mmap_threshold, gigabyte)
        mallopt(m_trim_threshold, gigabyte)


def wrap(model: SpeechModel, accelerator: Accelerator) -> torch.nn.Module:
    """The model in DDP where several processes each hold all of it."""
    return model if is_sharded(model) else accelerator.prepare_model(model)


def wrap_again(model: SpeechModel, accelerator: Accelerator) -> torch.nn.Module:
    """Wrap `model` anew after the set of parameters that learn has changed.

    DDP waits for a gradient from each parameter that required one when it was made. Delete the old wrapper
    first: its buffers and hooks go with it. One process has no wrapper, and neither has FSDP2.
    """
    if accelerator.num_processes == 1 or is_sharded(model):
        return model
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    accelerator.free_memory()
    return accelerator.prepare_model(model)
