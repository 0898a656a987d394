"""The common part of all experiments in this folder: corpus, tokenizer, decoding."""

from maya.decode.ctc.beam import BeamConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment

HOURS = 960.0  # all three training parts together


def librispeech(
    name: str, model: SpeechModelConfig, *, max_seconds: float, speeds: tuple[float, ...]
) -> Experiment:
    """`model` on LibriSpeech, in batches of at most `max_seconds` of audio a GPU. The caller sets the
    training."""
    exp = Experiment(name=f"librispeech/{name}", languages=("en",), model=model)
    exp.prepare.split.dev = exp.prepare.split.test = 0.0  # the corpus has its own, or none
    exp.tokenizer.vocab_size = 500
    exp.tokenizer.model_type = "unigram"  # as icefall's lang_bpe_500, in spite of its name
    exp.data.speed_perturb = speeds
    exp.data.min_seconds, exp.data.max_seconds = 1.0, 20.0
    exp.data.plan.max_seconds = max_seconds
    exp.data.plan.max_utterances = None
    exp.data.num_workers = 4
    exp.data.valid_utterances = 1000
    # For run.sh --musan, which sets the folders and the probabilities: one in two utterances.
    exp.data.augment.clean_share = 0.0
    for noise in exp.data.augment.noises.values():
        noise.snr_db, noise.mixed = (10.0, 20.0), (1, 1)
    exp.train.log_every = 50
    exp.decode.method = next(iter(model.text_heads))
    # CTC's prefix search without a language model, as in icefall's tables.
    exp.decode.methods["ctc_beam"] = BeamConfig(lm_order=0, token_bonus=0.0)
    exp.decode.max_seconds = 600.0
    return exp
