"""The cuts that data.source=lhotse trains on: manifests, Shar folders and functions that return a CutSet.

Each pass opens all of them again, so a pass is a function of (seed, epoch) and can be read again from its
beginning. Nothing is kept in memory and no audio is read.
"""

import hashlib
import inspect
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from lhotse import CutSet
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.lazy import LazyManifestIterator
from lhotse.utils import fastcopy

from maya.audio.byte_ranges import file_stamp
from maya.audio.lhotse_audio import byte_range_source
from maya.audio.tar_members import TarMembers
from maya.data.corpus.shar import shar_shards
from maya.errors import MayaError
from maya.text.languages import language_code
from maya.text.normalize import normalize

_MANIFESTS = (".jsonl", ".jsonl.gz")
_NO_AUDIO = (".json", ".nometa", ".nodata")  # members of a Shar tar beside the audio
_COMPARED_CUTS = 1000  # at the beginning of the first pass; see CutSource.identity

_normal_form = lru_cache(maxsize=64)(normalize)  # the same text is read several times in a row
CutFunction = Callable[..., CutSet]


@dataclass(frozen=True, kw_only=True, slots=True)
class CutPart:
    """One set of cuts. name: as the user wrote it. function: what `name` stands for, if it is no path."""

    name: str
    function: CutFunction | None = None

    def open(self, epoch: int, seed: int) -> CutSet:
        """The cuts of a pass, opened lazily. Raises MayaError if there are none of this name."""
        if self.function is not None:
            options = {"epoch": epoch} if "epoch" in inspect.signature(self.function).parameters else {}
            cuts = self.function(**options)
            if not isinstance(cuts, CutSet):
                raise MayaError(f"{self.name} returns {type(cuts).__name__}, which is not a lhotse CutSet")
            return cuts
        path = Path(self.name)
        if path.is_dir():
            return shar_in_place(path, epoch=epoch, seed=seed)
        if path.is_file() and path.name.endswith(_MANIFESTS):
            return CutSet.from_jsonl_lazy(path)
        raise MayaError(
            f"{self.name} is no manifest of cuts (.jsonl or .jsonl.gz), no Shar folder and no function of a "
            "module, such as ./mine.py:train_cuts"
        )

    def files(self) -> list[Path]:
        """The manifests of a path, those of a Shar folder in order; none for a function."""
        path = Path(self.name)
        if self.function is not None:
            return []
        return [cuts for cuts, _ in shar_shards(path)] if path.is_dir() else [path]


@dataclass(frozen=True, kw_only=True, slots=True)
class CutSource:
    """Several sets of cuts, mixed lazily by lhotse's `CutSet.mux`.

    weights: of the parts, as in `CutSet.mux`: the chance that the next cut comes from a part. A finite part
    is used up once in a pass whatever its weight is; without weights all parts have the same chance.
    """

    parts: tuple[CutPart, ...]
    weights: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parts:
            raise MayaError("no cuts are given; name them with data.cuts")
        if self.weights and len(self.weights) != len(self.parts):
            raise MayaError(
                f"data.cuts_weights has {len(self.weights)} weights for {len(self.parts)} sets of cuts; give "
                "one for each"
            )

    @property
    def name(self) -> str:
        return ", ".join(part.name for part in self.parts)

    def open(self, epoch: int = 0) -> Iterator[Cut]:
        """The cuts of a pass, one after the other. Raises MayaError where one cannot be read."""
        count = 0
        try:
            sets = [part.open(epoch, self.seed) for part in self.parts]
            mixed = sets[0]
            if len(sets) > 1:
                mixed = CutSet.mux(*sets, weights=list(self.weights) or None, seed=self.seed + epoch)
            for cut in mixed:
                if not hasattr(cut, "supervisions"):
                    raise MayaError(f"it holds objects of type {type(cut).__name__}, which are no cuts")
                yield cut
                count += 1
        except Exception as error:  # of lhotse, of a damaged file, or of the user's own functions
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            kind = "" if isinstance(error, MayaError) else f"{type(error).__name__}: "
            raise MayaError(f"{self.name}: cannot read cut number {count + 1}: {kind}{reason}") from error

    def identity(self) -> tuple[str, str]:
        """(digest of the content, digest of the files), by which a run knows its training data again.

        The content is the weights, the sizes of the manifests, and id, language, text and duration of the
        first 1000 cuts of the first pass, in order: a stream has no end to wait for. The files are the names,
        sizes and times of change of the manifests.
        """
        stats = [(path, path.stat()) for part in self.parts for path in part.files()]
        content = hashlib.sha256(json.dumps([self.weights, [s.st_size for _, s in stats]]).encode())
        for cut in islice(self.open(), _COMPARED_CUTS):
            content.update(json.dumps(described(cut)).encode())
        files = [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        return content.hexdigest(), hashlib.sha256(json.dumps(files).encode()).hexdigest()


def described(cut: Cut) -> list[str | float | None]:
    """What tells a cut from others: duration in seconds; id, language and text of each supervision. The id of
    the cut counts only where there is none: lhotse gives mixed cuts random ones."""
    texts = [value for each in cut.supervisions for value in (each.id, each.language, each.text)]
    return [round(cut.duration, 6), *(texts or [cut.id])]


def shar_in_place(folder: Path | str, *, epoch: int = 0, seed: int = 0, shuffle: bool = True) -> CutSet:
    """The cuts of a Shar folder, whose audio is read from its place in the tars when a cut is loaded.

    `CutSet.from_shar` reads the audio of every cut as it comes, also of those that another rank trains on or
    that a resumed run has trained on before. shuffle: take the shards in an order drawn by seed and epoch.
    """
    shards = shar_shards(Path(folder))
    if not shards:
        raise MayaError(f"{folder} holds no Shar: cuts.000000.jsonl.gz with recording.000000.tar, and so on")
    if shuffle:
        random.Random(f"{seed}/{epoch}").shuffle(shards)
    return CutSet(_SharCuts(shards))


class _SharCuts:
    def __init__(self, shards: Sequence[tuple[Path, Path]]) -> None:
        self._shards = shards

    def __iter__(self) -> Iterator[Cut]:
        for manifest, tar in self._shards:
            members, stamp = TarMembers(tar), file_stamp(tar)
            audio = members.without_ending(_NO_AUDIO)
            for cut in LazyManifestIterator(manifest):
                if (member := audio.get(cut.id)) is None:
                    raise MayaError(f"{members.lacks(f'{cut.id}.*')}, which is to hold the audio of its cut")
                channels = cut.recording.channel_ids or [0]
                source: AudioSource = byte_range_source(tar, member.offset, member.size, channels, stamp)
                cut.recording = fastcopy(cut.recording, sources=[source])
                yield cut


class UnusableCut(MayaError):
    """A cut that is not trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutTranscripts:
    """What is said in cuts, for a model of these languages (ISO 639 codes).

    The language is that of the supervisions, written as a code or a name; a cut without one is taken to be of
    the model's language if that has only one. The text is brought into normal form (maya.text.normalize);
    those of several supervisions, as of concatenated cuts, follow each other.
    """

    languages: tuple[str, ...]

    def read(self, cut: Cut) -> tuple[str, str]:
        """(language, text). Raises UnusableCut where there is no text, or in a language of no use."""
        supervisions = sorted(cut.supervisions, key=lambda each: each.start)
        codes = {self._code(each.language) for each in supervisions}
        if len(codes) != 1:
            reason = "supervisions in several languages" if codes else "no supervision"
            raise UnusableCut(f"it has {reason}")
        (code,) = codes
        if code not in self.languages:
            raise UnusableCut(f"its language is {code!r}, and the model's are {', '.join(self.languages)}")
        text = " ".join(filter(None, (_normal_form(each.text or "", code) for each in supervisions)))
        if not text:
            raise UnusableCut("its text is empty")
        return code, text

    def _code(self, language: str | None) -> str:
        if language is None:
            if len(self.languages) > 1:
                raise UnusableCut("it has no language, and the model has several; set it in the supervision")
            return self.languages[0]
        try:
            return language_code(language)
        except MayaError as error:
            raise UnusableCut(str(error)) from None
