"""What all experiments of this folder have in common: the corpus, its pieces and how it is decoded."""

from maya.decode.ctc_beam import BeamConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment

HOURS = 960.0  # of all three training parts


def librispeech(
    name: str, model: SpeechModelConfig, *, max_seconds: float, speeds: tuple[float, ...]
) -> Experiment:
    """`model` on LibriSpeech, in batches of at most `max_seconds` of audio a GPU; how it is trained is a
    recipe's."""
    exp = Experiment(name=f"librispeech/{name}", languages=("en",), model=model)
    exp.prepare.split.dev = exp.prepare.split.test = 0.0  # the corpus has its own, or none
    exp.tokenizer.vocab_size = 500
    exp.tokenizer.model_type = "unigram"  # as icefall's lang_bpe_500, whatever its name
    exp.data.speed_perturb = speeds
    exp.data.min_seconds, exp.data.max_seconds = 1.0, 20.0
    exp.data.plan.max_seconds = max_seconds
    exp.data.plan.max_utterances = None
    exp.data.num_workers = 4
    exp.data.valid_utterances = 1000
    # For run.sh --musan, which says where it is and how often: one in two utterances.
    exp.data.augment.clean_share = 0.0
    for noise in exp.data.augment.noises.values():
        noise.snr_db, noise.mixed = (10.0, 20.0), (1, 1)
    exp.train.log_every = 50
    exp.decode.method = "transducer" if "transducer" in model.heads else "ctc"
    exp.decode.methods["ctc_beam"] = BeamConfig(lm_order=0)  # CTC's prefix search without a language model, as in icefall's tables
    exp.decode.max_seconds = 600.0
    return exp
