"""One spelling for sequences of Indic scripts that look and sound the same.

Most are from the Unicode Character Database, DoNotEmit.txt 17.0 (Unicode-3.0 licence): sequences that text
should not contain, each with its replacement. Sequences that NFC already unifies, such as nukta letters and
two-part vowel signs, are not listed.

Libraries that were considered in 2026: indic-nlp-library (MIT; last release 2023, needs pandas, morfessor and
Sphinx themes, covers fewer sequences, not idempotent), Nisaba (Apache 2.0; good, but not on the package
index, needs compiled OpenFst grammars), bnunicodenormalizer (MIT; Bengali only), aksharamukha (AGPL;
transliteration), PyICU (only canonical equivalence, as `unicodedata`).
"""

import re

# Letter + vowel sign → the vowel letter of the same look: DoNotEmit.txt, type Indic_Vowel_Letter.
_VOWEL_LETTERS = """
    0905 0946 0904; 0905 093E 0906; 0930 094D 0907 0908; 0909 0941 090A; 090F 0945 090D; 090F 0946 090E
    090F 0947 0910; 0905 0949 0911; 0906 0945 0911; 0905 094A 0912; 0906 0946 0912; 0905 094B 0913
    0906 0947 0913; 0905 094C 0914; 0906 0948 0914; 0905 0945 0972; 0905 093A 0973; 0905 093B 0974
    0906 093A 0974; 0905 094F 0975; 0905 0956 0976; 0905 0957 0977
    0985 09BE 0986; 098B 09C3 09E0; 098C 09E2 09E1
    0A05 0A3E 0A06; 0A72 0A3F 0A07; 0A72 0A40 0A08; 0A73 0A41 0A09; 0A73 0A42 0A0A; 0A72 0A47 0A0F
    0A05 0A48 0A10; 0A73 0A4B 0A13; 0A05 0A4C 0A14
    0A85 0ABE 0A86; 0A85 0AC5 0A8D; 0A85 0AC7 0A8F; 0A85 0AC8 0A90; 0A85 0AC9 0A91; 0A85 0ACB 0A93
    0A85 0ABE 0AC5 0A93; 0A85 0ACC 0A94; 0A85 0ABE 0AC8 0A94; 0AC5 0ABE 0AC9
    0B05 0B3E 0B06; 0B0F 0B57 0B10; 0B13 0B57 0B14
    0B85 0BC2 0B86
    0C12 0C55 0C13; 0C12 0C4C 0C14; 0C3F 0C55 0C40; 0C46 0C55 0C47; 0C4A 0C55 0C4B
    0C89 0CBE 0C8A; 0C92 0CCC 0C94; 0C8B 0CBE 0CE0
    0D07 0D57 0D08; 0D09 0D57 0D0A; 0D0E 0D46 0D10; 0D12 0D3E 0D13; 0D12 0D57 0D14
"""

# The other types of DoNotEmit.txt, and what the Unicode Standard says of single scripts.
_OTHERS = {
    "\u09a4\u09cd\u200d": "\u09ce",  # Bengali khanda ta
    "\u0d23\u0d4d\u200d": "\u0d7a",  # Malayalam chillus: nn,
    "\u0d28\u0d4d\u200d": "\u0d7b",  # n,
    "\u0d30\u0d4d\u200d": "\u0d7c",  # rr,
    "\u0d32\u0d4d\u200d": "\u0d7d",  # l,
    "\u0d33\u0d4d\u200d": "\u0d7e",  # ll,
    "\u0d15\u0d4d\u200d": "\u0d7f",  # k
    "\u0bb8\u0bcd\u0bb0\u0bc0": "\u0bb6\u0bcd\u0bb0\u0bc0",  # Tamil shrii
    "\u0930\u094d\u200d": "\u0931\u094d",  # Devanagari eyelash ra: section 12.1, rules R5 and R5a
    "\u0d7b\u0d4d\u0d31": "\u0d28\u0d4d\u0d31",  # Malayalam nta: section 12.9; the usual of two spellings
    "\u0d4c": "\u0d57",  # Malayalam au sign: section 12.9; of the old and the new form, the new one
}


def _vowel_letters() -> dict[str, str]:
    rows = [row.split() for line in _VOWEL_LETTERS.strip().splitlines() for row in line.split(";")]
    return {"".join(chr(int(point, 16)) for point in row[:-1]): chr(int(row[-1], 16)) for row in rows}


SAME_LOOK: dict[str, str] = _vowel_letters() | _OTHERS
_SAME_LOOK_PATTERN = re.compile("|".join(map(re.escape, sorted(SAME_LOOK, key=len, reverse=True))))

# A Devanagari half letter + the sign aa, whose stroke completes the letter: DoNotEmit.txt, types
# Indic_Atomic_Consonant and Indic_Consonant_Conjunct. Only letters with a stroke have such a half.
_STROKE = (
    "\u0916\u0917\u0918\u091a\u091c\u091d\u091e\u0923\u0924\u0925\u0927\u0928\u0929\u092a\u092c\u092d\u092e"
    "\u092f\u0932\u0935\u0936\u0937\u0938\u0979\u097a\u097b\u097c\u097e\u097f"
)
_HALF_LETTER = re.compile(f"([{_STROKE}]\u093c?)\u094d\u200d?\u093e")

# Signs that stand on a consonant: U+xx3E..xx4C of each block (vowels), and xx01..xx03 (anusvara and so on).
_BLOCKS = (0x0900, 0x0980, 0x0A00, 0x0A80, 0x0B00, 0x0B80, 0x0C00, 0x0C80, 0x0D00)
_VOWEL_SIGNS = "".join(chr(b + i) for b in _BLOCKS for i in range(0x3E, 0x4D))
_NUKTAS = "".join(chr(b + 0x3C) for b in _BLOCKS if b not in (0x0B80, 0x0D00))
_VIRAMAS = "".join(chr(b + 0x4D) for b in _BLOCKS)
_ENDINGS = "".join(chr(b + i) for b in _BLOCKS for i in (1, 2, 3) if (b, i) not in ((0x0B80, 1), (0x0B80, 3)))
_LATE_NUKTA = re.compile(f"([{_VOWEL_SIGNS}{_ENDINGS}]+)([{_NUKTAS}]+)")
_REPEATED_SIGN = re.compile(f"([{_VOWEL_SIGNS}{_NUKTAS}{_VIRAMAS}{_ENDINGS}])\\1+")


def one_spelling(text: str) -> str:
    """`text` with the replacements above, each nukta before its vowel sign (canonical order has it before the
    virama), and repeated signs removed.

    This is one pass: a replacement can create a new sequence, which the next call replaces.
    """
    text = _LATE_NUKTA.sub(r"\2\1", text)
    text = _REPEATED_SIGN.sub(r"\1", text)
    text = _HALF_LETTER.sub(r"\1", text)
    return _SAME_LOOK_PATTERN.sub(lambda match: SAME_LOOK[match.group()], text)
