"""Which utterances make up which batch, for every epoch and every rank, without touching the data.

1. Cells. Utterances are sorted once into cells of about equal duration and number of tokens.
2. Draw. With temperature 1 each utterance is taken once per epoch. With another, language l gets a share of
   the hours proportional to hours_l^temperature (Conneau et al. 2020, XLM-R, section 3.1), the total staying
   as it is. Each language walks through the utterances of a cell in a new random order each time around and
   goes on in the next epoch where it stopped, so over the training all its utterances are seen equally
   often, give or take one. Each draw gets its speed factor, so the caps hold for the audio as it will be.
3. Buckets. Neighbouring cells form a bucket; in each epoch the buckets begin elsewhere. A bucket is
   shuffled and cut into batches of one size, the largest that its longest duration and most tokens allow
   under all caps.
4. Deal. Batches of about equal estimated cost form a step, one for each rank; steps are shuffled.

How many draws and batches there are in a bucket follows from the sizes of the cells. So an epoch is planned
in milliseconds however large the data, and any batch of any epoch is found by shuffling one bucket: to resume
is to seek. When the number of ranks changes within an epoch, the batches that have been trained on are left
out and the others are dealt to the new ranks as in step 4; the next epoch begins as if nothing had happened.

With `same_speaker` the plan deals out rows of utterances of one speaker instead of single utterances
(`maya.data.plan.speaker_rows`), in the same way.

`BatchPlan` works on columns; `maya.data.plan.sampler` plans for a CutSet and a DataLoader of torch;
`maya.data.plan.stream` makes batches under the same caps of data without an end.
"""

from maya.data.plan.batch_plan import BatchPlan
from maya.data.plan.config import CostConfig, MemoryConfig, PlanConfig, Position
from maya.data.plan.stats import PlanStats

__all__ = ["BatchPlan", "CostConfig", "MemoryConfig", "PlanConfig", "PlanStats", "Position"]
