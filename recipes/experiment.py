"""An experiment: everything a run depends on, in one typed value that travels through JSON."""

from collections.abc import Iterable
from dataclasses import field
from typing import Annotated, Any, Literal

from maya.config import config, override
from maya.data.loading.augment import AugmentConfig
from maya.data.loading.meetings import MeetingConfig
from maya.data.loading.mixing import MixingConfig
from maya.data.plan import PlanConfig
from maya.data.prepare.config import PrepareConfig
from maya.decode.base import MethodConfig
from maya.decode.lm.fusion_config import FusionConfig
from maya.decode.methods import AUTO, METHODS, default_options, head_of_method
from maya.decode.table import LanguageSource
from maya.errors import MayaError
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import build_model
from maya.ranges import Count, Distinct, NonNegFloat, NotEmpty, PosFloat, PosInt, Share
from maya.recipes.experiment_file import make_experiment
from maya.text.languages import LANGUAGES, language_code
from maya.text.tokenizer import TokenizerConfig
from maya.train.config import TrainConfig

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
    mixing: MixingConfig = field(
        default_factory=MixingConfig
    )  # mixtures of speakers, of a table's utterances
    meetings: MeetingConfig = field(default_factory=MeetingConfig)  # of them, in the place of mixtures
    max_skipped: Share = 0.001  # share of the utterances that may turn out unreadable while training
    timeout_seconds: NonNegFloat = 1800.0  # without a batch, after which training stops; 0 waits for ever
    valid_utterances: Count = 0  # per language, of the dev set, while training; 0 takes all

    @property
    def mixtures(self) -> MixingConfig | MeetingConfig:
        """What an utterance becomes: a mixture, a meeting, or neither where both are off."""
        return self.meetings if self.meetings.on else self.mixing


@config
class DecodeConfig:
    """How utterances are decoded.

    method: a name in `maya.decode.methods.METHODS`, or a text head's name for its greedy method. "auto" is
    the greedy method of the trained head that is best on dev, unless options of that method are set. methods:
    the options of each method, such as `decode.methods.ctc_beam.lm_order`. fusion: language models and hot
    words, such as `decode.fusion.lm`.
    """

    method: str = AUTO
    methods: dict[str, MethodConfig] = field(default_factory=default_options)
    max_seconds: PosFloat = 120.0  # padded audio per batch
    # The language to decode in: that of the transcript, the one that the model identifies, or none.
    language: LanguageSource = "known"
    fusion: FusionConfig = field(default_factory=FusionConfig)
    fast_weight_updates: bool = True  # False: LaCT's fast weights learn nothing while they decode

    def options(self, method: str) -> MethodConfig:
        """The options of a method."""
        return self.methods.get(method) or METHODS[method]()


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
    model: SpeechModelConfig = field(default_factory=SpeechModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)

    @property
    def decoding_head(self) -> str | None:
        """The text head by which training chooses weights, see `head_of_method`."""
        return head_of_method(self.decode.method, self.model)


def load_experiment(name: str, overrides: list[str]) -> Experiment:
    """The experiment of a file (./mine.py), a module (egs.indic12.mini) or a bare name (mini), with overrides
    applied. Each may be followed by :FUNCTION.

    Raises MayaError for a file that is missing or wrong, see `make_experiment`, and for a wrong override.
    """
    experiment = make_experiment(name)
    if not isinstance(experiment, Experiment):
        kind = type(experiment).__name__
        raise MayaError(f"experiment() of {name} returns {kind}, which is not an Experiment; return one")
    return apply_overrides(experiment, overrides)


def apply_overrides(experiment: Any, overrides: Iterable[str]) -> Any:
    """`experiment`, changed by assignments NAME=VALUE; its languages become codes."""
    for assignment in overrides:
        override(experiment, assignment)
    experiment.languages = tuple(dict.fromkeys(map(language_code, experiment.languages)))
    return experiment
