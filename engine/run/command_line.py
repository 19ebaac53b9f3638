"""Command lines: flags, config file and overrides."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from warmstart.config import CfgNode, Flag, get_cfg, import_module, parse_command_line, printable, program, usage

CONFIG_FLAGS = (
    Flag("--config-file", "one", "YAML file; recipe:NAME.yaml takes one that ships with the package"),
    Flag("--import", "one", "module that registers your data sets, models, schedules, hooks", repeated=True),
    Flag("--print-config", "none", "print what differs from the defaults, and who set it, then stop"),
)


def read_command_line(
    argv: Sequence[str] | None, flags: Sequence[Flag], summary: str
) -> tuple[dict[str, Any], CfgNode]:
    """Return a tool's flags and the config: defaults, then the file, then the overrides, frozen.

    --help and --print-config print and exit. Modules given with --import are imported first, from the Python path
    or the current folder.

    Args:
        argv: the arguments after the program's name; None: sys.argv.
        flags: the tool's flags; `CONFIG_FLAGS` are added.
        summary: what the tool does, for --help.

    Raises:
        ConfigError: the command line or the file is invalid.
    """
    found, (cfg,) = _read_command_line(argv, (*CONFIG_FLAGS, *flags), summary)
    return found, cfg


def read_configs(
    argv: Sequence[str] | None, flags: Sequence[Flag], summary: str
) -> tuple[dict[str, Any], list[CfgNode]]:
    """Return a tool's flags and one config for each --config-file, in order; overrides apply to each.

    Without a file the only config has the defaults. Otherwise like `read_command_line`.
    """
    one_file, *others = CONFIG_FLAGS
    files = one_file._replace(help=f"{one_file.help}; may be repeated", repeated=True)
    return _read_command_line(argv, (files, *others, *flags), summary)


def _read_command_line(
    argv: Sequence[str] | None, flags: Sequence[Flag], summary: str
) -> tuple[dict[str, Any], list[CfgNode]]:
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        print(usage(program(argv), summary, flags))
        raise SystemExit(0)
    found, overrides = parse_command_line(argv, flags, get_cfg().has_key)
    for module in found["import"]:
        import_module(module, f"command line: --import {module}")
    given = found["config_file"]  # a list if the flag may be repeated
    files = given if isinstance(given, list) else [given]
    cfgs = []
    for file in files or [None]:
        cfg = get_cfg()
        cfg.merge(file or "", overrides, source="command line")
        cfg.freeze()
        cfgs.append(cfg)
    if found["print_config"]:
        print("\n\n".join(map(describe_config, cfgs)))
        raise SystemExit(0)
    return found, cfgs


def describe_config(cfg: CfgNode) -> str:
    """Return one line for each key that is not at its default: value, default, source.

    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.BASE_LR", "0.1"])
    >>> print(describe_config(cfg))
    SOLVER.BASE_LR: 0.1  (default 0.001; set by override)
    """
    lines = []
    for difference in cfg.differences(get_cfg()):
        default = "none" if difference.default is None else difference.default
        text = f"{difference.key}: {difference.value}  (default {default}; set by {difference.source})"
        lines.append(printable(text))
    return "\n".join(lines) or "every key is at its default"
