"""Stage 2: the training texts → a SentencePiece tokenizer, and a report of how it cuts each language."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maya.config import to_dict
from maya.data.alignable import FrameClock
from maya.data.report import columns
from maya.data.report_page import write_run_page
from maya.data.table import Table, part_path
from maya.data.token_table import TokenTable, token_path, write_tokens
from maya.encoders import ZipformerConfig
from maya.encoders.zipformer_front import LOST_FRAMES
from maya.errors import MayaError
from maya.features import FbankConfig
from maya.models.hybrid import HybridConfig
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, is_done, mark_done
from maya.text.fertility import fertility, fertility_report, fertility_table, without_piece
from maya.text.sample import gather
from maya.text.tokenizer import Tokenizer, train_tokenizer
from maya.train.runlog import write_json


def tokenizer(experiment: Experiment, data: Path, run: Path, *, force: bool = False) -> None:
    """Train `run`/tokenizer.model on the texts of `data`/train.parquet, and encode them into
    `run`/tokens_train.arrow; `run`/tokenizer.json tells of each language its share of the training text,
    fertility and unknown characters, on dev too, and `run`/data.html shows it below what the data hold."""
    table = Table.open(part_path(data, "train"))
    cfg = experiment.tokenizer
    inputs = {"data": content(data / "stage.json"), "options": to_dict(cfg)}
    if is_done(run / "stage-tokenizer.json", inputs) and (run / "tokenizer.model").is_file() and not force:
        print(f"tokenizer: {run / 'tokenizer.model'} is up to date")
        return
    sample = gather(table.read("language", "text"), lines_per_language=cfg.lines_per_language, seed=cfg.seed)
    made = train_tokenizer(sample, cfg)
    run.mkdir(parents=True, exist_ok=True)
    made.save(run / "tokenizer.model")
    languages = fertility(made, sample, cfg)
    clock = frame_clock(experiment.model, max(experiment.data.speed_perturb))
    crowded = count_crowded(table, write_tokens(token_path(run, "train"), table, made), clock)
    report = {
        "sha256": hashlib.sha256(made.model_bytes).hexdigest(),
        "options": to_dict(cfg),
        **fertility_report(made, languages, cfg),
        "unknown_characters_of_dev": unknown_shares(Table.open(part_path(data, "dev")), made),
        "too_few_frames": {"frame_seconds": clock.hop_samples * clock.subsampling / 16000, **crowded},
    }
    write_json(run / "tokenizer.json", report)
    page = write_run_page(data, run)
    shown = "tokenizer.json" + (f", {page.name}" if page else "")
    print(f"tokenizer: {made.vocab_size} pieces → {run / 'tokenizer.model'} (report: {shown})")
    print(columns(fertility_table(languages)))
    if short := sum(crowded["ctc"].values()):
        where = " ".join(f"{code} {n}" for code, n in crowded["ctc"].items())
        print(f"{short} utterances have fewer frames than CTC needs for their text: {where}")
    mark_done(run / "stage-tokenizer.json", inputs)


def unknown_shares(table: Table, tokenizer: Tokenizer) -> dict[str, float]:
    """By language, the share of the characters of a table's texts that have no piece of their own."""
    sample = gather(table.read("language", "text"), lines_per_language=1, seed=0)
    return {
        code: sum(without_piece(tokenizer, mine).values()) / mine.length
        for code, mine in sorted(sample.items())
    }


def frame_clock(cfg: HybridConfig, fastest: float) -> FrameClock:
    """The frames of a model whose audio is played at most `fastest` times as fast."""
    hop = round(cfg.features.sample_rate * cfg.features.hop_ms / 1000)
    extra, lost = 0, 0
    if isinstance(cfg.features, FbankConfig):
        extra = hop // 2
    elif cfg.features.legacy:
        extra = hop
    factor = cfg.encoder.subsampling_factor
    if isinstance(cfg.encoder, ZipformerConfig):
        lost = LOST_FRAMES + 1  # and of an odd number of what is left the last one too
    elif cfg.encoder.causal_downsampling:
        lost = 1 - factor
    return FrameClock(
        hop_samples=hop, subsampling=factor, fastest=fastest, extra_samples=extra, lost_frames=lost
    )


def count_crowded(table: Table, tokens: TokenTable, clock: FrameClock) -> dict[str, dict[str, int]]:
    """Utterances by language with fewer frames than tokens, and than CTC needs."""
    frames, (codes, languages) = clock.frames_of(table.durations), table.codes("language")

    def count(short: NDArray[np.bool_]) -> dict[str, int]:
        counts = np.bincount(codes[short], minlength=len(languages)).tolist()
        return {language: n for language, n in sorted(zip(languages, counts, strict=True)) if n}

    return {"transducer": count(tokens.counts > frames), "ctc": count(tokens.ctc_frames > frames)}


def require(path: Path, what_to_do: str) -> Path:
    """`path` if it exists, else MayaError."""
    if not path.exists():
        raise MayaError(f"{path} is missing; {what_to_do}")
    return path
