"""The config: declared keys, strict merging, durations, command lines, and errors with a fix."""

from .command_line import Flag, parse_command_line, program, started_as, usage
from .defaults import get_cfg
from .durations import MIXING, counts_steps, map_durations, resolve_durations, to_iterations
from .errors import ConfigError, did_you_mean, gathering, unknown_name
from .imports import import_function, import_module
from .moved_keys import with_new_keys
from .name_patterns import first_matches, pattern_problem
from .no_follow import no_follow, refuse_link
from .node import CfgNode, Difference
from .printable import printable
from .signatures import call, check_arguments
from .small_files import open_regular, read_small, read_small_text
from .yaml12 import parse_yaml

__all__ = [
    "MIXING",
    "CfgNode",
    "ConfigError",
    "Difference",
    "Flag",
    "call",
    "check_arguments",
    "counts_steps",
    "did_you_mean",
    "first_matches",
    "gathering",
    "get_cfg",
    "import_function",
    "import_module",
    "map_durations",
    "no_follow",
    "open_regular",
    "parse_command_line",
    "parse_yaml",
    "pattern_problem",
    "printable",
    "program",
    "read_small",
    "read_small_text",
    "refuse_link",
    "resolve_durations",
    "started_as",
    "to_iterations",
    "unknown_name",
    "usage",
    "with_new_keys",
]
