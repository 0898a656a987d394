"""Stage 2: the training texts → a SentencePiece tokenizer, and a report of how it cuts each language."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lhotse import CutSet

from maya.config import to_dict
from maya.data.alignable import FrameClock, ctc_frames
from maya.data.report import columns
from maya.errors import MayaError
from maya.models.hybrid import HybridConfig
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, is_done, mark_done
from maya.text.fertility import fertility, fertility_report, fertility_table, without_piece
from maya.text.sample import gather
from maya.text.tokenizer import Tokenizer, train_tokenizer
from maya.train.runlog import write_json

_CUTS_AT_ONCE = 4096


def tokenizer(experiment: Experiment, data: Path, run: Path, *, force: bool = False) -> None:
    """Train `run`/tokenizer.model on the texts of `data`/cuts_train.jsonl.gz; `run`/tokenizer.json tells of
    each language its share of the training text, fertility and unknown characters, on dev too."""
    cuts_path = require(data / "cuts_train.jsonl.gz", "run stage 1 (prepare) first")
    cfg = experiment.tokenizer
    inputs = {"data": content(data / "stage.json"), "options": to_dict(cfg)}
    if is_done(run / "stage-tokenizer.json", inputs) and (run / "tokenizer.model").is_file() and not force:
        print(f"tokenizer: {run / 'tokenizer.model'} is up to date")
        return
    sample = gather(texts_of(cuts_path), lines_per_language=cfg.lines_per_language, seed=cfg.seed)
    made = train_tokenizer(sample, cfg)
    run.mkdir(parents=True, exist_ok=True)
    made.save(run / "tokenizer.model")
    languages = fertility(made, sample, cfg)
    clock = frame_clock(experiment.model, max(experiment.data.speed_perturb))
    crowded = count_crowded(cuts_path, made, clock)
    report = {
        "sha256": hashlib.sha256(made.model_bytes).hexdigest(),
        "options": to_dict(cfg),
        **fertility_report(made, languages, cfg),
        "unknown_characters_of_dev": unknown_shares(data / "cuts_dev.jsonl.gz", made),
        "too_few_frames": {"frame_seconds": clock.hop_samples * clock.subsampling / 16000, **crowded},
    }
    write_json(run / "tokenizer.json", report)
    print(f"tokenizer: {made.vocab_size} pieces → {run / 'tokenizer.model'} (report: tokenizer.json)")
    print(columns(fertility_table(languages)))
    if short := sum(crowded["ctc"].values()):
        where = " ".join(f"{code} {n}" for code, n in crowded["ctc"].items())
        print(f"{short} utterances have fewer frames than CTC needs for their text: {where}")
    mark_done(run / "stage-tokenizer.json", inputs)


def texts_of(cuts_path: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every cut; one cut in memory at a time."""
    for cut in CutSet.from_file(cuts_path):
        supervision = cut.supervisions[0]
        yield supervision.language, supervision.text


def unknown_shares(cuts_path: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """By language, the share of the characters of these cuts that have no piece of their own."""
    sample = gather(texts_of(cuts_path), lines_per_language=1, seed=0)
    return {
        code: sum(without_piece(tokenizer, mine).values()) / mine.length
        for code, mine in sorted(sample.items())
    }


def frame_clock(cfg: HybridConfig, fastest: float) -> FrameClock:
    """The frames of a model whose audio is played at most `fastest` times as fast."""
    hop = round(cfg.features.sample_rate * cfg.features.hop_ms / 1000)
    return FrameClock(hop_samples=hop, subsampling=cfg.encoder.subsampling_factor, fastest=fastest)


def count_crowded(cuts_path: Path, tokenizer: Tokenizer, clock: FrameClock) -> dict[str, dict[str, int]]:
    """Utterances by language with fewer frames than tokens, and than CTC needs."""
    transducer: Counter[str] = Counter()
    ctc: Counter[str] = Counter()
    cuts = iter(CutSet.from_file(cuts_path))
    while some := list(itertools.islice(cuts, _CUTS_AT_ONCE)):
        encoded = tokenizer.encode_batch([cut.supervisions[0].text for cut in some])
        for cut, tokens in zip(some, encoded, strict=True):
            frames, language = clock.frames(cut.num_samples), cut.supervisions[0].language
            transducer[language] += len(tokens) > frames
            ctc[language] += ctc_frames(tokens) > frames
    return {"transducer": _present(transducer), "ctc": _present(ctc)}


def _present(counts: Counter[str]) -> dict[str, int]:
    return {language: n for language, n in sorted(counts.items()) if n}


def require(path: Path, what_to_do: str) -> Path:
    """`path` if it exists, else MayaError."""
    if not path.exists():
        raise MayaError(f"{path} is missing; {what_to_do}")
    return path
