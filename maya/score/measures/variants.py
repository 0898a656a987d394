"""Spellings of one word that a lenient score accepts: a table of rules, each with its source.

Each rule brings accepted spellings to one form, so two words count as equal if `one_form` of both is equal.
A rule is a function of one word: words that are equal stay equal, and so no rule can make a score worse.
A rule is listed only if an authority calls both spellings correct, or if they differ in what a font shows
and not in what is said. Letters that distinguish words are left alone: Hindi ड and ड़, Bengali ড and ড়.

Numbers in words and digits are a matter of several words: `maya.score.measures.numbers`.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

_HINDI = "Central Hindi Directorate, Devanagari Lipi tatha Hindi Vartani ka Manakikaran (IS 16500:2012)"
_JOINERS = re.compile("[\u200b-\u200d\u2060\ufeff]")

# Blocks in which an anusvara (U+xx02) may stand for the nasal of the next consonant's class.
_NASAL_BLOCKS = (0x0900, 0x0A80, 0x0B00, 0x0C00, 0x0C80, 0x0D00)
_CLASSES = (0x15, 0x1A, 0x1F, 0x24, 0x2A)  # first of four stops: k, c, tt, t, p; the nasal follows them


def _homorganic(block: int, classes: tuple[int, ...] = _CLASSES) -> tuple[re.Pattern[str], str]:
    """A nasal letter with a virama before a stop of its own class, and the block's anusvara."""
    pairs = [
        f"{chr(block + first + 4)}{chr(block + 0x4D)}(?=[{chr(block + first)}-{chr(block + first + 3)}])"
        for first in classes
    ]
    return re.compile("|".join(pairs)), chr(block + 0x02)


_HOMORGANIC = (*(_homorganic(block) for block in _NASAL_BLOCKS), _homorganic(0x0980, (0x15,)))

# Letters whose nukta marks a foreign sound: k kh g j ph, and in Devanagari c jh y.
_NUKTA = re.compile(
    "(?<=[\u0915-\u0917\u091a\u091c\u091d\u092b\u092f])\u093c"
    "|(?<=[\u0a16\u0a17\u0a1c\u0a2b\u0a32])\u0a3c|(?<=[\u0a95-\u0a97\u0a9c\u0a9d\u0aab])\u0abc"
    "|(?<=[\u0c95-\u0c97\u0c9c\u0cab])\u0cbc"
)
_CHILLUS = {
    "\u0d7a": "\u0d23", "\u0d7b": "\u0d28", "\u0d7c": "\u0d30", "\u0d7d": "\u0d32", "\u0d7e": "\u0d33",
    "\u0d7f": "\u0d15", "\u0d54": "\u0d2e", "\u0d55": "\u0d2f", "\u0d56": "\u0d34",
}  # fmt: skip
_LETTERS_OF_CHILLUS = {letter: chillu for chillu, letter in _CHILLUS.items()}
_OLD_CHILLU = re.compile(f"([{''.join(_LETTERS_OF_CHILLUS)}])\u0d4d\u200d")
# Before a consonant; at the end of a word the letter with a virama is another sound: അവൻ (he), അവന് (to him).
_CHILLU_INSIDE = re.compile(f"([{''.join(_CHILLUS)}])\u0d4d?\u200c?(?=[\u0d15-\u0d3a])")
# Words that candrabindu tells apart, as the standard names them: to laugh and swan, yard and woman.
_TOLD_APART = re.compile("^(हँस|अँगना)$")
# A glide between two vowels at the end of a word: गयी, गये, चाहिये, गयीं, गयें.
_GLIDE = re.compile("(?<=[\u0905-\u0914\u0915-\u0939\u093c\u093e-\u094c])\u092f([\u0940\u0947])(?=\u0902?$)")
_VOWELS = {"\u0940": "\u0908", "\u0947": "\u090f"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SpellingRule:
    """A line of the table. languages: codes, empty for all but those in `without`. apply: any accepted
    spelling to one form."""

    name: str
    accepts: str
    source: str
    apply: Callable[[str], str]
    languages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def scope(self) -> str:
        """Its languages, for the documentation."""
        return " ".join(self.languages) or ("all but " * bool(self.without) + " ".join(self.without)) or "all"

    def holds_for(self, language: str) -> bool:
        """Whether the rule applies to a language."""
        return language not in self.without and (not self.languages or language in self.languages)


def _letters(pairs: dict[str, str]) -> Callable[[str], str]:
    table = str.maketrans(pairs)
    return lambda word: word.translate(table)


def _anusvara(word: str) -> str:
    for pattern, sign in _HOMORGANIC:
        word = pattern.sub(sign, word)
    return word


def _candrabindu(word: str) -> str:
    return word if _TOLD_APART.match(word) else word.translate({0x0901: 0x0902, 0x0A81: 0x0A82})


def _chillus(word: str) -> str:
    word = _OLD_CHILLU.sub(lambda match: _LETTERS_OF_CHILLUS[match[1]], word)
    word = _CHILLU_INSIDE.sub(lambda match: _CHILLUS[match[1]] + "\u0d4d", word)
    return word.replace("\u0d4e", "\u0d30\u0d4d")


def _digits(word: str) -> str:
    return "".join(str(unicodedata.decimal(c)) if unicodedata.category(c) == "Nd" else c for c in word)


RULES: tuple[SpellingRule, ...] = (
    SpellingRule(
        name="digits",
        accepts="native and ASCII digits: १२ and 12",
        source="Unicode Character Database, property Decimal_Digit",
        apply=_digits,
    ),
    SpellingRule(  # before the joiners are taken away, for one of them makes a chillu
        name="chillu",
        accepts="Malayalam chillu letters or, as before Unicode 5.1, the consonant with a virama and ZWJ; "
        "inside a word also with a virama alone, and the dot reph: നൻമ, നന്മ; not അവൻ and അവന്",
        source="The Unicode Standard, section 12.9, on chillu characters, dot reph and the sequence nta",
        apply=_chillus,
    ),
    SpellingRule(
        name="half u and au",
        accepts="traditional and reformed signs: അവനു് and അവന്, ൌ and ൗ",
        source="The Unicode Standard, section 12.9, on samvruthokaram and on the au length mark",
        apply=lambda word: word.replace("\u0d41\u0d4d", "\u0d4d").replace("\u0d4c", "\u0d57"),
        languages=("ml",),
    ),
    SpellingRule(
        name="joiners",
        accepts="with and without ZWJ, ZWNJ and other invisible characters",
        source="The Unicode Standard, chapter 12 (joiners ask for a form of a conjunct) and section 23.2",
        apply=lambda word: _JOINERS.sub("", word),
    ),
    SpellingRule(
        name="nukta",
        accepts="the dot of a foreign sound composed, decomposed or absent: फ़ and फ, ज़ and ज, ਖ਼ and ਖ",
        source=_HINDI + ": the dot is needed only where the "
        "foreign sound must be shown; The Unicode Standard, sections 12.1 and 12.3",
        apply=lambda word: _NUKTA.sub("", word),
        without=("ks",),  # Kashmiri च़ and ज़ are sounds of its own
    ),
    SpellingRule(
        name="khanda ta",
        accepts="ৎ or ত with a virama",
        source="The Unicode Standard, section 12.2, on khanda ta",
        apply=_letters({"\u09ce": "\u09a4\u09cd"}),
    ),
    SpellingRule(
        name="nasal letter",
        accepts="anusvara or the nasal letter of the next consonant's class: हिंदी and हिन्दी, సంబంధం and "
        "సమ్బన్ధం; in Bengali and Assamese before k, kh, g, gh only",
        source=_HINDI + ", on the fifth letter of a class; The "
        "Unicode Standard, section 12.1, on anusvara",
        apply=_anusvara,
    ),
    SpellingRule(
        name="candrabindu",
        accepts="candrabindu or anusvara in Devanagari and Gujarati: माँ and मां; "
        "not हँस and हंस, अँगना and अंगना",
        source=_HINDI + ": anusvara may stand for candrabindu, and does above a vowel sign over the line; "
        "these two pairs are other words",
        apply=_candrabindu,
    ),
    SpellingRule(
        name="tippi",
        accepts="tippi or bindi in Gurmukhi: ਸੰਤ and ਸਂਤ",
        source="The Unicode Standard, section 12.3: the vowel decides which of the two is written",
        apply=_letters({"\u0a70": "\u0a02"}),
    ),
    SpellingRule(
        name="ra",
        accepts="Assamese ৰ or Bengali র; not Assamese ৱ (wa) and ব (ba)",
        source="The Unicode Standard, section 12.2: Assamese writes this letter for the ra of Bengali",
        apply=_letters({"\u09f0": "\u09b0"}),
        languages=("as", "bn"),
    ),
    SpellingRule(
        name="glide",
        accepts="Hindi ये, यी or ए, ई at the end after a vowel: गयी and गई, चाहिये and चाहिए",
        source=_HINDI + ", on the glide y",
        apply=lambda word: _GLIDE.sub(lambda match: _VOWELS[match[1]], word),
        languages=("hi",),
    ),
)  # fmt: skip


@lru_cache(maxsize=1 << 16)
def one_form(word: str, language: str) -> str:
    """`word` with all rules of its language applied; words that are accepted for one another have one form.

    A word that has nothing but invisible characters stays as it is: a token is never empty.
    """
    text = unicodedata.normalize("NFC", word)
    for rule in RULES:
        if rule.holds_for(language):
            text = rule.apply(text)
    return unicodedata.normalize("NFC", text) or word


def rules_table() -> str:
    """The rules as a Markdown table, for the documentation."""
    lines = ["| rule | accepts | languages | source |", "|---|---|---|---|"]
    for rule in RULES:
        lines.append(f"| {rule.name} | {rule.accepts} | {rule.scope} | {rule.source} |")
    return "\n".join(lines) + "\n"
