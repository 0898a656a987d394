"""An experiment: everything a run depends on, in one typed value that travels through JSON."""

from dataclasses import field
from typing import Annotated, Any, Literal

from maya.config import config, override
from maya.data.loading.augment import AugmentConfig
from maya.data.plan import PlanConfig
from maya.data.prepare.prepare import PrepareConfig
from maya.decode.attention_rescoring import RescoringConfig
from maya.decode.ctc_beam import BeamConfig
from maya.errors import MayaError
from maya.models.hybrid import HybridConfig, build_model, with_vocabulary
from maya.models.text_heads import Head
from maya.ranges import Count, Distinct, Finite, NonNegFloat, NotEmpty, PosFloat, PosInt, Share
from maya.recipes.experiment_file import make_experiment
from maya.text.languages import LANGUAGES, language_code
from maya.text.tokenizer import TokenizerConfig
from maya.train.loop import TrainConfig

__all__ = ["DataConfig", "DecodeConfig", "Experiment", "build_model", "load_experiment", "with_vocabulary"]


class _SpokenLanguage:
    """The constraint of a language: whatever `language_code` reads."""

    def allows(self, value: str) -> bool:
        try:
            return bool(language_code(value))
        except MayaError:
            return False

    def __str__(self) -> str:
        return "the code or the name of a language, such as hi, sat, en-IN or Hindi"


LanguageName = Annotated[str, _SpokenLanguage()]


@config
class DataConfig:
    """Where training data come from, and how they become batches.

    source: "table" is what `maya prepare` wrote; "lhotse" is the CutSet of `cuts`, without a table. cuts,
    dev_cuts: manifests of cuts (.jsonl, .jsonl.gz), Shar folders, or functions that return a CutSet
    (./mine.py:train_cuts, package.module:train_cuts), which get the number of the pass if they have an
    argument `epoch`. Several are mixed by lhotse's CutSet.mux with `cuts_weights`.
    sampler: of lhotse cuts. "plan" plans as for a table and reads the cuts once; "stream" sorts the cuts of a
    stream in a reservoir of `buffer_cuts`, under the same caps; "dynamic_bucketing" is lhotse's.
    """

    source: Literal["table", "lhotse"] = "table"
    cuts: tuple[str, ...] = ()
    cuts_weights: tuple[PosFloat, ...] = ()
    dev_cuts: tuple[str, ...] = ()
    sampler: Literal["plan", "stream", "dynamic_bucketing"] = "plan"
    buffer_cuts: PosInt = 20_000
    plan: PlanConfig = field(default_factory=PlanConfig)
    num_workers: Count = 0  # 0: a background thread reads ahead
    cache_gb: NonNegFloat = 0.0  # decoded audio kept in memory, for small corpora of compressed files
    # Factors, one of which is drawn per utterance and epoch.
    speed_perturb: Annotated[tuple[PosFloat, ...], NotEmpty()] = (1.0,)
    # Training leaves out utterances that are shorter or longer than this, before any change of speed.
    min_seconds: NonNegFloat = 0.0
    max_seconds: NonNegFloat = 0.0  # 0 is no limit
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    max_skipped: Share = 0.001  # share of the utterances that may turn out unreadable while training
    timeout_seconds: NonNegFloat = 1800.0  # without a batch, after which training stops; 0 waits for ever
    valid_utterances: Count = 0  # per language, of the dev set, while training; 0 takes all


@config
class DecodeConfig:
    """How a part is decoded.

    auto: the best on dev of the model's trained heads, that is transducer, ctc or attention. transducer, ctc:
    greedily. modified_beam: the transducer (not TDT), several hypotheses a frame. ctc_beam: CTC's prefixes,
    with an n-gram of the training texts. attention_rescoring: CTC's best texts, of which the attention
    decoder chooses. attention: the attention decoder alone.
    """

    method: Literal[
        "auto", "transducer", "modified_beam", "ctc", "ctc_beam", "attention_rescoring", "attention"
    ] = "auto"
    max_seconds: PosFloat = 120.0  # padded audio per batch
    max_symbols: PosInt = 10  # tokens on one frame
    hypotheses: PosInt = 4  # of modified_beam and attention
    blank_penalty: Finite = 0.0  # nats, of modified_beam: more against deletions
    beam: BeamConfig = field(default_factory=BeamConfig)
    rescoring: RescoringConfig = field(default_factory=RescoringConfig)
    lm_order: Count = 6  # of ctc_beam's n-gram model of the training texts; 0: none
    # What the model is told: the language of the transcript, the one it identifies itself, or nothing.
    language: Literal["known", "auto", "unknown"] = "known"
    fast_weight_updates: bool = True  # False: LaCT's fast weights learn nothing while they decode

    @property
    def head(self) -> Head | None:
        """The head that validation chooses weights by; None with "auto": the best of those trained."""
        if self.method == "auto":
            return None
        if self.method in ("transducer", "modified_beam"):
            return "transducer"
        return "attention" if self.method == "attention" else "ctc"


@config
class Experiment:
    """One experiment. A file under egs/ returns one from `experiment()`; `--set a.b=c` changes its fields.

    languages: ISO 639 codes, of any languages. Utterances in others are left out when a corpus is prepared,
    and counted.
    """

    name: str
    languages: Annotated[tuple[LanguageName, ...], Distinct(empty=False)] = tuple(LANGUAGES)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: HybridConfig = field(default_factory=HybridConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


def load_experiment(name: str, overrides: list[str], *, llm: bool = False) -> Any:
    """The experiment of a file (./mine.py), a module (egs.indic12.mini) or a bare name (mini), with overrides
    applied: an `Experiment`, or where `llm` says that it may, an `LLMExperiment` of maya.recipes.speech_llm.

    Raises MayaError for a file that is missing or wrong, see `make_experiment`, and for a wrong override.
    """
    experiment = make_experiment(name)
    if not isinstance(experiment, Experiment):
        from maya.recipes.speech_llm import LLMExperiment  # noqa: PLC0415  it imports this file

        if not isinstance(experiment, LLMExperiment):
            kind = type(experiment).__name__
            raise MayaError(f"experiment() of {name} returns {kind}, which is not an Experiment; return one")
        if not llm:
            raise MayaError(
                f"{name} has a language model as decoder, which this command cannot use: after "
                "`maya prepare` come `maya llm train`, `maya llm decode` and `maya score`"
            )
    for assignment in overrides:
        override(experiment, assignment)
    experiment.languages = tuple(dict.fromkeys(map(language_code, experiment.languages)))
    return experiment
