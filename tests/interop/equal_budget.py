"""WER after the same processor time: our encoders beside NeMo's FastConformer and icefall's Zipformer.

    python -m tests.interop.equal_budget train --system SYSTEM --data DATA --tokenizer FILE --out FILE.json
    python -m tests.interop.equal_budget report FILE.json
    python -m tests.interop.equal_budget rover FILE.json --systems NAME NAME NAME

SYSTEM is maya-fastconformer, nemo-fastconformer (needs NeMo), maya-zipformer or icefall-zipformer (needs
`--icefall CHECKOUT`). All have the same size, features, masks, cuts, CTC head and rates. Each encoder begins
with its own project's random weights, and Zipformers learn with their own project's ScaledAdam. One thread.
The schedule runs on the processor time spent (`--minutes`), or on batches (`--steps`).

k2 has no wheel for this torch, so torch's formulas stand in for its activations. icefall's encoder is slower
for it: its WER after equal steps belongs beside that after equal minutes.
"""

import argparse
import importlib
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maya.data.loading.batch import Batch
from maya.data.loading.loader import EvalLoader, Utterances
from maya.data.plan.config import Position
from maya.data.table.table import Table, part_path
from maya.decode.hypothesis import Word
from maya.decode.methods import greedy
from maya.encoders import Encoded, FastConformerConfig, ZipformerConfig
from maya.heads import CTCConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import SpeechModel, build_model, count_parameters
from maya.pages import columns
from maya.recipes.experiment import Experiment
from maya.recipes.train import table_input
from maya.score.rover import rover
from maya.score.wer import Comparison, Interval, macro_average, macro_compare, wer
from maya.text.load import load_tokenizer
from maya.text.tokenizer import Tokenizer
from maya.train.accelerator import make_accelerator
from maya.train.optimizers.eden import adjusted_steps
from maya.train.optimizers.optim import make_optimizer
from tests.interop import check_icefall
from tools.bench.common import finish, parser_of

SYSTEMS = ("maya-fastconformer", "nemo-fastconformer", "maya-zipformer", "icefall-zipformer")
_RATES = {"fastconformer": 3e-3, "zipformer": 0.04}  # those of egs/digits
_WARMUP = 0.04  # share of the budget


def experiment(kind: str) -> Experiment:
    """The model, data and rates of a kind of encoder; its only head is CTC."""
    exp: Experiment = importlib.import_module("egs.digits.digits").experiment()
    if kind == "zipformer":
        exp = importlib.import_module("egs.digits.zipformer").experiment()
        # icefall's front end and output rate are fixed.
        exp.model.encoder = ZipformerConfig(
            feat_in=40, downsampling=(1, 2, 4, 2), layers=(1, 1, 1, 1), dims=(64, 80, 96, 80),
            unmasked_dims=(48, 64, 64, 64), ff_dims=(160, 176, 208, 192), heads=(4, 4, 4, 4),
            conv_kernels=(31, 15, 15, 15), query_head_dim=16, value_head_dim=8, dropout=0.05,
        )  # fmt: skip
    exp.model.heads = {"ctc": CTCConfig(dropout=0.1)}
    exp.model.language_embedding = False
    exp.train.threads, exp.train.encoder_hold = 1, 0
    return exp


class PeerEncoder(nn.Module):
    """Another project's encoder in the place of ours. run: features (B, T, F), lens (B,) → frames (B, S, D),
    their lens (B,)."""

    def __init__(self, module: nn.Module, run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.module, self.run = module, run
        self.quick_layers = False

    def blocks(self) -> list[nn.Module]:
        return []  # all layers learn at one rate

    def forward(self, feats: Tensor, lens: Tensor, **_: Any) -> Encoded:
        frames, frame_lens = self.run(feats, lens)
        used = torch.arange(frames.shape[1]) < frame_lens[:, None]
        return Encoded(frames * used[..., None], frame_lens.long())


def nemo_encoder(cfg: FastConformerConfig) -> PeerEncoder:
    from nemo.collections.asr.modules import ConformerEncoder

    from maya.convert.nemo.export import encoder_section

    options = {key: value for key, value in encoder_section(cfg).items() if key != "_target_"}
    module = ConformerEncoder(**options)

    def run(feats: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        frames, frame_lens = module(audio_signal=feats.mT, length=lens)
        return frames.mT, frame_lens

    return PeerEncoder(module, run)


def icefall_encoder(cfg: ZipformerConfig, checkout: Path) -> PeerEncoder:
    names = ("zipformer", "subsampling")
    zipformer, subsampling = (check_icefall.icefall_file(checkout, name) for name in names)
    module = nn.Module()
    module.embed = subsampling.Conv2dSubsampling(cfg.feat_in, cfg.dims[0], dropout=zipformer.ScheduledFloat(
        (0.0, cfg.dropout), (20000.0, cfg.dropout)))  # fmt: skip
    module.encoder = zipformer.Zipformer2(
        output_downsampling_factor=cfg.output_downsampling, downsampling_factor=cfg.downsampling,
        num_encoder_layers=cfg.layers, encoder_dim=cfg.dims, encoder_unmasked_dim=cfg.unmasked_dims,
        query_head_dim=cfg.query_head_dim, pos_head_dim=cfg.pos_head_dim, value_head_dim=cfg.value_head_dim,
        pos_dim=cfg.pos_dim, num_heads=cfg.heads, feedforward_dim=cfg.ff_dims,
        cnn_module_kernel=cfg.conv_kernels, dropout=cfg.dropout, warmup_batches=cfg.warmup_batches,
    )  # fmt: skip

    def run(feats: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        x, x_lens = module.embed(feats, lens)
        mask = torch.arange(x.shape[1]) >= x_lens[:, None]
        frames, frame_lens = module.encoder(x.transpose(0, 1), x_lens, mask)
        return frames.transpose(0, 1), frame_lens

    return PeerEncoder(module, run)


def optimizer_of(model: SpeechModel, exp: Experiment, args: argparse.Namespace) -> torch.optim.Optimizer:
    if not args.system.startswith("icefall"):
        return make_optimizer(model, exp.train)
    module = check_icefall.icefall_file(args.icefall, "optim")
    named = [[(name, p) for name, p in model.named_parameters() if p.requires_grad]]
    groups = [{"named_params": parameters} for parameters in named]
    optimizer: torch.optim.Optimizer = module.ScaledAdam(groups, lr=exp.train.lr, clipping_scale=2.0)
    return optimizer


def train(args: argparse.Namespace) -> dict[str, Any]:
    kind = args.system.split("-")[1]
    exp, tokenizer = experiment(kind), load_tokenizer(args.tokenizer)
    exp.train.lr = args.rate or exp.train.lr
    exp.train.seed = args.seed
    exp.model = with_vocabulary(exp.model, tokenizer.vocab_size, exp.languages)
    run = args.out.parent / f"{args.system}-{args.seed}"
    run.mkdir(parents=True, exist_ok=True)
    given = table_input(exp, args.data, run, tokenizer, make_accelerator(exp.train, cpu=True))
    torch.manual_seed(args.seed)
    model = build_model(exp.model)
    if args.system.startswith("nemo"):
        model.encoder = nemo_encoder(exp.model.encoder)  # type: ignore
    elif args.system.startswith("icefall"):
        model.encoder = icefall_encoder(exp.model.encoder, args.icefall)  # type: ignore
    spent, steps = learn(model, optimizer_of(model, exp, args), given.batches(Position(0, 0)), exp, args)
    rows = recognise(model, exp, args.data, tokenizer)
    return {
        "system": args.system, "seed": args.seed, "rate": exp.train.lr, "minutes": spent / 60,
        "steps": steps, "rows": rows, "parameters": count_parameters(model),
    }  # fmt: skip


def learn(
    model: SpeechModel, optimizer: torch.optim.Optimizer, batches: Iterator[tuple[Position, Batch]],
    exp: Experiment, args: argparse.Namespace,
) -> tuple[float, int]:  # fmt: skip
    """Train until the budget is spent; returns (processor seconds, steps)."""
    model.train()
    began, steps, cfg = time.process_time(), 0, exp.train
    while True:
        spent = time.process_time() - began
        share = steps / args.steps if args.steps else spent / (60 * args.minutes)
        if share >= 1:
            return spent, steps
        _, batch = next(batches)
        rate = min(share / _WARMUP, 1.0) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = max(cfg.lr * rate, 1e-3 * cfg.lr) * group.get("scale", 1.0)
        count = adjusted_steps(
            steps, batch_seconds=exp.data.plan.max_seconds, reference_seconds=cfg.regularizer_seconds
        )
        model.begin_step(steps, count)
        for module in model.encoder.modules():
            if hasattr(module, "batch_count"):  # icefall's
                module.batch_count = count
        losses = model(batch).total
        usable = losses.isfinite()
        (losses[usable].sum() / batch.token_lens.sum().clamp(min=1)).backward()
        if cfg.optimizer != "scaled_adam":
            nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        if steps % 100 == 0:
            mean = float(losses.detach()[usable].mean())
            line = f"{args.system} seed {args.seed} step {steps}  {share:.0%}  loss {mean:.3f}"
            print(line, file=sys.stderr, flush=True)


@torch.inference_mode()
def recognise(
    model: SpeechModel, exp: Experiment, data: Path, tokenizer: Tokenizer
) -> list[tuple[str, str, str, str]]:
    """Id, language, text and hypothesis of every test utterance."""
    model.eval()
    table = Table.open(part_path(data, "test"))
    entries = {entry.id: entry for entry in table.entries()}
    utterances = Utterances.from_table(table, tokenizer, exp.languages)
    rate = exp.model.features.sample_rate
    rows = []
    for batch in EvalLoader(utterances, tokenizer, exp.languages, sample_rate=rate, max_seconds=60.0):
        hyps = greedy(model, model.encode_audio(batch.audio, batch.audio_lens), "ctc")
        for name, hyp in zip(batch.ids, hyps, strict=True):
            rows.append((name, entries[name].language, entries[name].text, tokenizer.decode(hyp.tokens)))
    return rows


def report(path: Path) -> str:
    """A row a system: macro WER of each seed, and of all seeds together with its interval over utterances."""
    by_system: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for result in json.loads(path.read_text()).values():
        by_system[result["system"], result["rate"]].append(result)
    table = [["system", "rate", "parameters", "minutes", "steps", "macro WER of the seeds", "all [95 %]"]]
    for system, rate in sorted(by_system, key=lambda key: (SYSTEMS.index(key[0]), -key[1])):
        runs = sorted(by_system[system, rate], key=lambda r: r["seed"])
        mean, limits = macro([row for r in runs for row in r["rows"]])
        values = (mean, limits.low, limits.high)
        means = {key: statistics.mean(r[key] for r in runs) for key in ("minutes", "steps")}
        table.append([
            system, f"{rate:g}", f"{runs[0]['parameters'] / 1e6:.2f} M",
            f"{means['minutes']:.1f}", f"{means['steps']:.0f}",
            ", ".join(f"{100 * macro(r['rows'])[0]:.1f}" for r in runs),
            "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in values)),
        ])  # fmt: skip
    return "\n".join(columns(table))


def macro(rows: list[tuple[str, str, str, str]]) -> tuple[float, Interval]:
    """The mean of the languages' WERs and its interval; an utterance's seeds are drawn together."""
    parts = {code: [row for row in rows if row[1] == code] for code in sorted({row[1] for row in rows})}
    stats = {code: wer([r[2] for r in part], [r[3] for r in part]) for code, part in parts.items()}
    return macro_average(stats, blocks={code: [r[0] for r in part] for code, part in parts.items()})


def vote(path: Path, systems: list[str]) -> str:
    """ROVER of systems, the best first, each seed by itself, beside each of them: macro WER of the seeds, all
    together with its interval over utterances, and the paired difference of ROVER."""
    results = json.loads(path.read_text())
    chosen = {name: sorted((r for r in results.values() if _is(name, r)), key=lambda r: r["seed"])
              for name in systems}  # fmt: skip
    runs: dict[str, list[list[Any]]] = {name: [r["rows"] for r in rs] for name, rs in chosen.items()}
    if len({len(rows) for rows in runs.values()}) != 1 or not runs[systems[0]]:
        sys.exit(f"{path} lacks seeds of {' '.join(systems)}")
    voted = []
    for seeds in zip(*runs.values(), strict=True):
        tables = [{row[0]: row[3] for row in rows} for rows in seeds]
        words = {key: [[Word(text=w) for w in t[key].split()] for t in tables] for key in tables[0]}
        texts = {key: " ".join(w.text for w in rover(each)) for key, each in words.items()}
        voted.append([[*row[:3], texts[row[0]]] for row in seeds[0]])
    pooled = {name: sorted(row for rows in seeds for row in rows) for name, seeds in runs.items()}
    together = sorted(row for rows in voted for row in rows)
    table = [["system", "macro WER of the seeds", "all [95 %]", "ROVER less this", "p"]]
    for name, seeds in [*runs.items(), ("ROVER", voted)]:
        mean, limits = macro([row for rows in seeds for row in rows])
        each = ", ".join(f"{100 * macro(rows)[0]:.1f}" for rows in seeds)
        line = [name, each, f"{100 * mean:.1f} [{100 * limits.low:.1f}, {100 * limits.high:.1f}]", "", ""]
        if name != "ROVER":
            test = _paired(pooled[name], together)
            low, high = (100 * x for x in (test.interval.low, test.interval.high))
            line[3:] = [f"{100 * test.difference:+.2f} [{low:+.2f}, {high:+.2f}]", f"{test.p_value:.3f}"]
        table.append(line)
    return "\n".join(columns(table))


def _is(name: str, result: dict[str, Any]) -> bool:
    """Whether a result is of the system `name`, SYSTEM or SYSTEM@RATE."""
    system, _, rate = name.partition("@")
    return bool(result["system"] == system and (not rate or result["rate"] == float(rate)))


def _paired(first: list[Any], second: list[Any]) -> Comparison:
    parts = []
    for rows in (first, second):
        codes = sorted({row[1] for row in rows})
        by_code = {code: [row for row in rows if row[1] == code] for code in codes}
        parts.append({code: wer([r[2] for r in own], [r[3] for r in own]) for code, own in by_code.items()})
    ids = {code: [row[0] for row in first if row[1] == code] for code in parts[0]}
    return macro_compare(*parts, blocks={code: (own, own) for code, own in ids.items()})


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("train")
    p.add_argument("--system", choices=SYSTEMS, required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--data", type=Path, required=True, help="what `maya prepare` wrote for egs/digits")
    p.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.model")
    p.add_argument("--minutes", type=float, default=4.0, help="processor time of training")
    p.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    p.add_argument("--rate", type=float, help="highest learning rate; default: that of egs/digits")
    p.add_argument("--icefall", type=Path, help="a checkout of icefall")
    p.add_argument("--out", type=Path, required=True)
    for name in ("report", "rover"):
        p = commands.add_parser(name)
        p.add_argument("results", type=Path)
    p.add_argument("--systems", nargs="+", required=True, help="SYSTEM or SYSTEM@RATE, the best first")
    args = parser.parse_args(argv)
    if args.command in ("report", "rover"):
        print(report(args.results) if args.command == "report" else vote(args.results, args.systems))
        return 0
    if args.system.startswith("icefall") and args.icefall is None:
        parser.error("icefall-zipformer needs --icefall CHECKOUT")
    command = " ".join(["python -m tests.interop.equal_budget", *(sys.argv[1:] if argv is None else argv)])
    name = f"{args.system}-{args.seed}" + (f"-{args.rate:g}" if args.rate else "")
    finish(train(args), name, command, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
