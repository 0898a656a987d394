"""The options of what decoding adds to the scores of the acoustic model."""

from collections.abc import Iterator
from pathlib import Path

from maya.config import config
from maya.decode.lm.units import Units
from maya.ranges import Finite, NonNegFloat


@config
class FusionConfig:
    """Language models and hot words; a part without a path, or with the weight 0, is left out.

    lm: an n-gram, as an ARPA file (.arpa, .arpa.gz), a binary of KenLM, or a folder with an ARPA file for
        each language (hi.arpa, en.arpa.gz; all.arpa for utterances in others).
    lm_units: what its words are: "pieces" of the tokenizer, token "ids", "nemo" (the character with the code
        point id + 100), "words", or "auto".
    neural_lm: a folder that `maya lm --kind lstm` wrote, or a causal model of transformers with the
        recogniser's tokenizer.
    lodr: a low-order n-gram of the texts that the recogniser was trained on, to be subtracted (Zheng et al.
        2022, LODR).
    ilm_weight: of a transducer's internal language model, which is subtracted (Meng et al. 2021, ILME).
    token_bonus: nats for each token, against the language model's preference for short texts.
    hotwords: a file with a phrase a line, see `maya.decode.lm.phrases`. hotwords_weight: nats for each token
        of a phrase, up to `maya.decode.lm.hotwords.GROWTH_TOKENS` tokens.
    """

    lm: str = ""
    lm_weight: NonNegFloat = 0.3
    lm_units: Units = "auto"
    neural_lm: str = ""
    neural_lm_weight: NonNegFloat = 0.3
    lodr: str = ""
    lodr_weight: NonNegFloat = 0.1
    ilm_weight: NonNegFloat = 0.0
    token_bonus: Finite = 0.0
    hotwords: str = ""
    hotwords_weight: NonNegFloat = 0.5  # docs/benchmarks/hotwords.md

    def files(self) -> Iterator[Path]:
        """The files that it depends on, in a fixed order. Missing ones are among them."""
        for text in (self.lm, self.neural_lm, self.lodr, self.hotwords):
            path = Path(text)
            if text and path.is_dir():
                yield from sorted(file for file in path.rglob("*") if file.is_file())
            elif text:
                yield path
