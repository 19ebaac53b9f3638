"""Config files, their base files, and their mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.config.sources import load_file, pairs

Merged = Callable[..., CfgNode]
Write = Callable[..., str]


def values(cfg: CfgNode) -> dict[str, Any]:
    return {d.key: d.value for d in cfg.differences(get_cfg())}


@pytest.mark.parametrize(
    "text",
    [
        "SOLVER:\n  BASE_LR: 0.5\nSEED: 4\n",
        b"\xef\xbb\xbfSOLVER:\r\n  BASE_LR: 0.5\r\nSEED: 4\r\n",
        "SOLVER.BASE_LR: 0.5\nSEED: 4\n",
        "{SOLVER: {BASE_LR: 0.5}, SEED: 4}",
        "# a comment\n---\nSEED: 4\nSOLVER: {BASE_LR: 5e-1}\n...\n",
    ],
)
def test_one_config_in_many_spellings(merged: Merged, text: str | bytes) -> None:
    assert values(merged(text)) == {"SOLVER.BASE_LR": 0.5, "SEED": 4}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "SOLVER:\n", "SOLVER: {}\n", "MODEL:\n  ARGS:\n"])
def test_an_empty_file_or_section_changes_nothing(merged: Merged, text: str) -> None:
    assert values(merged(text)) == {}


def test_anchors_and_merge_keys(merged: Merged) -> None:
    text = """
MODEL:
  ARGS: &shared {norm: group, width: 8, deep: {a: 1, b: 2}}
SOLVER:
  OPTIMIZER_ARGS:
    <<: *shared
    width: 4
    deep: {a: 3}
"""
    cfg = merged(text)
    assert cfg.MODEL.ARGS.to_dict() == {"norm": "group", "width": 8, "deep": {"a": 1, "b": 2}}
    assert cfg.SOLVER.OPTIMIZER_ARGS.to_dict() == {"norm": "group", "width": 4, "deep": {"a": 3}}
    assert cfg.label("SOLVER.OPTIMIZER_ARGS.norm") == "SOLVER.OPTIMIZER_ARGS.norm (x.yaml:3)"
    assert cfg.label("SOLVER.OPTIMIZER_ARGS.width") == "SOLVER.OPTIMIZER_ARGS.width (x.yaml:7)"


@pytest.mark.need("F2", "F6")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "x.yaml:1: not valid YAML: expected `KEY: value` lines"),
        ("text", "x.yaml:1: not valid YAML: expected `KEY: value` lines"),
        ("SEED: 1\n---\nSEED: 2\n", "x.yaml:2: not valid YAML: expected a single document .* found another"),
        ("SOLVER:\n\tBASE_LR: 1\n", "x.yaml:2: not valid YAML: .*found character"),
        ("SOLVER: {BASE_LR: 1\n", "x.yaml:2: not valid YAML: .*expected ',' or '}'"),
        ("OUTPUT_DIR: a: b\n", "x.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("SEED: @x\n", "x.yaml:1: not valid YAML: .*'@' that cannot start any token"),
        ("SEED: *x\n", "x.yaml:1: not valid YAML: found undefined alias 'x'"),
        ("<<: 3\n", "x.yaml:1: not valid YAML: .*expected a mapping or list of mappings for merging"),
        ("SEED: 1\n\nSEED: 2\n", "x.yaml:3: not valid YAML: SEED is written twice, first in line 1; keep one"),
        (
            "SOLVER.GAMMA: 1\nSOLVER:\n  GAMMA: 1\n",
            "x.yaml:3: SOLVER.GAMMA is written twice, first at x.yaml:1; keep",
        ),
        (
            "INPUT:\n  TRANSFORMS_TRAIN:\n  - RandomCrop:\n      size: 1\n      size: 2\n",
            "x.yaml:5: not valid YAML: size is written twice, first in line 4; keep one",
        ),
        ("SOLVER: &s\n  a: *s\n", "x.yaml:2: not valid YAML: an alias refers to a value that contains it"),
        ("SOLVER:\n  STEPS: &s [*s]\n", "x.yaml:2: not valid YAML: an alias refers to a value that contains it"),
        ("SEED: " + 5000 * "9", "x.yaml: not valid YAML: Exceeds the limit"),
        (b"OUTPUT_DIR: a\x07", "x.yaml: not valid YAML: unacceptable character #x0007"),
        (b"OUTPUT_DIR: \xe9", "x.yaml: cannot read the config file: it is not UTF-8 text"),
        ("SEED: !!int 3\n", "x.yaml:1: not valid YAML: a config is plain data and takes no tags; got !!int"),
        ("SEED: !mine 3\n", "x.yaml:1: .* takes no tags$"),
        ("SOLVER: 3\n", r"^SOLVER \(x.yaml:1\): expected keys with values, as SOLVER.OPTIMIZER; got 3$"),
        ("SOLVER:\n  BASE_LR 1\n", r"^SOLVER \(x.yaml:1\): expected keys with values, .* got 'BASE_LR 1'$"),
        ("SOLVER:\n- BASE_LR: 1\n", r"^SOLVER \(x.yaml:1\): expected keys with values"),
        (
            "MODEL:\n  ARGS: 3\n",
            r"^MODEL.ARGS \(x.yaml:2\): expected keys with values, as MODEL.ARGS.NAME; got 3$",
        ),
        (
            "SOLVER:\n  STEPS: {a: 1}\n",
            "x.yaml:2: unknown key SOLVER.STEPS.a; SOLVER.STEPS expects a list, each entry ",
        ),
        (
            "INPUT:\n  TRANSFORMS_TRAIN:\n    RandomCrop: {size: 28}\n",
            "x.yaml:3: unknown key INPUT.TRANSFORMS_TRAIN.RandomCrop.size; INPUT.TRANSFORMS_TRAIN expects a list "
            r"of names, each with or without arguments \(for example: INPUT.TRANSFORMS_TRAIN \[RandomHor",
        ),
        ("1: 2\nnull: 4\n", r"(?s)2 problems:.*x.yaml:1: unknown key 1;.*x.yaml:2: unknown key None;"),
        ("1: 2\n[a]: 3\n", "x.yaml:2: not valid YAML: expected `KEY: value` lines"),
    ],
)
def test_load_file_names_file_line_and_mistake(merged: Merged, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merged(text)


@pytest.mark.parametrize(
    "text",
    [
        "root:secret:19000:0:99999:7:::\nuser:secret:19000::::::\n",
        "secret\n",
        "- secret\n",
        "password: [secret\n",
        "password: *secret\n",
        "a: &secret 1\nb: &secret 1\nc: [&secret [*secret]]\n",
        "%TAG secret\n",
        "!secret! x\n",
        "!secret\n",
        "!secret 1: 2\n",
        '"\\secret"\n',
        "machine example login secret: x\n",
        '{"auths": {"https://example.org/secret": {"auth": "secret"}}}\n',
        "? [secret]\n: 1\n",
        f"{'secret' * 50}: 1\n",
        "a secret: 1\na secret: 2\n",
        "secret: x: y\n",
        "password: secret\n",
        "|\n secret",
        "\x00secret",
    ],
)
def test_load_file_repeats_no_line_of_a_file_that_is_no_config(write: Write, text: str) -> None:
    write(text, "base.yaml")
    write("_BASE_: base.yaml\n", "x.yaml")
    for name in ("base.yaml", "x.yaml"):
        cfg = get_cfg()
        with pytest.raises(ConfigError, match="base.yaml") as error:
            cfg.merge_from_file(name)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.yaml", "^gone.yaml: cannot read the config file: no such file or directory$"),
        (".", r"^\.: cannot read the config file: is a directory$"),
        ("recipe:digit.yaml", "^recipe:digit.yaml: no such recipe; the package carries .*digits.yaml"),
    ],
)
def test_a_missing_file_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_file(name)


@pytest.mark.need("F6")
@pytest.mark.parametrize(
    "text", ["SEED: !!python/object/apply:os.mkdir [ran]\n", "!!python/object/apply:os.mkdir [ran]\n"]
)
def test_a_tag_has_no_effect_in_a_base_file_either(merged: Merged, write: Write, text: str) -> None:
    write(text, "base.yaml")
    with pytest.raises(ConfigError, match="base.yaml:1: .* takes no tags; got !!python/object/apply:os.mkdir"):
        merged("_BASE_: base.yaml\n")
    assert not Path("ran").exists()
    with pytest.raises(TypeError, match="no unsafe loading"):
        get_cfg().merge_from_file("base.yaml", allow_unsafe=True)
    with pytest.raises(TypeError, match="no unsafe loading"):
        CfgNode.load_yaml_with_base("base.yaml", allow_unsafe=True)
    assert not Path("ran").exists()


@pytest.mark.need("F7")
def test_a_file_overrides_what_it_inherits_and_each_value_knows_its_line(merged: Merged, write: Write) -> None:
    write("SEED: 1\nSOLVER:\n  GAMMA: 0.5\n  STEPS: [1, 2]\n", "root.yaml")
    write("_BASE_: root.yaml\nSOLVER:\n  GAMMA: 0.25\n", "left.yaml")
    write("SOLVER.STEPS: [3]\n", "right.yaml")
    cfg = merged("SEED: 9\n_BASE_: [left.yaml, right.yaml]\n", "OUTPUT_DIR", "o")
    assert [(d.key, d.default, d.value, d.source) for d in cfg.differences(get_cfg())] == [
        ("SOLVER.STEPS", ("75%",), (3,), "right.yaml:1"),
        ("SOLVER.GAMMA", 0.1, 0.25, "left.yaml:3"),
        ("OUTPUT_DIR", "./output", "o", "override"),
        ("SEED", 0, 9, "x.yaml:1"),
    ]


def test_a_base_is_looked_for_beside_its_file_and_in_the_package(write: Write, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write("_BASE_: base.yaml\n", "deep/x.yaml")
    write("_BASE_: recipe:digits.yaml\nSEED: 5\n", "deep/base.yaml")
    cfg = get_cfg()
    cfg.merge_from_file("deep/x.yaml")
    assert (cfg.SEED, cfg.source("SEED")) == (5, "deep/base.yaml:2")
    assert cfg.source("SOLVER.MAX_ITER").partition(":")[0].endswith("digits.yaml")


@pytest.mark.need("F7")
@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("gone.yaml", "^x.yaml:2: _BASE_ gone.yaml: there is no file gone.yaml$"),
        ("x.yaml", "^x.yaml:2: _BASE_ has a cycle: x.yaml -> x.yaml$"),
        ("[y.yaml]", "^y.yaml:1: _BASE_ has a cycle: x.yaml -> y.yaml -> x.yaml$"),
        ("", "^x.yaml:2: _BASE_ expects a file's path; got null$"),
        ("[3]", "^x.yaml:2: _BASE_ expects a file's path; got 3$"),
        ("recipe:gone.yaml", "^recipe:gone.yaml: no such recipe; "),
    ],
)
def test_load_file_refuses_wrong_bases(merged: Merged, write: Write, base: str, message: str) -> None:
    write("_BASE_: x.yaml\n", "y.yaml")
    with pytest.raises(ConfigError, match=message):
        merged(f"SEED: 1\n_BASE_: {base}\n")


def doubled(depth: int) -> dict[str, str]:
    """Files of which each names two bases of the next level, or the same one twice."""
    named = {
        f"{level}{side}.yaml": f"_BASE_: [{level + 1}a.yaml, {level + 1}b.yaml]\n"
        for level in range(depth)
        for side in "ab"
    }
    return named | {f"{depth}{side}.yaml": "SEED: 3\n" for side in "ab"}


def test_bases_that_double_on_each_level_are_refused(write: Write) -> None:
    for name, text in doubled(30).items():
        write(text, name)
    with pytest.raises(ConfigError, match="0a.yaml: _BASE_ brings in more than 100 files, each counted as often"):
        load_file(write(doubled(30)["0a.yaml"], "0a.yaml"))
    for name, text in doubled(5).items():  # 63 of them
        write(text, name)
    assert len(load_file(write(doubled(5)["0a.yaml"], "0a.yaml"))) == 63


def test_a_chain_of_bases_that_is_too_long_is_refused(write: Write) -> None:
    for number in range(2000):
        path = write(f"_BASE_: {number + 1}.yaml\n", f"{number}.yaml")
    with pytest.raises(ConfigError, match="_BASE_ brings in more than 100 files"):
        load_file(Path(path).with_name("0.yaml"))


def test_load_file_accepts_a_base_that_is_inherited_twice(merged: Merged, write: Write) -> None:
    write("SEED: 1\nLOG_PERIOD: 1\n", "top.yaml")
    write("_BASE_: top.yaml\nSEED: 2\n", "left.yaml")
    write("_BASE_: top.yaml\nLOG_PERIOD: 3\n", "right.yaml")
    assert values(merged("_BASE_: [left.yaml, right.yaml]\n")) == {"SEED": 1, "LOG_PERIOD": 3}


def test_a_file_and_its_bases_as_one_dict(write: Write) -> None:
    write("SOLVER: {A: 1, B: 2}\nC: 3\n", "base.yaml")
    tree = CfgNode.load_yaml_with_base(write("_BASE_: base.yaml\nSOLVER: {A: 4}\nC: {D: 5}\n"))
    assert tree == {"SOLVER": {"A": 4, "B": 2}, "C": {"D": 5}}
    assert type(tree["SOLVER"]) is dict


@pytest.mark.need("F1")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["SEED", "3"], [("SEED", "3", True)]),
        (["SEED=3"], [("SEED", "3", True)]),
        (["SEED", 3], [("SEED", 3, False)]),
        (["OUTPUT_DIR", "a=b"], [("OUTPUT_DIR", "a=b", True)]),
        (["OUTPUT_DIR=a=b"], [("OUTPUT_DIR", "a=b", True)]),
        (["DATASETS.TRAIN=npz:/x=y"], [("DATASETS.TRAIN", "npz:/x=y", True)]),
        (["OUTPUT_DIR="], [("OUTPUT_DIR", "", True)]),
        (["OUTPUT_DIR", ""], [("OUTPUT_DIR", "", True)]),
        (["OUTPUT_DIR", "TEST"], [("OUTPUT_DIR", "TEST", True)]),
        (["SOLVER.STEPS", (1, 2), "SEED", None], [("SOLVER.STEPS", (1, 2), False), ("SEED", None, False)]),
        (["SOLVER.BASE_LR", "-1e-4"], [("SOLVER.BASE_LR", "-1e-4", True)]),
        ([], []),
    ],
)
def test_pairs(words: list[Any], expected: list[tuple[str, Any, bool]]) -> None:
    assert [(a.key, a.value, a.is_text) for a in pairs(words, "override", get_cfg().has_key)] == expected


@pytest.mark.need("F1")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SEED"], "^line: SEED has no value; write SEED VALUE or SEED=VALUE$"),
        (["SEED", "SOLVER.GAMMA", "0.1"], "^line: SEED has no value; "),
        (["SEED=1", "SOLVER.GAMMA"], "^line: SOLVER.GAMMA has no value; "),
        (
            ["SOLVER.STEPS", "1", "2"],
            r"^line: expected a key such as SOLVER.BASE_LR; got '2' \(write KEY VALUE or KEY=VALUE, and a li",
        ),
        (
            ["SOLVER.STEPS", "1", "2", "SOLVER.GAMMA", "1"],
            "^line: expected a key such as SOLVER.BASE_LR; got '2' ",
        ),
        (
            ["SEED", "=", "3"],
            "^line: expected a key such as SOLVER.BASE_LR; got '3' .write KEY VALUE or KEY=VALUE, ",
        ),
        (["=3"], "^line: expected a key such as SOLVER.BASE_LR; got '=3' "),
        ([3, 4], "^line: expected a key such as SOLVER.BASE_LR; got 3 "),
    ],
)
def test_pairs_names_the_word_that_has_no_key_or_value(words: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pairs(words, "line", get_cfg().has_key)
