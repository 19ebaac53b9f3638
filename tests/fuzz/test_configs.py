"""Fuzz tests of configs: any YAML file or command line gives a config or one clear error."""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.config import CfgNode, gathering, get_cfg, resolve_durations
from warmstart.engine import read_command_line, run_tool
from warmstart.solver import PLATEAU, check_solver
from warmstart.solver.optimizers import OPTIMIZERS
from warmstart.solver.plateau import Plateau
from warmstart.solver.registry import SCHEDULES
from warmstart.tools.train_net import FLAGS

EPOCH = Fraction(1437, 16)
KEYS = [key for key, _ in get_cfg().fields()]
OPEN = ["MODEL.ARGS", "SOLVER.OPTIMIZER_ARGS", "SOLVER.LR_SCHEDULER_ARGS"]

# Ways that YAML 1.2 and 1.1 write values, and what only looks like one.
NUMBERS = "0 -0 +1 010 1_000 0o17 0x1F 0b1 1e-4 1E5 1. .5 1.5e+3 1e999 -1e-999 .inf -.INF +.Inf .nan .NaN inf nan"
WORDS = "~ null NULL none true TRUE False yes on 12:30 2024-01-01 = << [] {} [[]] [{}] {{}} [ } ( ),( *a *b !!str"
OTHERS = "90ep 0ep 5% 0% 200% 1e3ep -5% ٣ep ' \" '' | >- % # 1,2 1,a recipe:digits.yaml a:b .a:b é 😀"
SPELLINGS = [
    *(*NUMBERS.split(), *WORDS.split(), *OTHERS.split()),
    *("", "- a", "? a", ": a", "a: b", "a #b", "(1, 2)", "1.5 ep", "&a 1", "&b [1, 2]", "&c {x: 1}", "!!set {a}"),
    *('"\\0"', '"\\ud800"', "\u00a0", "\ufeff", "\x07", "\udcff", "!!python/name:os.system", "!x 1"),
    *("9" * 400, "9" * 5000, "[" * 60 + "]" * 60),
]
names = st.sampled_from(["a", "max_lr", "step_size", "1", "true", "é", "", "a.b", "<<", "_BASE_", "NAME", "ARGS"])
scalars = st.sampled_from(SPELLINGS) | st.integers().map(str) | st.floats().map(repr) | st.text().map(json.dumps)
texts = st.recursive(
    scalars | st.text(max_size=8),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda found: f"[{', '.join(found)}]"),
        st.dictionaries(names, inner, max_size=3).map(
            lambda found: "{" + ", ".join(f"{key}: {value}" for key, value in found.items()) + "}"
        ),
    ),
    max_leaves=6,
)
# What many keys take.
EXAMPLES = dict.fromkeys(field.example for _, field in get_cfg().fields())
plausible = st.sampled_from([*EXAMPLES, "0.5", "3", "1e-3", "[1, 2]", "30ep", "Adam", "true", "[]"])
keys = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(KEYS).map(lambda key: key.lower()),
    st.sampled_from([f"{key}.x" for key in (*OPEN, "SOLVER.BASE_LR")]),
    st.sampled_from(["MODEL", "SOLVER", "SOLVER.EMA", *OPEN, "_BASE_", "SOLVER.BASE_RL", "SOLVER.", "."]),
    names,
)
lines = st.tuples(keys, plausible | texts).map(lambda pair: f"{json.dumps(pair[0])}: {pair[1]}\n")
settings = st.tuples(st.sampled_from(KEYS), plausible).map(": ".join)
scraps = st.sampled_from([*"[]{}:,-?&*!|>'\"%@`#\n\t a1.~", "SOLVER", "<<: ", "---\n"])
documents = st.binary() | st.one_of(
    st.lists(settings).map("\n".join),
    st.lists(lines, max_size=5).map("".join),
    st.lists(scraps).map("".join),
    st.text(),
).map(lambda text: text.encode("utf-8", "surrogatepass"))

# A command line cannot contain NUL.
words = (texts | st.text(max_size=8)).map(lambda text: text.replace("\0", ""))
flags = st.sampled_from(
    [flag.name for flag in FLAGS] + ["--import", "--config-file", "--print-config", "--x", "--"]
)
command_lines = st.lists(
    st.one_of(
        st.tuples(keys, plausible | words),
        st.tuples(keys, plausible | words).map(lambda pair: ("=".join(pair),)),
        st.tuples(flags),
        st.tuples(flags, st.sampled_from(["", "json", "no.such", "a b", "x.py", "/", "x" * 300])),
        st.tuples(words),
    ),
    max_size=4,
).map(lambda found: [word for part in found for word in part])

# Values as Python or a parsed file has them.
plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-1, 200),
        st.floats(),
        st.floats(0, 2),
        st.text(max_size=5),
        st.sampled_from(["30ep", "5%", "cos", "math:sqrt", "no_such:f", "\ud800", 10**400, [0.9, 0.99], []]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def arguments(functions: Mapping[str, Callable[..., Any]], name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of the function of that name, or of no one."""
    known = list(inspect.signature(functions[name]).parameters) if name in functions else []
    return st.dictionaries(st.sampled_from(["a", *known]), plain, max_size=4)


def named(functions: Mapping[str, Callable[..., Any]], name: str, its: str) -> st.SearchStrategy[dict[str, Any]]:
    """A name under one key, and its arguments under another."""
    choice = st.sampled_from([*functions, "SequentialLR"]) | st.text(max_size=5)
    return choice.flatmap(lambda of: st.fixed_dictionaries({name: st.just(of), its: arguments(functions, of)}))


def records(required: Sequence[str], *others: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Mappings with these keys."""
    wild = plain | st.text() | st.sampled_from(["^fc", ".", "("])
    one = st.fixed_dictionaries(dict.fromkeys(required, wild), optional=dict.fromkeys(others, wild))
    return st.lists(one, max_size=3)


entries = st.lists(named(SCHEDULES, "NAME", "ARGS"), max_size=3)
phases = st.lists(
    st.tuples(named(SCHEDULES, "NAME", "ARGS"), st.integers(0, 200) | plain).map(lambda e: e[0] | {"UNTIL": e[1]})
)
solvers = st.one_of(
    named({**SCHEDULES, PLATEAU: Plateau}, "LR_SCHEDULER_NAME", "LR_SCHEDULER_ARGS"),
    st.fixed_dictionaries({"LR_SCHEDULER_NAME": st.just("SequentialLR"), "LR_PHASES": phases | plain}),
    st.fixed_dictionaries({"LR_SCHEDULER_NAME": st.just("ChainedScheduler"), "LR_FACTORS": entries | plain}),
    named(OPTIMIZERS, "OPTIMIZER", "OPTIMIZER_ARGS"),
    st.fixed_dictionaries({"PARAM_GROUPS": records(["MATCH"], "LR", "LR_FACTOR", "WEIGHT_DECAY", "NAME") | plain}),
    st.fixed_dictionaries({"WARMUP_UNTIL": records(["METRIC"], "BELOW", "ABOVE").map(lambda e: e[0] if e else e)}),
    st.dictionaries(
        st.sampled_from([key.removeprefix("SOLVER.") for key in KEYS if key.startswith("SOLVER.")]),
        plain | plausible,
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples, because a separate folder for each would take too long."""
    return tmp_path_factory.mktemp("configs")


def run(argv: Sequence[str], folder: Path) -> None:
    """Give a tool these words, and check everything it can check without data."""
    found: list[CfgNode] = []

    def main() -> int:
        found.append(read_command_line(argv, FLAGS, "Fuzz.")[1])
        assert_same_after_dump(found[0], folder)
        check(found[0])
        return 0

    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as end:
        run_tool(main)
    assert end.value.code in (0, 2)
    if end.value.code == 0:
        assert said.getvalue() == ""
    else:
        first, *others = said.getvalue().removesuffix("\n").split("\n")
        assert first == f"error: {len(others)} problems:" if others else first.startswith("error: ")


def check(cfg: CfgNode) -> None:
    check_solver(resolve_durations(cfg, EPOCH), EPOCH)


def assert_same_after_dump(cfg: CfgNode, folder: Path) -> None:
    file, again = folder / "dumped.yaml", get_cfg()
    file.write_text(cfg.dump(), encoding="utf-8")
    again.merge(file)
    assert repr(again.to_dict()) == repr(cfg.to_dict())


# What a fuzzer has found.
LAUGHS = [f"a{n}: &a{n} {{{', '.join(f'k{m}: *a{n - 1}' for m in range(9))}}}" for n in range(1, 10)]
FOUND = {
    "a path with NUL": b'_BASE_: "a\\0b"',
    "a path of half a surrogate": b'_BASE_: "\\ud800"',
    "a path that is too long": b"_BASE_: " + b"a" * 5000,
    "no such user": b"_BASE_: ~no_such_user/x.yaml",
    "a number that Python does not print": b"SOLVER.MAX_ITER: 0x" + b"f" * 5000,
    "the same as an argument": b"SOLVER.OPTIMIZER_ARGS: {x: 0x" + b"f" * 5000 + b"}",
    "more epochs than Python reads": b"SOLVER.MAX_ITER: " + b"9" * 5000 + b"ep",
    "a key of two lines": b'"a\\nb": 1',
    "line breaks of other alphabets": b'MODEL.ARGS: {"\\N": "\\L \\P"}',
    "an argument too few": b"SOLVER: {OPTIMIZER: AdamW, OPTIMIZER_ARGS: {betas: []}}",
    "a billion laughs": "\n".join(["a0: &a0 {x: 1}", *LAUGHS]).encode(),
}
FOUND_WORDS = {
    "brackets without end": ["SOLVER.STEPS", "[" * 3000],
    "brackets too deep": ["SOLVER.OPTIMIZER_ARGS.x", "[" * 3000 + "]" * 3000],
    "a list in itself": ["SOLVER.OPTIMIZER_ARGS.x", "&a [*a]"],
    "a mapping in itself": ["INPUT.TRANSFORMS_TRAIN", "[&a {b: *a}]"],
    "no such user": ["--config-file", "~no_such_user/x.yaml"],
    "a relative import": ["--import", ".x"],
    "a key of two lines": ["a\nb=1"],
}


@pytest.mark.parametrize("document", FOUND.values(), ids=FOUND)
def test_a_file_that_once_broke_something(folder: Path, document: bytes) -> None:
    file = folder / "x.yaml"
    file.write_bytes(document)
    run(["--config-file", str(file)], folder)


@pytest.mark.parametrize("argv", FOUND_WORDS.values(), ids=FOUND_WORDS)
def test_a_command_line_that_once_broke_something(folder: Path, argv: list[str]) -> None:
    run(argv, folder)


@given(documents)
def test_a_file_ends_in_a_config_or_an_error(folder: Path, document: bytes) -> None:
    file = folder / "x.yaml"
    file.write_bytes(document)
    run(["--config-file", str(file)], folder)


@given(command_lines)
def test_a_command_line_ends_in_a_config_or_an_error(folder: Path, argv: list[str]) -> None:
    run(argv, folder)


@given(solvers)
def test_a_solver_section_ends_in_a_config_or_an_error(folder: Path, solver: dict[str, Any]) -> None:
    problems: list[str] = []
    cfg = get_cfg()
    with gathering(problems):
        cfg.merge_from_other_cfg({"SOLVER": solver})
        assert_same_after_dump(cfg, folder)
        check(cfg)
    assert all("\n" not in problem for problem in problems)
