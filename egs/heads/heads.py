"""Heads that hear more than words: language, digit words and their times, pitch, phonemes, punctuation.

Run:    ./egs/heads/run.sh --task language    (words, pitch, phonemes, check; a CPU is enough)
Cost and result: see RESULTS.md in this folder.
"""

from typing import Any, cast

from egs.digits.digits import experiment as digits
from maya.data.loading.augment import few_speakers
from maya.encoders import FastConformerConfig
from maya.features import LogMelConfig
from maya.heads import (
    CTCConfig,
    EventConfig,
    HeadConfig,
    LanguageConfig,
    PitchConfig,
    PunctuationConfig,
    UnitCTCConfig,
)
from maya.recipes import presets
from maya.recipes.experiment import Experiment

WRITTEN = ("as", "en", "hi", "ml", "or")  # languages with enough punctuation
LANGUAGES = ("as", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te")
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("શૂન્ય", "એક", "બે", "ત્રણ", "ચાર", "પાંચ", "છ", "સાત", "આઠ", "નવ"),
)


# The broad units of eSpeak's voices of the twelve languages.
PHONEMES = (
    *"aiɐneukɔɾmltdoəpjɡbsvɹhʈrʌʃɖɳɪɭcɟŋʉɛɨɕʊʂɲʋfzæwðɒχɻɜθɑqxɣ",
    *("kʰ", "bʰ", "dʰ", "tʰ", "ɡʰ", "pʰ", "ʈʰ", "ɟʰ", "cʰ", "ɖʰ", "tʃ", "tʃʰ", "dʒ"),
    *("aɪ", "aʊ", "eɪ", "əʊ"),
)


def _experiment(name: str, languages: tuple[str, ...], head: HeadConfig) -> Experiment:
    exp = Experiment(name=f"heads/heads_{name}", languages=languages, model=presets.low_resource())
    exp.model.heads = {name: head}
    exp.tokenizer.model_type = "unigram"  # of texts that these heads do not read
    exp.tokenizer.vocab_size = 64 if len(languages) == 2 else 1000
    exp.data.augment = few_speakers()
    exp.data.cache_gb = 1.0
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 60.0, 32
    exp.train.per = "utterance"
    exp.train.optimizer, exp.train.lr, exp.train.warmup_steps = "muon", 3e-3, 50
    exp.train.log_every, exp.train.average_every = 50, 10
    exp.train.threads = 1
    return exp


def _language(**options: Any) -> Experiment:
    head = LanguageConfig(pooling="attentive", hidden=64, dropout=0.3, crop_seconds=1.0, **options)
    exp = _experiment("language", LANGUAGES, head)
    exp.prepare.split.test = 0.2
    exp.data.plan.temperature = 0.3
    exp.data.speed_perturb = (0.87, 0.93, 1.0, 1.07, 1.15)
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 1200, 300, 300
    return exp


def language() -> Experiment:
    """One of twelve languages, from a fresh encoder."""
    return _language()


def language_frozen() -> Experiment:
    """The same from the layers of a frozen encoder: --train.init_from RUN, such as a run of egs/digits."""
    exp = _language(layers="all")
    exp.name = "heads/heads_language_frozen"
    exp.train.freeze, exp.train.optimizer, exp.train.steps = ("encoder",), "adamw", 1200
    return exp


def words() -> Experiment:
    """Digit words in two languages, as events with times."""
    head = EventConfig(
        label="words", classes=WORDS, upsampling=4, hidden=128, dropout=0.1, positive_weight=3.0
    )
    exp = _experiment("words", ("en", "gu"), head)
    exp.data.speed_perturb = (0.87, 0.93, 1.0, 1.07, 1.15)
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 800, 200, 200
    return exp


def pitch() -> Experiment:
    """Pitch and voicing every 20 ms. Windows of 50 ms: 25 ms do not part the harmonics of a low voice."""
    exp = _experiment("pitch", LANGUAGES, PitchConfig(upsampling=2, hidden=256))
    features = cast(LogMelConfig, exp.model.features)
    features.window_ms, features.n_fft, features.num_mels = 50.0, 1024, 128
    features.normalize = "per_feature"
    encoder = cast(FastConformerConfig, exp.model.encoder)
    encoder.feat_in, encoder.subsampling_factor = 128, 4
    exp.model.specaugment.freq_masks = 0
    exp.model.specaugment.time_masks = 0
    exp.data.speed_perturb = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)
    exp.data.plan.max_seconds = 30.0
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 700, 175, 175
    return exp


def phonemes() -> Experiment:
    """Phonemes of twelve languages, three steps of the head to a frame of 80 ms. It learns faster from the
    encoder of a run of egs/digits: --train.init_from RUN --train.encoder_hold 0"""
    exp = _experiment("phonemes", LANGUAGES, UnitCTCConfig(units=PHONEMES, upsampling=3, dropout=0.1))
    exp.prepare.split.test = 0.2
    exp.data.plan.temperature = 0.7
    exp.data.speed_perturb = (0.87, 0.93, 1.0, 1.07, 1.15)
    exp.train.encoder_hold = 50
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 1500, 250, 250
    return exp


def punctuation() -> Experiment:
    """Marks and capitals from letters and sound, on the frozen encoder of a run of the task phonemes."""
    exp = phonemes()
    exp.name, exp.languages = "heads/heads_punctuation", WRITTEN
    exp.train.freeze, exp.train.encoder_hold = ("encoder",), 0
    head = PunctuationConfig(dropout=0.3, text_dropout=0.3, mark_weight=2.0)
    exp.model.heads = {"punctuation": head}
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.train.optimizer, exp.train.lr, exp.train.steps = "adamw", 2e-3, 400
    exp.train.valid_every = exp.train.save_every = 100
    return exp


def transcripts() -> Experiment:
    """Text and phonemes of the languages of `punctuation`, by one encoder."""
    exp = _experiment("transcripts", WRITTEN, UnitCTCConfig(units=PHONEMES, upsampling=3, dropout=0.1))
    exp.model.heads = {"phonemes": exp.model.heads["transcripts"], "ctc": CTCConfig(dropout=0.1)}
    exp.tokenizer.vocab_size = 600
    exp.data.plan.temperature, exp.data.plan.max_seconds = 0.7, 40.0
    exp.data.speed_perturb = (0.87, 0.93, 1.0, 1.07, 1.15)
    exp.train.encoder_hold = 50
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 1500, 250, 250
    return exp


def written() -> Experiment:
    """Marks and capitals beside the text: a run of `transcripts` with one more head, all else frozen.
    --train.init_from RUN --tokenizer.file RUN/tokenizer.model"""
    exp, marks = transcripts(), punctuation()
    exp.name = "heads/heads_written"
    keep_heads(exp)
    exp.model.heads |= marks.model.heads
    exp.data.speed_perturb = marks.data.speed_perturb
    exp.train.optimizer, exp.train.lr, exp.train.steps = "adamw", marks.train.lr, marks.train.steps
    exp.train.valid_every = exp.train.save_every = 100
    return exp


def keep_heads(exp: Experiment) -> None:
    """Take encoder and heads from `train.init_from`, and leave them as they are."""
    for head in exp.model.heads.values():
        head.skip_ramps()
        head.weight = 0.0
    exp.train.init_modules = ("encoder", *exp.model.heads)
    exp.train.freeze, exp.train.encoder_hold = exp.train.init_modules, 0


def check() -> Experiment:
    """A head of phonemes alone, on the frozen encoder of a recogniser of egs/digits, for the check of made-up
    texts: --train.init_from RUN --tokenizer.file RUN/tokenizer.model"""
    exp = digits()
    exp.name = "heads/heads_check"
    keep_heads(exp)
    exp.train.init_modules += ("language_embedding",)
    exp.model.heads["phonemes"] = UnitCTCConfig(units=PHONEMES, upsampling=4, dropout=0.1)
    exp.train.optimizer, exp.train.steps = "adamw", 400
    exp.train.valid_every = exp.train.save_every = 200
    return exp
