"""What a validation says: a clear improvement, overfitting, or nothing; and when to stop.

Each validation is compared with the last one that was clearly better than those before it, on the same
utterances, by a paired bootstrap. Small steps that only add up to an improvement are so found, too.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from maya.files import read_json, write_json
from maya.score.wer import Comparison, ErrorStats, macro_average, macro_compare
from maya.text.languages import UNKNOWN_LANGUAGE
from maya.train.checkpoints.state import Run, State
from maya.train.config import TrainConfig
from maya.train.distributed import gather_objects

REFERENCE = "validation-reference.json"
REPLICATES = 1000
NATS = 1000  # losses are kept in thousandths of a nat, so that sums are exact


@dataclass(frozen=True, kw_only=True, slots=True)
class DevUtterances:
    """The outcome of each utterance of a validation; all lists have one entry an utterance.

    groups: the language, or the true class, whose rates are averaged. errors, lengths: of the head that the
    error is of (characters), or 0/1 and 1 for a class. losses: in thousandths of a nat. units: tokens, or 1.
    """

    ids: list[str]
    groups: list[str]
    errors: list[int]
    lengths: list[int]
    losses: list[int]
    units: list[int]

    def rates(self, ids: set[str]) -> tuple[dict[str, ErrorStats], dict[str, list[str]]]:
        """The errors of each group and its ids, of some utterances. Utterances of an unknown language count
        only where there are no others."""
        rows = [
            row for row in zip(self.groups, self.ids, self.errors, self.lengths, strict=True) if row[1] in ids
        ]
        named = [row for row in rows if row[0] != UNKNOWN_LANGUAGE] or rows
        return _by_group(named)

    def loss(self, ids: set[str]) -> tuple[dict[str, ErrorStats], dict[str, list[str]]]:
        """The loss of all as one group, in the same form."""
        rows = zip(self.ids, self.losses, self.units, strict=True)
        return _by_group([("loss", name, loss, unit) for name, loss, unit in rows if name in ids])


def _by_group(rows: list[tuple[str, str, int, int]]) -> tuple[dict[str, ErrorStats], dict[str, list[str]]]:
    groups: dict[str, list[tuple[str, int, int]]] = {}
    for group, name, errors, length in sorted(rows):
        groups.setdefault(group, []).append((name, errors, length))
    stats = {
        group: ErrorStats(
            counts=np.array([[errors, 0, 0, length] for _, errors, length in entries], np.int64)
        )
        for group, entries in groups.items()
    }
    return stats, {group: [name for name, *_ in entries] for group, entries in groups.items()}


class DevScores(dict[str, float]):
    """The scores of a validation, with those of each utterance, where it has them."""

    utterances: DevUtterances | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The sentence for the log; and the figures for metrics.jsonl, where intervals exist."""

    text: str
    values: dict[str, float]


def ended_early(cfg: TrainConfig, state: State) -> bool:
    """Whether `train.patience` has ended the training."""
    return 0 < cfg.patience <= state.waited


def judge(run: Run, state: State, scores: dict[str, float], train_loss: float, *, anew: bool) -> Verdict:
    """Compare a validation with the reference, count in `state.waited` how many in a row were not clearly
    better, and keep it as the reference if it is.

    train_loss: the median of recent steps, NaN if unknown. anew: earlier validations do not count (another
    head, or another dev set). Alike on every rank.
    """
    verdict, waited = Verdict(text="", values={}), 0
    if run.log.main:
        path, now = run.folder / REFERENCE, getattr(scores, "utterances", None)
        before = {} if anew else read_json(path)
        if not before or before["step"] >= state.step:
            better, text, values = True, "", _interval(now)
        else:
            better, text, values = _compared(before, now, scores["error"], train_loss)
        if better:
            kept = asdict(now) if now is not None else None
            facts = {"step": state.step, "error": scores["error"], "train_loss": train_loss}
            write_json(path, facts | {"utterances": kept})
        waited = 0 if better else state.waited + 1
        verdict = Verdict(text=text, values=values)
    state.waited = gather_objects(waited)[0]
    return verdict


def _interval(now: DevUtterances | None) -> dict[str, float]:
    """The interval of the error, unless there are too few utterances."""
    if now is None:
        return {}
    _, interval = macro_average(now.rates(set(now.ids))[0], replicates=REPLICATES)
    return {} if math.isnan(interval.low) else {"error_low": interval.low, "error_high": interval.high}


def _compared(
    before: dict[str, Any], now: DevUtterances | None, error: float, train_loss: float
) -> tuple[bool, str, dict[str, float]]:
    """(whether the error is clearly lower than at the reference, a sentence, figures)."""
    then = DevUtterances(**before["utterances"]) if before["utterances"] else None
    if now is None or then is None:
        return error < before["error"], "", {}
    both = set(now.ids) & set(then.ids)
    errors, losses = (_difference(a, b) for a, b in ((then.rates(both), now.rates(both)),
                                                     (then.loss(both), now.loss(both))))  # fmt: skip
    low, high = errors.interval.low, errors.interval.high
    if math.isnan(low):
        return error < before["error"], "", {}
    values = _interval(now) | {"change": errors.difference, "change_low": low, "change_high": high}
    words = "clearly better" if high < 0 else "clearly worse" if low > 0 else "no clear change"
    text = f"error {100 * errors.difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] points since step "
    text += f"{before['step']}: {words}"
    learns = train_loss < before["train_loss"]  # False where one is NaN
    if high >= 0 and learns and (low > 0 or losses.interval.low > 0):
        rise = [x / NATS for x in (losses.difference, losses.interval.low, losses.interval.high)]
        text += (
            f". OVERFITTING: the loss on dev has changed by {rise[0]:+.3f} [{rise[1]:+.3f}, {rise[2]:+.3f}] "
            f"while that of training fell from {before['train_loss']:.3f} to {train_loss:.3f}"
        )
        values["overfitting"] = 1.0
    return high < 0, text, values


def _difference(then: tuple[dict, dict], now: tuple[dict, dict]) -> Comparison:
    blocks = {group: (ids, now[1][group]) for group, ids in then[1].items()}
    return macro_compare(then[0], now[0], blocks=blocks, replicates=REPLICATES)
