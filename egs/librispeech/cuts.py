"""LibriSpeech from lhotse manifests, as a recipe of icefall reads them. Two ways to use it:

1. Train with Maya, without `maya prepare`:

       maya tokenizer --experiment FILE --run-dir RUN --set data.source=lhotse \
           --set data.cuts=egs.librispeech.cuts:train_cuts
       maya train ... (the same options)

2. Train with your own loop. `train_dataloader` is the data module of icefall's recipes with our sampler.

Both need data/manifests/librispeech_cuts_PART.jsonl.gz, which lhotse's prepare_librispeech and
CutSet.from_manifests make. musan_cuts.jsonl.gz is mixed in as noise if it is there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lhotse import CutSet, Fbank, FbankConfig
from lhotse.dataset import K2SpeechRecognitionDataset, OnTheFlyFeatures, SpecAugment
from torch.utils.data import DataLoader

from maya.data.plan import PlanConfig
from maya.data.plan.sampler import PlanSampler

MANIFESTS = Path("data/manifests")
TRAIN = {"train-clean-100": 28_539, "train-clean-360": 104_014, "train-other-500": 148_688}  # cuts
SPEEDS = (0.9, 1.0, 1.1)


def read(part: str, folder: Path = MANIFESTS) -> CutSet:
    """The cuts of a part, opened lazily."""
    return CutSet.from_jsonl_lazy(folder / f"librispeech_cuts_{part}.jsonl.gz")


def train_cuts(epoch: int = 0, folder: Path = MANIFESTS) -> CutSet:
    """The three training sets, mixed in proportion to their sizes; half of the cuts with noise from MUSAN."""
    cuts = CutSet.mux(*(read(part, folder) for part in TRAIN), weights=list(TRAIN.values()), seed=epoch)
    if (noise := folder / "musan_cuts.jsonl.gz").is_file():
        musan = CutSet.from_jsonl_lazy(noise).drop_supervisions()
        cuts = cuts.mix(musan, snr=(10, 20), mix_prob=0.5, seed=epoch, preserve_id="left")
    return cuts


def dev_cuts(folder: Path = MANIFESTS) -> CutSet:
    """dev-clean and dev-other."""
    return read("dev-clean", folder) + read("dev-other", folder)


def train_dataloader(
    cuts: CutSet, *, max_duration: float = 200.0, num_workers: int = 2, speeds: Sequence[float] = SPEEDS
) -> tuple[PlanSampler, DataLoader[dict[str, Any]]]:
    """K2SpeechRecognitionDataset with features on the fly and SpecAugment, sampled by our plan.

    sampler, loader = train_dataloader(train_cuts())
    for epoch in range(30):
        sampler.set_epoch(epoch)
        for batch in sampler.follow(loader):  # counts the batches that were used
            feature, supervisions = batch["inputs"], batch["supervisions"]
            ...
            torch.save({"model": model.state_dict(), "sampler": sampler.state_dict()}, path)
    """
    dataset = K2SpeechRecognitionDataset(
        input_strategy=OnTheFlyFeatures(Fbank(FbankConfig(num_mel_bins=80))),
        input_transforms=[SpecAugment(num_frame_masks=10, features_mask_size=27, frames_mask_size=100)],
        return_cuts=True,
    )
    plan = PlanConfig(max_seconds=max_duration, temperature=1.0, too_long="alone")
    sampler = PlanSampler(cuts, plan, speeds=speeds)
    return sampler, DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=num_workers)
