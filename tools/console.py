"""The command `warmstart`, which runs every tool.

    warmstart train --config-file recipe:digits.yaml SOLVER.BASE_LR 0.01 --resume

does the same as `python tools/train_net.py` with the same arguments: same flags, same output, same exit codes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from warmstart.tools import interruptible

# Each command: the module in this folder whose main(argv) it runs, and its line in `warmstart help`.
COMMANDS = {
    "train": ("train_net", "train, resume or evaluate the model that a YAML file describes"),
    "plain-train": ("plain_train_net", "train it in one plain loop, without Trainer and hooks"),
    "check-data": ("check_data", "read every image and report damage, duplicates, leaks, balance and sizes"),
    "plot-lr": ("plot_lr", "draw and print the learning rate of every update; nothing is trained"),
    "find-lr": ("find_lr", "find a learning rate to begin with"),
    "plan-scale": ("plan_scale", "predict speed and memory on many GPUs from what one does"),
    "export-weights": ("export_weights", "write the weights of a checkpoint as a .safetensors file"),
    "env": ("env", "print versions and devices, for a bug report"),
}


def main() -> None:
    """Run the command that sys.argv names and exit with its code; 2 if there is no such command.

    torch is only imported to run a tool: help, the version and a mistyped command are answered at once.
    """
    match sys.argv[1:]:
        case [] | ["help" | "--help" | "-h"] | ["help", "help"]:
            return print(overview())
        case ["--version"]:
            from importlib.metadata import version

            return print(f"warmstart {version('warmstart')}")
        case ["help" | "--help" | "-h", command]:
            sys.argv[1:] = [command, "--help"]
    command, *words = sys.argv[1:]
    if command not in COMMANDS:
        print(f"error: command line: {describe_mistake(command, words)}", file=sys.stderr)
        sys.exit(2)
    with interruptible("__main__"):
        tool = import_module(f"warmstart.tools.{COMMANDS[command][0]}")
        from warmstart.engine import run_tool
    run_tool(partial(tool.main, words))


def overview() -> str:
    """Return the text of `warmstart --help`: one line for each command.

    >>> print(overview().splitlines()[0])
    usage: warmstart COMMAND [ARGUMENTS]
    """
    lines = ["usage: warmstart COMMAND [ARGUMENTS]", "", "Train vision models that YAML files describe.", ""]
    lines += [f"  {command:<16} {summary}" for command, (_, summary) in COMMANDS.items()]
    lines += [f"  {'help [COMMAND]':<16} print this, or the flags of a command; so does COMMAND --help"]
    return "\n".join([*lines, f"  {'--version':<16} print the version"])


def describe_mistake(word: str, others: Sequence[str]) -> str:
    """Return one sentence for a first argument that is not a command; it says what to type instead.

    Args:
        word: the first argument of `warmstart`.
        others: the arguments after it.

    >>> describe_mistake("plot_lr", ["SEED", "1"])
    'unknown command plot_lr; did you mean warmstart plot-lr?'
    >>> describe_mistake("--resume", [])
    'expected a command before --resume, such as warmstart train --resume'
    >>> describe_mistake("photos.yaml", [])
    'expected a command before photos.yaml; to train, write warmstart train --config-file photos.yaml'
    """
    from warmstart.config import did_you_mean, printable

    shown = printable(word)
    if word == "help":
        return f"help takes one command; got {printable(' '.join(others))}"
    if word.startswith("-"):
        return f"expected a command before {shown}, such as warmstart train {shown}"
    if word.endswith((".yaml", ".yml")):
        return f"expected a command before {shown}; to train, write warmstart train --config-file {shown}"
    known = [*COMMANDS, "help"]
    hint = did_you_mean(Path(word).stem, known, f"; known: {', '.join(known)}", show="warmstart {}".format)
    return f"unknown command {shown}{hint}"


if __name__ == "__main__":
    main()
