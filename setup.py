"""One distribution, `maya`. `kernels/` and `recipes/` stay at the top of the tree, where people look
for them, and install as `maya.kernels` and `maya.recipes`: PyPI already has a package named `kernels`."""

from pathlib import Path

from setuptools import find_packages, setup

TOP = Path(__file__).parent


def packages() -> list[str]:
    inside = [f"maya.{p}" for p in find_packages("maya")]
    mapped = [f"maya.{top}" for top in ("kernels", "recipes")]
    nested = [f"maya.{top}.{p}" for top in ("kernels", "recipes") for p in find_packages(top)]
    return ["maya", *inside, *mapped, *nested]


INSTALL = [
    "torch>=2.11",
    "soxr",
    "numpy<2.4",  # Triton 3.6's interpreter needs it
    "lhotse>=1.33,<2",
    "urllib3",  # lhotse imports it without listing it
    "sentencepiece",
    "accelerate",
    "einops",
    "tensorboard",
    "pyarrow>=17",  # the tables of prepared data, and other tools' Arrow and Parquet data sets
    "soundfile",
    "pyyaml",  # the configuration in NeMo's archives
    "kaldialign",
]
MINI = ["espeakng-loader", "babel"]  # the built-in spoken corpus
ONNX = ["onnx", "onnxruntime"]  # 40 MB of wheels, so the tests of the graphs run everywhere
LLM = ["transformers>=5.23,<6", "peft>=0.18"]  # 22 MB of wheels, so the tests of LLM decoders run everywhere
DEV = [
    "pytest",
    "pytest-xdist",
    "ruff",
    "mypy",
    "pre-commit",
    "hypothesis",
    "matplotlib",
    "kaldi-native-fbank",
]

setup(
    name="maya",
    version="0.1.0",
    description="Speech recognition training, evaluation and serving in pure PyTorch",
    long_description=(TOP / "README.md").read_text() if (TOP / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=packages(),
    package_dir={"maya": "maya", "maya.kernels": "kernels", "maya.recipes": "recipes"},
    install_requires=INSTALL,
    extras_require={
        "mini": MINI,
        "plot": ["matplotlib"],
        "cloud": ["boto3"],
        "onnx": ONNX,
        "llm": LLM,
        "dev": [*MINI, *ONNX, *LLM, *DEV],
    },
    entry_points={"console_scripts": ["maya=maya.recipes.cli:main"]},
)
