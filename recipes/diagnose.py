"""Find the module whose numbers are not finite.

`maya diagnose RUN` repeats the step at which training stopped on losses or gradients that are not finite.
`maya diagnose CHECKPOINT --audio a.wav` runs a model on a recording.

It prints a line each for the audio and for parameters that are not finite or large. Then comes the first
module in order of execution whose output is not finite, the innermost first; if all outputs are finite, the
first module in order of the backward pass whose gradients are not. Exit status: 0 if all is finite, 1 if
something is not, 2 for an error.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maya.audio.load import load_audio
from maya.audio.sound import clipped_share
from maya.data.loading.batch import Batch, make_batch
from maya.decode.recognizer import choose_device
from maya.encoders.zipformer.regularizers import set_loss_scale
from maya.errors import MayaError
from maya.models.speech_model import Losses, SpeechModel
from maya.recipes.arguments import add_code
from maya.recipes.experiment_file import import_recorded
from maya.train.checkpoints.checkpoint import build, load_checkpoint
from maya.train.failure import FOLDER, MODEL, Failure, Tally, kept, restore_random

LARGE = 1e4
SILENT = 1e-4  # of full scale, -80 dB
CLIPPED = 0.01  # share of the samples
MOST = 20  # lines of a kind
NORMS = 8  # modules whose gradients are shown


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", type=Path, help="the run folder of such a training; with --audio a checkpoint")
    p.add_argument("--audio", type=Path, nargs="+", help="recordings to run a checkpoint on")
    text = "the transcript of the recordings: losses and gradients are checked, too"
    p.add_argument("--text", default="", help=text)
    p.add_argument("--device", default="cpu", help="cpu (the default), cuda ...")
    add_code(p)


def run(args: argparse.Namespace) -> int:
    try:
        device = choose_device(args.device)
        if args.text and not args.audio:
            raise MayaError("--text is the transcript of recordings: name them with --audio, or leave it out")
        import_recorded(args.run, args.experiment)
        if args.audio:
            lines, finite = diagnose_audio(args.run, args.audio, args.text, device)
        elif (args.run / FOLDER).is_dir():
            lines, finite = diagnose_run(args.run, device)
        else:
            raise MayaError(
                f"{args.run} holds no {FOLDER}/: training writes it when losses or gradients are not "
                "finite; give --audio a.wav to check a checkpoint"
            )
    except MayaError as error:
        print(f"maya diagnose: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0 if finite else 1


@dataclass(frozen=True, slots=True)
class Wild:
    """A tensor that is not finite. module: its name; kind: the class; inputs: what went in."""

    module: str
    kind: str
    tensor: str
    detail: str
    inputs: str = ""

    def __str__(self) -> str:
        given = f"; {self.inputs}" if self.inputs else ""
        return f"{self.module or 'the model'} ({self.kind}), {self.tensor} {self.detail}{given}"


def tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in nested tuples, dicts and dataclasses, with names."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from tensors(item, f"{name}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{name}.{key}")
    elif is_dataclass(value):
        for f in fields(value):
            yield from tensors(getattr(value, f.name), f"{name}.{f.name}")


def described(x: Tensor) -> str:
    """Shape, and how many numbers are not finite, or the range of those that are."""
    x = x.detach()
    nan, inf = int(x.isnan().sum()), int(x.isinf().sum())
    finite = x[x.isfinite()]
    span = f"from {float(finite.min()):.3g} to {float(finite.max()):.3g}" if len(finite) else "none finite"
    wild = f"{nan} nan and {inf} inf of {x.numel()}, the others " if nan or inf else ""
    return f"{tuple(x.shape)}: {wild}{span}"


class ModuleTrace:
    """Hooks on all modules of a model that note the first tensor that is not finite, forwards and backwards.

    Forwards: the first output in order of execution; hooks of inner modules come before those of outer ones.
    Backwards: the first gradient of a parameter, or of a tensor between modules. A parameter's names its
    module. A tensor's names the innermost module that took the tensor in, for what came out of it had finite
    gradients; where no module took it in, it is what follows the module that put it out.
    """

    def __init__(self, model: nn.Module) -> None:
        self.forward: Wild | None = None
        self.backward: Wild | None = None
        self._takers: dict[int, list[tuple[str, str]]] = {}  # by id of a tensor: (module, its class)
        self._held: list[Tensor] = []  # so that no id is given twice
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            hook = self._hook(name, type(module).__name__)
            self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
            for own, p in module.named_parameters(recurse=False):
                if p.requires_grad:
                    check = self._gradient(name, type(module).__name__, f"gradient of {own}")
                    self._handles.append(p.register_hook(check))

    def __enter__(self) -> "ModuleTrace":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._held.clear()

    def _hook(self, name: str, kind: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = [*tensors(args, "input"), *tensors(kwargs, "input")]
            made = list(tensors(output, "output"))
            if self.forward is None:
                for label, x in made:
                    if not bool(x.isfinite().all()):
                        inputs = ", ".join(f"{n} {described(t)}" for n, t in given) or "no input of numbers"
                        self.forward = Wild(name, kind, label, described(x), inputs)
                        break
            handed_on = {id(x) for _, x in made}  # as dropout does that is off
            for _, x in given:
                if x.requires_grad and id(x) not in handed_on:
                    self._takers.setdefault(id(x), []).append((name, kind))
                    self._watch(x, name, kind, "an input")
            for label, x in made:
                if x.requires_grad:
                    self._watch(x, name, kind, label)

        return hook

    def _watch(self, x: Tensor, name: str, kind: str, label: str) -> None:
        self._held.append(x)
        self._handles.append(x.register_hook(self._gradient(name, kind, f"gradient of {label}", id(x))))

    def _gradient(self, name: str, kind: str, label: str, key: int | None = None) -> Any:
        def check(gradient: Tensor | None) -> None:
            if gradient is None or self.backward is not None or bool(gradient.isfinite().all()):
                return
            takers = self._takers.get(key, []) if key is not None else []
            if key is None:
                self.backward = Wild(name, kind, label, described(gradient))
            elif takers:
                self.backward = Wild(*takers[0], "gradient of an input", described(gradient))
            else:
                what = f"{label}, before any module's: what follows it, a loss as a rule;"
                self.backward = Wild(name, kind, what, described(gradient))

        return check


def audio_lines(tally: Tally, frame_seconds: float) -> Iterator[str]:
    """A line an utterance: how long and loud it is, its tokens, its loss, and what is suspect."""
    batch, losses = tally.batch, tally.losses.tolist() or [None] * tally.batch.size
    for i, name in enumerate(batch.ids):
        x = batch.audio[i, : int(batch.audio_lens[i])].float()
        odd, sound = int((~x.isfinite()).sum()), x[x.isfinite()]
        peak = float(sound.abs().max()) if len(sound) else 0.0
        level = float(sound.square().mean().sqrt()) if len(sound) else 0.0
        clipped = clipped_share(sound[:, None].numpy()) if len(sound) else 0.0
        seconds, tokens = len(x) / batch.sample_rate, int(batch.token_lens[i])
        frames = int(seconds / frame_seconds)
        suspect = {
            f"{odd} SAMPLES ARE NOT FINITE": odd, "SILENT": peak < SILENT,
            f"{clipped:.1%} CLIPPED": clipped > CLIPPED, "BEYOND FULL SCALE": peak > 1.5,
            "MORE TOKENS THAN FRAMES": tokens > frames, "NO TOKENS": tokens == 0 and len(tally.losses) > 0,
        }  # fmt: skip
        loss = "" if losses[i] is None else f", loss {losses[i]:.4g}"
        words = "".join(f", {what}" for what, so in suspect.items() if so)
        yield (
            f"audio: {name}: {seconds:.2f} s ({frames} frames), {tokens} tokens, peak {peak:.3g}, "
            f"rms {level:.2g}{loss}{words}"
        )


def weight_lines(model: nn.Module) -> Iterator[str]:
    """Parameters and buffers that are not finite, or larger than `LARGE`."""
    named: list[tuple[str, str, Tensor]] = [("parameter", *item) for item in model.named_parameters()]
    named += [("buffer", *item) for item in model.named_buffers()]
    lines = []
    for kind, name, x in named:
        if not x.is_floating_point() or not x.numel():
            continue
        if not bool(x.isfinite().all()):
            by = ", which the failed step itself may have updated" if "running_" in name else ""
            lines.append(f"{kind}: {name} is not finite, {described(x)}{by}")
        elif float(x.detach().abs().max()) > LARGE:
            lines.append(f"{kind}: {name} is above {LARGE:g}, {described(x)}")
    yield from shortened(lines) or [f"weights: all are finite and within {LARGE:g}"]


def shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST else [*lines[:MOST], f"... and {len(lines) - MOST} more"]


def norm_lines(model: nn.Module) -> Iterator[str]:
    """The modules whose own parameters have the largest gradients, those that are not finite first."""
    norms = []
    for name, module in model.named_modules():
        own = [p.grad.float().norm() for p in module.parameters(recurse=False) if p.grad is not None]
        if own:
            norms.append((float(torch.stack(own).norm()), name))
    norms.sort(key=lambda item: (item[0] == item[0], -item[0]))  # nan is not itself
    for norm, name in norms[:NORMS]:
        yield f"gradient norm: {norm:.4g} {name}"


def forward(model: SpeechModel, tally: Tally, failure: Failure, device: torch.device) -> Losses:
    """The losses of a batch, with all that is random as it was."""
    restore_random(tally.random, device)
    omega = torch.Generator()
    omega.set_state(tally.omega)
    set_loss_scale(model, failure.scale)
    with torch.autocast(device.type, torch.bfloat16) if failure.bf16 else nullcontext():
        losses: Losses = model(tally.batch.to(device), omega)
    return losses


def look(model: SpeechModel, tally: Tally, failure: Failure, device: torch.device) -> tuple[list[str], bool]:
    """Forward and backward of one batch: lines, and whether all was finite."""
    model.zero_grad(set_to_none=True)
    with ModuleTrace(model) as trace:
        losses = forward(model, tally, failure, device)
        if trace.forward is not None and not _only_losses(trace.forward):
            return [f"forward: the first output that is not finite is of {trace.forward}"], False
        odd = [f"{n} {described(x)}" for n, x in tensors(losses, "loss") if bool(x.isnan().any())]
        if odd:
            return ["forward: all modules' outputs are finite, losses are not: " + "; ".join(odd)], False
        usable = losses.total.isfinite()
        (losses.total.masked_fill(~usable, 0.0).sum() * failure.scale).backward()
    lines = ["forward: all outputs are finite"]
    if not bool(usable.all()):
        lines.append(f"forward: {int((~usable).sum())} texts do not fit their audio (infinite losses)")
    norms = list(norm_lines(model))
    if trace.backward is not None:
        lines.append(f"backward: the first gradient that is not finite is of {trace.backward}")
        lines += [f"backward: {word}" for word in anomaly(model, tally, failure, device)]
    else:
        lines.append("backward: all gradients are finite")
    return lines + norms, trace.backward is None


def _only_losses(wild: Wild) -> bool:
    """Whether it is the model's own output, its losses, of which an infinite one means a text too long."""
    return wild.module == ""


def anomaly(model: SpeechModel, tally: Tally, failure: Failure, device: torch.device) -> list[str]:
    """The operation that autograd names, which is sure of nan alone."""
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("ignore")
        losses = forward(model, tally, failure, device).total
        try:
            (losses.masked_fill(~losses.isfinite(), 0.0).sum() * failure.scale).backward()
        except RuntimeError as error:
            return [str(error).splitlines()[0]]
    return []


def load(path: Path) -> tuple[SpeechModel, Any]:
    """The model of a checkpoint and its tokenizer."""
    loaded = load_checkpoint(path)
    return build(loaded), loaded.tokenizer


def diagnose_run(run: Path, device: torch.device) -> tuple[list[str], bool]:
    """Repeat the step at which a run stopped with NotFinite: lines, and whether all is finite this time."""
    failures = kept(run)
    if not failures:
        raise MayaError(f"{run / FOLDER} holds no batch: copy the rank-*.pt of all machines of the run there")
    model, _ = load(run / FOLDER / MODEL)
    model.to(device).train()
    lines = list(weight_lines(model))
    for failure in failures:
        model.freeze(failure.frozen)
        model.begin_step(failure.step, failure.batch_count)
        for tally in failure.tallies:
            batch, precision = tally.batch, "bf16" if failure.bf16 else "fp32"
            lines.append(
                f"step {failure.step}, {failure.what}, rank {failure.rank}: {batch.size} utterances × "
                f"{batch.audio.shape[1] / batch.sample_rate:.1f} s on {failure.device}, {precision}; "
                f"now on {device.type}"
                + ("" if failure.device == device.type else ", so with other masks and dropout")
            )
            lines += shortened(list(audio_lines(tally, model.frame_seconds)))
            looked, finite = look(model, tally, failure, device)
            lines += looked
            if not finite:
                return lines, False
    return lines, True


def diagnose_audio(path: Path, audio: list[Path], text: str, device: torch.device) -> tuple[list[str], bool]:
    """Run a model on recordings as for decoding; with a text, the losses and their backward pass, too."""
    model, tokenizer = load(path)
    model.to(device).eval()
    tokens = tokenizer.encode(text)
    rate = model.cfg.features.sample_rate
    samples, names = [load_audio(p, rate) for p in audio], [str(p) for p in audio]
    labels = {name: [None] * len(audio) for name in model.cfg.needs}  # not known
    batch: Batch = make_batch(
        samples, [tokens] * len(audio), [-1] * len(audio), names, sample_rate=rate, labels=labels
    )
    tally = Tally.before(batch, torch.Generator(), device)
    failure = Failure(
        step=model.step, what="", rank=0, device=device.type, bf16=False, scale=1.0, batch_count=0.0,
        frozen=[], tallies=[tally],
    )  # fmt: skip
    lines = [*weight_lines(model), *audio_lines(tally, model.frame_seconds)]
    if tokens:
        looked, finite = look(model, tally, failure, device)
        return lines + looked, finite
    with ModuleTrace(model) as trace, torch.no_grad():
        enc = model.encode_audio(batch.audio.to(device), batch.audio_lens.to(device)).frames
    if trace.forward is not None:
        return [*lines, f"forward: the first output that is not finite is of {trace.forward}"], False
    return [*lines, f"forward: all outputs of the encoder are finite; encoder output {described(enc)}"], True
