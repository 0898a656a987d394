"""An experiment: everything a run depends on, in one typed value that travels through JSON."""

import importlib
import sys
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from maya.config import config, override
from maya.data.augment import AugmentConfig
from maya.data.plan import PlanConfig
from maya.data.prepare import PrepareConfig
from maya.decode.attention_rescoring import RescoringConfig
from maya.decode.ctc_beam import BeamConfig
from maya.decode.recognizer import Method
from maya.errors import MayaError
from maya.models.hybrid import HybridConfig, build_model, with_vocabulary
from maya.text.languages import LANGUAGES, language_code
from maya.text.tokenizer import TokenizerConfig
from maya.train.loop import TrainConfig

__all__ = ["DataConfig", "DecodeConfig", "Experiment", "build_model", "load_experiment", "with_vocabulary"]


@config
class DataConfig:
    """How cuts become batches while training."""

    plan: PlanConfig = field(default_factory=PlanConfig)
    num_workers: int = 0  # 0: a background thread reads ahead
    cache_gb: float = 0.0  # decoded audio kept in memory, for small corpora of compressed files
    speed_perturb: tuple[float, ...] = (1.0,)  # factors, one of which is drawn per utterance and epoch
    min_seconds: float = 0.0  # training leaves out utterances that are shorter, before any change of speed,
    max_seconds: float = 0.0  # or longer; 0 is no limit
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    max_skipped: float = 0.001  # share of the utterances that may turn out unreadable while training
    timeout_seconds: float = 1800.0  # without a batch, after which training stops; 0 waits for ever
    valid_utterances: int = 0  # per language, of the dev set, while training; 0 takes all


@config
class DecodeConfig:
    """How a part is decoded.

    transducer, ctc: greedily. modified_beam: the transducer (not TDT), several hypotheses a frame. ctc_beam:
    CTC's prefixes, with an n-gram of the training texts. attention_rescoring: CTC's best texts, of which the
    attention decoder chooses. attention: the attention decoder alone.
    """

    method: Literal["transducer", "modified_beam", "ctc", "ctc_beam", "attention_rescoring", "attention"] = (
        "transducer"
    )
    max_seconds: float = 120.0  # padded audio per batch
    max_symbols: int = 10  # tokens on one frame
    hypotheses: int = 4  # of modified_beam and attention
    blank_penalty: float = 0.0  # nats, of modified_beam: more against deletions
    beam: BeamConfig = field(default_factory=BeamConfig)
    rescoring: RescoringConfig = field(default_factory=RescoringConfig)
    lm_order: int = 6  # of ctc_beam's n-gram model of the training texts; 0: none
    # What the model is told: the language of the transcript, the one it identifies itself, or nothing.
    language: Literal["known", "auto", "unknown"] = "known"
    fast_weight_updates: bool = True  # False: LaCT's fast weights learn nothing while they decode

    @property
    def greedy(self) -> Method:
        """The method without a search, for validation."""
        return "transducer" if self.method in ("transducer", "modified_beam") else "ctc"


@config
class Experiment:
    """One experiment. A file under egs/ returns one from `experiment()`; `--set a.b=c` changes its fields.

    languages: ISO 639 codes, of any languages. Utterances in others are left out when a corpus is prepared,
    and counted.
    """

    name: str
    languages: tuple[str, ...] = tuple(LANGUAGES)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: HybridConfig = field(default_factory=HybridConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


def load_experiment(name: str, overrides: list[str], *, llm: bool = False) -> Any:
    """The experiment of a module (egs.indic12.mini) or file (egs/indic12/mini.py), with overrides applied: an
    `Experiment`, or where `llm` says that it may, an `LLMExperiment` of maya.recipes.speech_llm.

    Raises MayaError for a module that is not there or has no `experiment()`, and for a wrong override.
    """
    module_name = name.removesuffix(".py").strip("/").replace("/", ".")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # egs/ is not installed: it is found from the top of the tree
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        if e.name and module_name.startswith(e.name):
            raise MayaError(
                f"there is no experiment {name!r}: expected a module such as egs.indic12.mini"
            ) from e
        raise
    if not hasattr(module, "experiment"):
        raise MayaError(f"{module_name} has no function experiment()")
    experiment = module.experiment()
    if not isinstance(experiment, Experiment) and not llm:
        raise MayaError(
            f"{name} has a language model as decoder, which this command does not know: after `maya prepare` "
            "come `maya llm train`, `maya llm decode` and `maya score`"
        )
    for assignment in overrides:
        override(experiment, assignment)
    experiment.languages = tuple(dict.fromkeys(map(language_code, experiment.languages)))
    return experiment
