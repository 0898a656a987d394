"""The distribution `maya-asr`, which imports as `maya`: the name `maya` on the package index is taken.

`kernels/`, `recipes/` and `egs/` stay at the top of the tree, where people look for them. They install as
`maya.kernels`, `maya.recipes` and `maya.egs`, because a package named `kernels` exists on the index too.
constraints.txt holds the versions that were tested.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

TOP = Path(__file__).resolve().parent


def version() -> str:
    match = re.search(r'^__version__ = "(.+)"$', (TOP / "maya" / "__init__.py").read_text(), re.MULTILINE)
    assert match, "maya/__init__.py names no version"
    return match[1]


def packages() -> list[str]:
    inside = [f"maya.{p}" for p in find_packages(str(TOP / "maya"))]
    mapped = [f"maya.{top}" for top in ("kernels", "recipes")]
    nested = [f"maya.{top}.{p}" for top in ("kernels", "recipes") for p in find_packages(str(TOP / top))]
    corpora = sorted({f"maya.egs.{path.parent.name}" for path in (TOP / "egs").glob("*/*.py")})
    return ["maya", *inside, *mapped, *nested, "maya.egs", *corpora]


INSTALL = [
    "torch>=2.11",
    "numpy",
    "lhotse>=1.33,<3",
    "urllib3",  # lhotse 1.33 imports it without listing it
    "sentencepiece",
    "accelerate",
    "safetensors",  # the weights in Hugging Face's folders; accelerate brings it too
    "tensorboard",
    "pyarrow>=17",  # the tables of prepared data, and other tools' Arrow and Parquet data sets
    "soundfile",
    "soxr",
    "pyyaml",  # the configuration in NeMo's archives
    "kaldialign",
    "regex",  # grapheme clusters
    "tqdm",  # progress of preparation and transcription
    "pysubs2",  # subtitles: srt and vtt
    "praatio",  # Praat's TextGrid
    "silero-vad>=6.2",  # the weights of voice activity detection; its code is not imported
]
MINI = ["espeakng-loader", "babel"]  # the built-in spoken corpus
PLOT = ["matplotlib"]
CLOUD = ["boto3"]
ONNX = ["onnx", "onnxruntime"]
LLM = ["transformers>=5.23,<6", "peft>=0.18"]
FOUR_BIT = ["bitsandbytes>=0.48,<1"]  # encoders with weights of 4 bits
HUB = ["huggingface-hub>=1,<3"]  # models by their names on the hub, hf:owner/name
RAY = ["ray>=2.50"]  # preparation on several machines
MIC = ["sounddevice"]
PITCH = ["torchcrepe>=0.0.24,<0.1", "librosa>=0.11,<1"]  # teachers of egs/heads
PHONEMES = [*MINI, "panphon>=0.22.2,<0.23"]  # egs/phonemes: a spoken corpus, articulatory features of IPA
KENLM = ["kenlm"]  # binaries of KenLM; ARPA files need no package
MEDIA = ["av"]  # PyAV decodes m4a, mp4 and webm
SCORE = ["whisper-normalizer>=0.1.15,<0.2", "indic-numtowords>=1.1,<2"]  # normal forms, numbers in words
MEETINGS = ["meeteval>=0.4.3,<0.5"]  # cpWER, tcpWER, ORC-WER; it is built when installed, by a C++ compiler
SEPARATION = ["pesq>=0.0.4,<0.1", "pystoi>=0.4.1,<0.5"]  # measures; pesq is built by a C compiler
SERVE = ["starlette>=1.0", "uvicorn>=0.40", "websockets>=15", "python-multipart", "prometheus-client"]
SPEECH = ["espeakng-loader>=0.2.4"]  # speech out of the server
PIPER = ["piper-tts>=1.8,<2"]
KOKORO = ["kokoro>=0.9.4,<1"]  # it brings spacy and more
CLIENTS = ["httpx", "openai>=3", "deepgram-sdk>=7.17"]  # of the server, in its tests
S3_SERVER = ["moto[s3]>=5.1", "flask", "flask-cors"]  # moto[server] brings a hundred services more
TESTS = [
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "kaldi-native-fbank",  # a second opinion on the filter bank
    "jiwer",  # a second opinion on error rates
    "graphemeu",  # a second opinion on grapheme clusters
    "triton; platform_system == 'Linux'",  # runs the kernels on a CPU; torch's CPU build does not bring it
]
CHECKS = ["ruff", "mypy", "pre-commit"]

setup(
    name="maya-asr",
    version=version(),
    description="Speech recognition training, evaluation and serving in pure PyTorch",
    long_description=(TOP / "README.md").read_text() if (TOP / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=packages(),
    package_data={
        "maya.kernels.joint": ["forms.json"],
        "maya.score.page": ["static/*"],
        "maya.serve.page": ["static/*"],
    },
    package_dir={"maya": "maya", "maya.kernels": "kernels", "maya.recipes": "recipes", "maya.egs": "egs"},
    install_requires=INSTALL,
    extras_require={
        "mini": MINI,
        "plot": PLOT,
        "cloud": CLOUD,
        "onnx": ONNX,
        "llm": LLM,
        "4bit": FOUR_BIT,
        "hub": HUB,
        "media": MEDIA,
        "kenlm": KENLM,
        "score": SCORE,
        "meetings": MEETINGS,
        "separation": SEPARATION,
        "mic": MIC,
        "phonemes": PHONEMES,
        "pitch": PITCH,
        "ray": RAY,
        "serve": SERVE,
        "speech": SPEECH,
        "piper": PIPER,
        "kokoro": KOKORO,
        "dev": [
            *MINI,
            *PLOT,
            *ONNX,
            *LLM,
            *HUB,
            *MEDIA,
            *SCORE,
            *CLOUD,
            *S3_SERVER,
            *RAY,
            *SERVE,
            *CLIENTS,
            *TESTS,
            *CHECKS,
        ],
    },
    entry_points={"console_scripts": ["maya=maya.recipes.cli:main"]},
)
