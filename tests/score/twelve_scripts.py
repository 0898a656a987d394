"""Synthetic scored utterances in twelve scripts, for tests of the report page."""

import random
from pathlib import Path

import numpy as np
import soundfile

from maya.data.measure.entry import Entry
from maya.score.page import UtteranceDetails
from maya.score.report import Utterance

# Words with conjuncts, vowel signs on both sides, nuktas and nasal signs.
WORDS = {
    "hi": "क्षेत्र विज्ञान श्रीमान संस्कृति ज़रूरत लड़का पत्थर उद्योग हिन्दी में नहीं स्त्री",
    "bn": "ক্ষমা বিজ্ঞান শ্রীমান সংস্কৃতি জরুরি ছেলে পাথর উদ্যোগ বাংলা মধ্যে নয় কেন্দ্র",
    "ta": "வணக்கம் தமிழ் ஸ்ரீ கொள்கை பௌர்ணமி கோயில் மழை நாடு அறிவியல் பள்ளி தொழில் க்ஷேத்திரம்",
    "te": "క్షేత్రం విజ్ఞానం శ్రీమాన్ సంస్కృతి తెలుగు రాష్ట్రం పాఠశాల వర్షం పుస్తకం నీళ్ళు చెట్టు గ్రామం",
    "mr": "क्षेत्र विज्ञान ज्ञानेश्वर संस्कृती महाराष्ट्र ळ्हादक दगड उद्योग मराठी मध्ये नाही पुस्तक",
    "gu": "ક્ષેત્ર વિજ્ઞાન શ્રીમાન સંસ્કૃતિ જરૂર છોકરો પથ્થર ઉદ્યોગ ગુજરાતી માં નથી પુસ્તક",
    "kn": "ಕ್ಷೇತ್ರ ವಿಜ್ಞಾನ ಶ್ರೀಮಾನ್ ಸಂಸ್ಕೃತಿ ಕನ್ನಡ ರಾಷ್ಟ್ರ ಶಾಲೆ ಮಳೆ ಪುಸ್ತಕ ನೀರು ಮರ ಗ್ರಾಮ",
    "ml": "ക്ഷേത്രം വിജ്ഞാനം ശ്രീമാൻ സംസ്കൃതി മലയാളം രാഷ്ട്രം വിദ്യാലയം മഴ പുസ്തകം വെള്ളം മരം കൊച്ചി",
    "pa": "ਖੇਤਰ ਵਿਗਿਆਨ ਸ੍ਰੀਮਾਨ ਸੱਭਿਆਚਾਰ ਪੰਜਾਬੀ ਰਾਜ ਸਕੂਲ ਮੀਂਹ ਕਿਤਾਬ ਪਾਣੀ ਰੁੱਖ ਪਿੰਡ",
    "or": "କ୍ଷେତ୍ର ବିଜ୍ଞାନ ଶ୍ରୀମାନ ସଂସ୍କୃତି ଓଡ଼ିଆ ରାଷ୍ଟ୍ର ବିଦ୍ୟାଳୟ ବର୍ଷା ପୁସ୍ତକ ପାଣି ଗଛ ଗ୍ରାମ",
    "as": "ক্ষেত্ৰ বিজ্ঞান শ্ৰীমান সংস্কৃতি অসমীয়া ৰাজ্য বিদ্যালয় বৰষুণ কিতাপ পানী গছ গাঁও",
    "en": "region science sir culture English state school rain book water tree village",
}


def utterances(count: int, seed: int = 0, *, errors: float = 0.12) -> list[Utterance]:
    """`count` utterances of 1 to 20 words, languages in turn, 25 speakers each; words are changed, removed
    and added with a probability of `errors` together. References and speakers depend on neither `seed` nor
    `errors`: other values are another system on the same data."""
    texts, rng = random.Random(0), random.Random(seed)
    codes = list(WORDS)
    rows = []
    for i in range(count):
        code = codes[i % len(codes)]
        words = WORDS[code].split()
        ref = [texts.choice(words) for _ in range(texts.randint(1, 20))]
        hyp: list[str] = []
        for word in ref:
            draw = rng.random()
            if draw < errors / 3:
                hyp.append(changed(word, rng) if rng.random() < 0.7 else rng.choice(words))
            elif draw >= 2 * errors / 3:
                hyp.append(word)
            if draw > 1 - errors / 3:
                hyp.append(rng.choice(words))
        speaker = f"{code}-speaker-{texts.randrange(25):02d}"
        rows.append(
            Utterance(
                id=f"{code}-{i:05d}", language=code, ref=" ".join(ref), hyp=" ".join(hyp),
                seconds=round(0.45 * len(ref) + texts.random(), 2), speaker=speaker,
            )
        )  # fmt: skip
    return rows


def changed(word: str, rng: random.Random) -> str:
    """A word with a letter doubled or removed."""
    place = rng.randrange(len(word))
    return word[:place] + (word[place] * 2 if rng.random() < 0.5 else "") + word[place + 1 :] or word


def details(
    rows: list[Utterance], folder: Path, seed: int = 0, *, audio: int = 60
) -> dict[str, UtteranceDetails]:
    """Noise and confidences of all, and for each a tone as audio: `audio` files of `folder` in turn."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i in range(audio):
        path = folder / f"tone {i} #.wav"  # characters that an address must escape
        samples = 0.3 * np.sin(2 * np.pi * (200 + 10 * i) * np.arange(8000) / 16000)
        soundfile.write(path, samples.astype(np.float32), 16000)
        files.append(path)
    result = {}
    for i, u in enumerate(rows):
        path = files[i % len(files)]
        entry = Entry(
            id=u.id, path=str(path), offset=None, size=None, member=None, file_size=path.stat().st_size,
            file_mtime=int(path.stat().st_mtime), sample_rate=16000, channels=1, num_samples=8000, start=None,
            duration=0.5,
        )  # fmt: skip
        confidences = tuple(round(rng.random() ** 0.3, 2) for _ in u.hyp.split())
        result[u.id] = UtteranceDetails(audio=entry, snr=rng.gauss(18, 9), confidences=confidences)
    return result
