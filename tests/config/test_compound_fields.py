"""Several values under one key."""

from __future__ import annotations

from typing import Any

import pytest

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.config.compound_fields import Arguments, Entries, ListOf, Records, field_like
from warmstart.config.fields import Bool, Duration, Field, Float, Int, OrNull, Str

STEPS = ListOf(Duration(30000, minimum=1), ("75%",))
NAMES = ListOf(Str("digits_train"), ("digits_train",))


@pytest.mark.need("F4")
@pytest.mark.parametrize(
    "overrides",
    [
        ["SOLVER.STEPS", text]
        for text in ("100,200", "100, 200", "(100, 200)", "[100,200]", "(100,200,)", "[1e2, 2e2]")
    ]
    + [["SOLVER.STEPS", value] for value in ([100, 200], (100, 200), [100.0, 200])]
    + [["SOLVER", {"STEPS": [100, 200]}], ["SOLVER={STEPS: [100, 200]}"]],
)
def test_list_of_on_the_command_line_and_in_python(overrides: list[Any]) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(overrides)
    assert cfg.SOLVER.STEPS == (100, 200)


@pytest.mark.need("F4")
@pytest.mark.parametrize(
    "text", ["[100, 200]", "100,200", "100, 200", "(100, 200)", "\n  - 100\n  - 200", "'100,200'", "[1e2, 2E2]"]
)
def test_list_of_in_a_file(merged: Any, text: str) -> None:
    assert merged(f"SOLVER:\n  STEPS: {text}\n").SOLVER.STEPS == (100, 200)


@pytest.mark.need("F4")
@pytest.mark.parametrize("text", ["100", "(100,)", "[100]", "100,", "1e2"])
def test_list_of_accepts_a_single_value(merged: Any, text: str) -> None:
    cfg = merged(f"SOLVER:\n  STEPS: {text}\n")
    assert cfg.SOLVER.STEPS == (100,)
    cfg.merge_from_list(["SOLVER.STEPS", "7", "SOLVER.STEPS", text])
    assert cfg.SOLVER.STEPS == (100,)


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        (STEPS, "", ()),
        (STEPS, "()", ()),
        (STEPS, "[]", ()),
        (STEPS, "67%, 92%", ("67%", "92%")),
        (STEPS, "['30ep', 5000]", ("30ep", 5000)),
        (NAMES, "digits_train", ("digits_train",)),
        (NAMES, "a,b", ("a", "b")),
        (NAMES, "('a', 'b')", ("a", "b")),
        (NAMES, "2024", ("2024",)),
        (NAMES, "npz:/a=b/c d.npz", ("npz:/a=b/c d.npz",)),
        (NAMES, "'npz:/a,b', c", ("npz:/a,b", "c")),
        (ListOf(Float(0.5), ()), "0.5, 1e-1", (0.5, 0.1)),
        (ListOf(Bool(True), ()), "true,False", (True, False)),
    ],
)
def test_list_of_text_from_the_command_line(field: Field, text: str, expected: tuple[Any, ...]) -> None:
    assert field.parse_text(text) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (STEPS, "100, ,200"),
        (STEPS, "(100, 200"),
        (STEPS, "[[1, 2]]"),
        (STEPS, "{a: 1}"),
        (STEPS, "null"),
        (STEPS, None),
        (STEPS, [[100]]),
        (STEPS, ["1e3"]),
        (STEPS, [0]),
        (NAMES, [2024]),
        (NAMES, None),
        (OrNull(ListOf(Float(0.25, above=0), ())), "0"),
    ],
)
def test_list_of_refuses_other_values(field: Field, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^KEY: expected .*a list, each entry "):
        field.read("KEY", "", value, is_text=isinstance(value, str))


def test_list_of_says_what_it_expects() -> None:
    with pytest.raises(ConfigError) as caught:
        STEPS.read("SOLVER.STEPS", "x.yaml:2", None)
    assert str(caught.value) == (
        "SOLVER.STEPS (x.yaml:2): expected a list, each entry a number of iterations, 1 or more, or a string with "
        'a unit such as "90ep" or "5%"; got null (for example: SOLVER.STEPS [30000])'
    )


CROP = ("RandomCrop", {"size": 28, "padding": 4})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[RandomHorizontalFlip, {RandomCrop: {size: 28, padding: 4}}]", (("RandomHorizontalFlip", {}), CROP)),
        ("RandomHorizontalFlip,{RandomCrop: {size: 28, padding: 4}}", (("RandomHorizontalFlip", {}), CROP)),
        ("RandomCrop: {size: 28, padding: 4}", (CROP,)),
        ("{RandomCrop: {size: 28, padding: 4}}", (CROP,)),
        ("[[RandomCrop, {size: 28, padding: 4}]]", (CROP,)),
        ("[{ToImage: }]", (("ToImage", {}),)),
        ("ToImage", (("ToImage", {}),)),
        ("[]", ()),
        ("", ()),
    ],
)
def test_entries_accepts_names_with_and_without_arguments(
    merged: Any, text: str, expected: tuple[Any, ...]
) -> None:
    cfg = merged("", "INPUT.TRANSFORMS_TRAIN", text)
    assert expected == cfg.INPUT.TRANSFORMS_TRAIN
    again = get_cfg()
    again.merge_from_list(["INPUT.TRANSFORMS_TRAIN", list(expected)])
    assert again == cfg


@pytest.mark.parametrize(
    "value",
    [
        "3",
        "null",
        "[{RandomCrop: 28}]",
        "[{A: {}, B: {}}]",
        "[{A: {1: 2}}]",
        "[{1: {}}]",
        "[[A]]",
        "[A",
        "{A: {}, A: {}}",
    ]
    + [None, 3, [("A", {}, 1)]],
)
def test_entries_refuses_other_forms(value: Any) -> None:
    with pytest.raises(ConfigError, match="^KEY: expected a list of names, each with or without arguments; got "):
        Entries().read("KEY", "", value, is_text=isinstance(value, str))


@pytest.mark.parametrize(
    ("default", "kind"),
    [(True, Bool), (3, Int), (0.5, Float), ("a", Str), ((1, 2), ListOf), ([], ListOf)],
)
def test_field_like_declares_the_type_of_a_default(default: Any, kind: type[Field]) -> None:
    assert type(field_like(default)) is kind


def test_field_like_refuses_a_default_without_a_type() -> None:
    with pytest.raises(
        TypeError, match=r"no field for a default of type NoneType; declare one, as OrNull\(Float\(0\)\)"
    ):
        CfgNode().X = None


PHASES = Records({"NAME": Str("StepLR"), "ARGS": Arguments(), "UNTIL": Duration("30ep", minimum=1)}, ["NAME"])


@pytest.mark.parametrize(
    "text",
    [
        "[{NAME: A, ARGS: {x: 1}, UNTIL: 5%}, {NAME: B}]",
        '[{"NAME": "A", "ARGS": {"x": 1.0}, "UNTIL": "5%"}, {NAME: B}]',
        [{"NAME": "A", "ARGS": {"x": 1}, "UNTIL": "5 %"}, {"NAME": "B"}],
        ({"NAME": "A", "ARGS": {"x": 1}, "UNTIL": "5%"}, {"NAME": "B"}),
    ],
)
def test_records_accepts_a_list_of_mappings(text: Any) -> None:
    read = PHASES.read("KEY", "", text, is_text=isinstance(text, str))
    assert read == ({"NAME": "A", "ARGS": {"x": 1}, "UNTIL": "5%"}, {"NAME": "B"})


def test_records_accepts_a_single_mapping_and_null_arguments() -> None:
    assert PHASES.parse_text("{NAME: A, ARGS: , UNTIL: 1e3}") == ({"NAME": "A", "ARGS": {}, "UNTIL": 1000},)
    assert PHASES.parse_text("[]") == ()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("A", "for example: KEY [{NAME: StepLR, ARGS: {step_size: 30ep}, UNTIL: 30ep}]"),
        ("3", "for example: "),
        ("[A]", "entry 1 is 'A'"),
        ("[{NAME: A}, {UNTIL: 3}]", "entry 2 needs NAME"),
        ("[{NAME: A, UNTL: 3}]", "entry 1 has no key UNTL; did you mean UNTIL?"),
        ("[{NAME: A, 3: 3}]", "entry 1 has no key 3"),
        (
            "[{NAME: A, UNTIL: soon}]",
            "entry 1: UNTIL is a number of iterations, 1 or more, or a string with a unit",
        ),
        ("[{NAME: A, UNTIL: 0}]", "entry 1: UNTIL is a number of iterations, 1 or more"),
        ("[{NAME: A, ARGS: 3}]", "entry 1: ARGS is arguments by their names; got 3"),
        ("[{NAME: A, ARGS: {1: 2}}]", "entry 1: ARGS is arguments by their names; got {1: 2}"),
        ("[{NAME: 3}]", "entry 1: NAME is text; got 3"),
    ],
)
def test_records_refuses_other_forms(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PHASES.read("KEY", "x.yaml:3", text, is_text=True)
    assert str(caught.value).startswith(
        "KEY (x.yaml:3): expected a list of mappings with the keys NAME, ARGS, UNTIL;"
    )
    assert hint in str(caught.value)


def test_records_survive_a_dump(merged: Any) -> None:
    cfg = merged(
        "", "SOLVER.LR_PHASES", "[{NAME: StepLR, ARGS: {step_size: 3, gamma: 1e-4}, UNTIL: 5}, {NAME: A}]"
    )
    assert merged(cfg.dump()) == cfg
    assert cfg.differences(cfg.to_dict()) == []
