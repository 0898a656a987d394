"""TIMIT: TRAIN/DR1/FCJF0/SI1027.WAV and .PHN, in capitals or not. Phones are TIMIT's own, folded to 48 or 39.

Training has 462 speakers without the two sentences `sa` that all of them read; dev (50 speakers) and the core
test set (24) are Kaldi's. The folding is that of Lee and Hon (1989) as Kaldi's recipe has it; q is left out.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maya.data.corpus.manifest import read_lines
from maya.errors import MayaError

SIZES = (61, 48, 39)
# 61 48 39: phones that a line leaves out are the same in all three.
_FOLDED = """
ao ao aa; ax ax ah; ax-h ax ah; axr er er; bcl vcl sil; dcl vcl sil; el el l; em m m; en en n; eng ng ng;
epi epi sil; gcl vcl sil; h# sil sil; hv hh hh; ix ix ih; kcl cl sil; nx n n; pau sil sil; pcl cl sil;
tcl cl sil; ux uw uw; zh zh sh
"""
_SAME = "aa ae ah aw ay b ch d dh dx eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z"
FOLD: dict[str, tuple[str, str]] = {
    **{phone: (phone, phone) for phone in _SAME.split()},
    **{first: (second, third) for first, second, third in (row.split() for row in _FOLDED.split(";"))},
}
GLOTTAL = "q"  # no phone of the smaller sets
CORE_TEST = frozenset(
    re.findall(
        r"\w+",
        """
    fdhc0 felc0 fjlm0 fmgd0 fmld0 fnlp0 fpas0 fpkt0 mbpm0 mcmj0 mdab0 mgrt0 mjdh0 mjln0 mjmp0 mklt0 mlll0
    mlnt0 mnjm0 mpam0 mtas1 mtls0 mwbt0 mwew0
""",
    )
)
DEV = frozenset(
    re.findall(
        r"\w+",
        """
    fadg0 faks0 fcal1 fcmh0 fdac1 fdms0 fdrw0 fedw0 fgjd0 fjem0 fjmg0 fjsj0 fkms0 fmah0 fmml0 fnmr0 frew0
    fsem0 majc0 mbdg0 mbns0 mbwm0 mcsh0 mdlf0 mdls0 mdvc0 mers0 mgjf0 mglb0 mgwt0 mjar0 mjfc0 mjsw0 mmdb1
    mmdm2 mmjr0 mmwh0 mpdf0 mrcs0 mreb0 mrjm4 mrjr0 mroa0 mrtk0 mrws1 mtaa0 mtdt0 mteb0 mthc0 mwjg0
""",
    )
)


def fold(phones: Sequence[str], size: int, *, merge: bool = False) -> list[str]:
    """Phones of the set of 61, or of 48, in a smaller set. merge: silences in a row are one, as SpeechBrain
    scores; Kaldi counts each. Raises MayaError for a phone that TIMIT does not have."""
    own = [phone for phone in phones if phone != GLOTTAL] if size < SIZES[0] else list(phones)
    if size < SIZES[0]:
        own = [_smaller(phone, size) for phone in own]
    return [p for i, p in enumerate(own) if not (merge and p == "sil" and i and own[i - 1] == "sil")]


def _smaller(phone: str, size: int) -> str:
    if phone in FOLD:
        return FOLD[phone][SIZES.index(size) - 1]
    if phone in ("sil", "cl", "vcl"):  # of the set of 48
        return phone if size == SIZES[1] else "sil"
    raise MayaError(f"{phone!r} is no phone of TIMIT")


def rows(source: Path, *, size: int = 48) -> Iterator[dict[str, Any]]:
    """Rows of a manifest, with `size` phones. Raises MayaError for a folder without TRAIN and TEST."""
    folders = {path.name.lower(): path for path in source.iterdir()} if source.is_dir() else {}
    if not {"train", "test"} <= set(folders):
        raise MayaError(f"{source} has no TRAIN and TEST; give the folder of TIMIT that holds both")
    for part in ("train", "test"):
        for path in sorted(p for p in folders[part].glob("*/*/*") if p.suffix.lower() == ".phn"):
            speaker, name = path.parent.name.lower(), path.stem.lower()
            split = "train" if part == "train" else "test" if speaker in CORE_TEST else "dev"
            if name.startswith("sa") or (part == "test" and speaker not in CORE_TEST | DEV):
                continue
            yield {
                "id": f"{speaker}-{name}", "language": "en", "speaker": speaker, "split": split,
                "text": _words(_beside(path, "txt")), "audio": str(_beside(path, "wav").resolve()),
                "labels": {"phonemes": " ".join(fold(_phones(path), size))},
            }  # fmt: skip


def _phones(path: Path) -> list[str]:
    phones = []
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.split()
        if len(cells) != 3 or (cells[2] not in FOLD and cells[2] != GLOTTAL):
            raise MayaError(f"{path}:{number}: {line!r} is no `start end phone` with a phone of TIMIT")
        phones.append(cells[2])
    return phones


def _beside(path: Path, kind: str) -> Path:
    for suffix in (f".{kind.upper()}", f".{kind}"):
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    raise MayaError(f"{path} has no .{kind} beside it; copy the corpus again")


def _words(path: Path) -> str:
    """The sentence of `0 46797 She had ...`, in lower case and without marks."""
    cells = path.read_text(encoding="utf-8").split(maxsplit=2)
    if len(cells) < 3:
        raise MayaError(f"{path} holds no `start end sentence`")
    return " ".join("".join(c for c in cells[2].lower() if c.isalpha() or c in " '").split())
