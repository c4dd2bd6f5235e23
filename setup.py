"""Packaging of metro_jax: a light core for inference and conversion, extras for everything else."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "metro_jax/version.py").read_text(encoding="utf-8")).group(1)

# The core has no TensorFlow and no torch: text, model, objectives, decoding, conversion and inference run on it alone.
CORE = ["flax", "huggingface-hub", "jax", "jaxtyping", "ml-dtypes", "numpy", "rich", "safetensors", "sentencepiece"]
TRAINING = [
    "clu",
    "gin-config",
    "matplotlib",
    "optax",
    "orbax-checkpoint",
    "pyarrow",  # the layout of P3 that the Hub shows is parquet
    "protobuf>=5,<7",  # TensorFlow 2.21 and seqio work together on protobuf 6
    "sentencepiece<0.2.3",  # 0.2.3 carries protobuf 7 code, which seqio imports and TensorFlow's protobuf 6 refuses
    "seqio",
    "tensorboard",  # clu.metric_writers imports it, TensorFlow 2.21 no longer brings it
    "tensorflow",
    "tensorflow-text",
]
METRICS = ["rouge-score", "sacrebleu"]  # of generated answers; both pure Python
DATA = [
    "google-crc32c",  # checksums of TFRecords, in C
    "numba",  # the tokenizer's inner loops over the bytes of a corpus, compiled to machine code
    "sentencex",  # sentences of documents of one line: kept by Wikimedia, 300 languages, no dependencies, 30 MB/s
    "zstandard",
]
BEAM = ["apache-beam"]  # the preparation of corpora that outgrow one machine
EVALUATION = ["matplotlib", "pyarrow", "scipy"]  # plots, P3 and MMLU as parquet, intervals and tests
HARNESS = ["lm-eval"]  # EleutherAI's lm-evaluation-harness: no torch, but datasets, pandas and scikit-learn, 250 MB
TPU_PLAN = ["libtpu"]  # the TPU compiler, 213 MB, which runs on any Linux host: `metro-jax plan`
TEST = ["beartype", "build", "ipykernel", "nbclient", "nbformat", "pyright", "pytest", "pytest-xdist", "ruff"]

setup(
    name="metro_jax",
    version=VERSION,
    description="METRO-T0 in JAX: pretraining with model-generated signals, T0 finetuning, conversion and inference",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # `tasks` and `gin_configs` live at the top level for people, but a package called plain `tasks` would collide.
    packages=[*find_packages(include=["metro_jax", "metro_jax.*"]), "metro_jax.tasks", "metro_jax.gin_configs"],
    package_dir={"metro_jax.tasks": "tasks", "metro_jax.gin_configs": "gin_configs"},
    package_data={
        "metro_jax": ["py.typed", "data/t0/*.csv", "data/t0/*.json", "evaluation/*.json"],
        "metro_jax.gin_configs": ["**/*.gin"],
    },
    install_requires=CORE,
    extras_require={
        "train": TRAINING + METRICS,
        "metrics": METRICS,
        "data": DATA,
        "beam": DATA + BEAM,
        "eval": EVALUATION,
        "harness": HARNESS,
        "tpu": ["jax[tpu]", "google-cloud-storage"],  # Orbax asks a bucket what kind it is
        "tpu-plan": TPU_PLAN,
        "test": TEST,
        "all": TRAINING + METRICS + DATA + BEAM + EVALUATION + HARNESS + TEST,
    },
    entry_points={"console_scripts": ["metro-jax=metro_jax.cli:main"]},
)
