"""ARPA files of n-gram language models: reading and writing, plain or gzipped.

    \\data\\
    ngram 1=4
    ngram 2=2

    \\1-grams:
    -0.8 the -0.3
    ...
    \\end\\

Probabilities and back-off weights are logarithms to base 10 in the file and natural logarithms in memory.
"""

import gzip
import io
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from maya.errors import MayaError
from maya.files import replacing

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
LN10 = math.log(10.0)
KENLM_MAGIC = b"mmap lm http://kheafield.com/code"


@dataclass(frozen=True, slots=True)
class Grams:
    """The n-grams of one order. words (M, n) int32: indices into `Arpa.words`; log_probs, backoffs (M,)
    float32, in nats; a back-off of 0 is that of an n-gram without one."""

    words: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    backoffs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Arpa:
    """An n-gram language model. words: the unigrams, in the order of the file. grams: of order 1, 2 ..."""

    words: tuple[str, ...]
    grams: tuple[Grams, ...]

    @property
    def order(self) -> int:
        """The longest n-grams' number of words."""
        return len(self.grams)


def is_kenlm_binary(path: Path) -> bool:
    """Whether a file is one of KenLM's binaries. Raises MayaError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(KENLM_MAGIC)) == KENLM_MAGIC
    except OSError as error:
        raise MayaError(f"cannot read the language model {path}: {error.strerror}") from None


def read_arpa(path: Path | str) -> Arpa:
    """Read an ARPA file, gzipped or not.

    An n-gram without a back-off weight has the weight 0. Raises MayaError, with the line, for a file that is
    no ARPA, counts that differ from the header's, a word that is no unigram, and numbers that are none.
    """
    path = Path(path)
    if is_kenlm_binary(path):
        raise MayaError(f"{path} is a binary of KenLM, not an ARPA file")
    with _open(path) as file:
        try:
            return _Reader(path, file).read()
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise MayaError(f"{path} is damaged or no ARPA file: {error}") from None


def _open(path: Path) -> IO[str]:
    raw = path.open("rb")
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    binary: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
    return io.TextIOWrapper(binary, encoding="utf-8", newline="\n")


class _Reader:
    """One pass over a file's lines."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path, self.line = path, 0
        self._lines = self._counted(file)

    def _counted(self, file: IO[str]) -> Iterator[str]:
        for self.line, line in enumerate(file, 1):
            yield line.strip(" \t\r\n")

    def fail(self, message: str) -> MayaError:
        return MayaError(f"{self.path}, line {self.line}: {message}")

    def next_line(self, wanted: str) -> str:
        """The next line that is not empty."""
        for line in self._lines:
            if line:
                return line
        raise self.fail(f"the file ends where {wanted} is expected; it may have been cut off")

    def read(self) -> Arpa:
        while (line := self.next_line("\\data\\")) != "\\data\\":  # other text may stand before it
            if self.line > 1000 or "\x00" in line:
                raise self.fail("this is no ARPA file: it has no line \\data\\")
        counts = self._header()
        ids: dict[str, int] = {}
        grams = tuple(self._grams(n, count, ids) for n, count in enumerate(counts, 1))
        if self._heading != "\\end\\":
            raise self.fail(f"expected \\end\\, not {self._heading[:40]!r}")
        return Arpa(tuple(ids), grams)

    def _header(self) -> list[int]:
        counts: list[int] = []
        while (line := self.next_line("\\1-grams:")).startswith("ngram"):
            order, _, count = line.removeprefix("ngram").partition("=")
            if order.strip() != str(len(counts) + 1) or not count.strip().isdecimal():
                raise self.fail(f"expected ngram {len(counts) + 1}=COUNT, not {line!r}")
            counts.append(int(count))
        if not counts:
            raise self.fail("the header has no line such as ngram 1=1000")
        self._heading = line
        return counts

    def _grams(self, n: int, count: int, ids: dict[str, int]) -> Grams:
        if self._heading != f"\\{n}-grams:":
            raise self.fail(f"expected \\{n}-grams:, not {self._heading[:40]!r}")
        first = self.line
        words, log_probs, backoffs = array("i"), array("f"), array("f")
        while not (line := self.next_line(f"the end of the {n}-grams")).startswith("\\"):
            self._gram(line, n, ids, words, (log_probs, backoffs))
        self._heading = line
        if len(log_probs) != count:
            raise self.fail(
                f"the {n}-grams from line {first} on are {len(log_probs)}, and the header says {count}; "
                "the file may have been cut off or edited"
            )
        table = np.frombuffer(words, np.int32).reshape(-1, n) if count else np.empty((0, n), np.int32)
        return Grams(table, _nats(log_probs), _nats(backoffs))

    def _gram(
        self, line: str, n: int, ids: dict[str, int], words: "array[int]",
        numbers: tuple["array[float]", "array[float]"],
    ) -> None:  # fmt: skip
        # Words are separated by blanks or tabs only: some hold other kinds of space.
        fields = line.replace("\t", " ").split(" ")
        fields = [field for field in fields if field] if "" in fields else fields
        if len(fields) not in (n + 1, n + 2):
            raise self.fail(f"a {n}-gram has {n + 1} or {n + 2} fields, and this line has {len(fields)}")
        try:
            log_prob = float(fields[0])
            backoff = float(fields[n + 1]) if len(fields) == n + 2 else 0.0
        except ValueError:
            raise self.fail(f"{line[:60]!r} does not begin and end with a number") from None
        if not log_prob <= 1e-6 or math.isnan(backoff) or backoff == math.inf:
            raise self.fail(f"{fields[0]} and {fields[-1]} are not a log probability and a back-off weight")
        if n == 1:
            if fields[1] in ids:
                raise self.fail(f"the word {fields[1]!r} stands here for a second time")
            ids[fields[1]] = len(ids)
        try:
            words.extend([ids[word] for word in fields[1 : n + 1]])
        except KeyError as error:
            raise self.fail(f"the word {error.args[0]!r} is not among the 1-grams") from None
        numbers[0].append(max(min(log_prob, 0.0), -99.0))
        numbers[1].append(max(backoff, -99.0))


def _nats(log10: "array[float]") -> NDArray[np.float32]:
    values = np.frombuffer(log10, np.float32) if log10 else np.empty(0, np.float32)
    return (values.astype(np.float64) * LN10).astype(np.float32)


def write_arpa(arpa: Arpa, path: Path | str) -> None:
    """Write an ARPA file atomically; gzipped if its name ends in .gz."""
    path = Path(path)
    with replacing(path) as partial:
        raw = gzip.GzipFile(partial, "wb", mtime=0) if path.suffix == ".gz" else partial.open("wb")
        with io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file:
            file.write("\\data\\\n")
            file.writelines(f"ngram {n}={len(g.log_probs)}\n" for n, g in enumerate(arpa.grams, 1))
            for n, grams in enumerate(arpa.grams, 1):
                file.write(f"\n\\{n}-grams:\n")
                file.writelines(_written(arpa.words, grams, last=n == arpa.order))
            file.write("\n\\end\\\n")


def _written(words: Sequence[str], grams: Grams, *, last: bool) -> Iterator[str]:
    rows = zip(grams.words.tolist(), grams.log_probs.tolist(), grams.backoffs.tolist(), strict=True)
    for ids, log_prob, backoff in rows:
        text = " ".join([words[i] for i in ids])
        weight = "" if last or backoff == 0 else f"\t{backoff / LN10:.8g}"
        yield f"{log_prob / LN10:.8g}\t{text}{weight}\n"
