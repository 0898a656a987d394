"""The tokens of an utterance over its log-mel spectrogram, each at its frames, as a picture."""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

import maya
from maya.audio.load import load_audio
from maya.decode.hypothesis import Hypothesis
from maya.decode.methods import choose_method
from maya.errors import MayaError
from maya.features import frame_samples
from maya.recipes.figure import figure_class, save_figure

WORD_START = "▁"
_SILENT = ("VIRAMA", "NUKTA", "ZERO WIDTH")
_NASAL = {"ANUSVARA": "m", "CANDRABINDU": "n", "BINDI": "n", "TIPPI": "n", "VISARGA": "h", "ADDAK": "'"}


def plot_alignment(
    feats: np.ndarray,
    hyp: Hypothesis,
    pieces: Sequence[str],
    path: str | Path,
    *,
    hop_seconds: float = 0.01,
) -> None:
    """Draw feats (T, F) log-mel with `hyp`'s tokens, `pieces` being their texts, into the picture `path`.

    A shaded band spans the frames of a token. Its piece is written above it; if no installed font has the
    script, a Latin reading; else its id. Raises MayaError when pieces and tokens differ in number, when
    the hypothesis has no frame length, and when matplotlib is not installed.
    """
    if len(pieces) != len(hyp.tokens):
        raise MayaError(f"{len(pieces)} pieces for {len(hyp.tokens)} tokens: give one piece for each token")
    if hyp.tokens and hyp.frame_seconds <= 0:
        raise MayaError(
            "the hypothesis does not say how long a frame is: decode with maya.load(...).transcribe"
        )
    seconds = len(feats) * hop_seconds
    figure = figure_class()(figsize=(min(max(6.0, 2.5 * seconds), 40.0), 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(
        np.asarray(feats).T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0.0, seconds, 0.0, feats.shape[1]),
    )
    for i, (piece, token, (start, end)) in enumerate(zip(pieces, hyp.tokens, hyp.times, strict=True)):
        label, font = label_of(piece, token)
        axes.axvspan(start, max(end, start + hop_seconds), color="white", alpha=0.15 if i % 2 else 0.3, lw=0)
        axes.axvline(start, color="white", lw=0.6)
        # Three heights in turn, so that short tokens do not cover each other.
        height = feats.shape[1] * (1.02 + 0.07 * (i % 3))
        axes.text(start, height, label, fontsize=8, font=font, clip_on=False)
    axes.set_xlabel(f"seconds    {hyp.id}")
    axes.set_ylabel("mel bin")
    save_figure(figure, Path(path), dpi=130)


def label_of(piece: str, token: int) -> tuple[str, Path | None]:
    """The label of a piece, and the font file to write it with (None: matplotlib's own font)."""
    text = piece.replace(WORD_START, "_")
    for candidate in (text, romanise(text)):
        covered, font = font_for(frozenset(candidate))
        if covered and candidate:
            return candidate, font
    return str(token), None


def romanise(text: str) -> str:
    """A rough Latin reading of Indic letters from their Unicode names; characters without one become "?"."""
    out = ""
    for char in text:
        name = unicodedata.name(char, "")
        last = name.rsplit(" ", 1)[-1].lower()
        if char.isascii():
            out += char
        elif "VOWEL SIGN" in name:
            out = out.removesuffix("a") + last  # a consonant's own vowel gives way to the sign
        elif any(word in name for word in _SILENT):
            out = out.removesuffix("a") if "VIRAMA" in name else out
        elif any(word in name for word in _NASAL):
            out += next(sound for word, sound in _NASAL.items() if word in name)
        elif "LETTER" in name:
            out += last
        else:
            out += str(unicodedata.digit(char, "?"))
    return out


@lru_cache(maxsize=4096)
def font_for(characters: frozenset[str]) -> tuple[bool, Path | None]:
    """(whether some installed font has all these characters, its file; None for matplotlib's own font)."""
    codes = {ord(c) for c in characters}
    for path, covered in _fonts():
        if codes <= covered:
            return True, path
    return False, None


@lru_cache(maxsize=1)
def _fonts() -> list[tuple[Path | None, frozenset[int]]]:
    """The upright text fonts of this machine with the code points they have, matplotlib's default first."""
    from matplotlib import font_manager, ft2font  # noqa: PLC0415  optional

    default = font_manager.findfont(font_manager.FontProperties())
    files = [
        f.fname
        for f in font_manager.fontManager.ttflist
        if f.style == "normal" and f.weight in (400, "normal")
    ]
    return [
        (None if file == default else Path(file), frozenset(ft2font.FT2Font(file).get_charmap()))
        for file in dict.fromkeys([default, *sorted(files)])
        if not Path(file).name.startswith("LastResort")  # has every code point, as boxes
    ]


def plot_recording(checkpoint: Path, audio: Path, out: Path, *, language: str | None, method: str) -> str:
    """Transcribe a recording and draw its tokens into `out`; returns the text."""
    figure_class()  # raises MayaError before the model is loaded
    recognizer = maya.load(checkpoint)
    front_end = recognizer.model.cfg.features
    samples = torch.as_tensor(load_audio(audio, sample_rate=front_end.sample_rate))
    # Methods that decode streams give frames.
    choice = choose_method(method, recognizer.model.cfg, recognizer.trained_heads(), stream=True)
    (hyp,) = recognizer.transcribe([samples], language, method=choice.method)
    feats, _ = recognizer.features(samples[None], torch.tensor([len(samples)]))
    hyp.id = f"{audio.name}: {romanise(hyp.text)}"
    hop_seconds = frame_samples(front_end.hop_ms, front_end.sample_rate) / front_end.sample_rate
    pieces = recognizer.tokenizer.pieces(hyp.tokens)
    plot_alignment(feats[0].float().cpu().numpy(), hyp, pieces, out, hop_seconds=hop_seconds)
    return hyp.text
