"""Packaging: the folders at the top of the repository become the namespace package `warmstart`."""

from pathlib import Path

from setuptools import setup

# The namespace has no __init__.py; a config.py or data/ in a user's folder can therefore never shadow ours.
ROOMS = {
    "config": ["recipes"],
    "data": ["digits", "datasets", "inspection", "loaders", "sampling", "transforms"],
    "engine": ["analysis", "checkpoint", "distributed", "hooks", "loop", "records", "run", "runtime"],
}
FOLDERS = [
    folder
    for top in ("config", "solver", "data", "modeling", "tasks", "engine", "tools")
    for folder in (top, *(f"{top}/{room}" for room in ROOMS.get(top, [])))
]

TIMM = ["timm>=1.0.25"]
WEBDATASET = ["webdataset>=1.0"]
DETECTION = ["hotcoco>=1.3"]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "pycocotools>=2.0.8",
    *DETECTION,
    *TIMM,
    *WEBDATASET,
]

setup(
    name="warmstart",
    version="0.1.0",
    description="Config-driven PyTorch training: exact schedules, and runs that continue bit for bit.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["pytorch", "training", "computer vision", "learning rate schedule", "checkpointing"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=["warmstart." + folder.replace("/", ".") for folder in FOLDERS],
    package_dir={"warmstart." + folder.replace("/", "."): folder for folder in FOLDERS},
    entry_points={"console_scripts": ["warmstart = warmstart.tools.console:main"]},
    package_data={
        **{f"warmstart.{folder}": ["py.typed"] for folder in FOLDERS if "/" not in folder},
        "warmstart.config.recipes": ["*.yaml"],
        "warmstart.data.digits": ["digits.npz", "NOTICE.md"],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "yacs>=0.1.8",
        "fvcore>=0.1.5.post20221221",
        "tensorboard>=2.15",
        "torchmetrics>=1.4",
        "tqdm>=4.60",
        "matplotlib>=3.7",
        "safetensors>=0.4.3",
        "pyyaml>=6",
        "numpy",
    ],
    extras_require={
        "test": TEST,
        "detection": DETECTION,
        "timm": TIMM,
        "webdataset": WEBDATASET,
        "interop": ["accelerate>=1.2", "lightning>=2.5"],
        "bench": [
            *TIMM,
            "mmengine>=0.10",
            "accelerate>=1.2",
            "lightning>=2.5",
            "pytorch-ignite>=0.5",
            "transformers>=4.46",
        ],
        "dev": [*TEST, "ruff>=0.8", "mypy>=1.13", "types-PyYAML", "types-tqdm", "scikit-learn", "build"],
    },
)
