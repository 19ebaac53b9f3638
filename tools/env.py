"""Print versions and devices, to paste into a bug report.

python tools/env.py
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

from warmstart.tools import interruptible

with interruptible(__name__):
    import torch

    from warmstart.config import ConfigError, parse_command_line, program
    from warmstart.engine import run_tool
    from warmstart.engine.runtime.device import versions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the arguments of a command line and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        print(f"usage: {program(argv)}\n\n{(__doc__ or '').strip()}")
        return 0
    if given := parse_command_line(argv, ())[1]:
        raise ConfigError(f"command line: expected no arguments; got {' '.join(given)}")
    print("\n".join(f"{name:<12} {value}" for name, value in environment().items()))
    return 0


def environment() -> dict[str, str]:
    """Return the versions and the hardware on which results and errors may depend, by name, in words.

    >>> list(environment())[:4]
    ['warmstart', 'python', 'torch', 'torchvision']
    """
    own = versions(torch.device("cpu"))
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {
        "warmstart": version("warmstart"),
        "python": own["python"],
        "torch": own["torch"],
        "torchvision": version("torchvision"),
        "numpy": own["numpy"],
        "CUDA": f"{torch.version.cuda}, cuDNN {cudnn}" if torch.version.cuda else "torch is built without it",
        **{
            f"GPU {index}": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}"
            for index, gpu in enumerate(gpus)
        },
        **({} if gpus else {"GPU": "none found"}),
        "CPU": f"{own['cpu']} ({own['instructions']}), {os.cpu_count()} cores",
        "threads": str(own["threads"]),
        "system": platform.platform(),
    }


if __name__ == "__main__":
    run_tool(main)
