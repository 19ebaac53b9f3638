"""docs/USER_NEEDS.md: each need with the tests that carry its marker, in both directions."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
_SPEC = importlib.util.spec_from_file_location("user_needs", DOCS / "user_needs.py")
assert _SPEC is not None
assert _SPEC.loader is not None
user_needs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(user_needs)

PAGE = "# Needs\n\n| id | need | tests |\n|---|---|---|\n| A1 | One. | |\n| A2 | Two. | [9](#a2) |\n"


def test_the_page_is_what_the_script_makes_of_the_markers() -> None:
    page = (DOCS / "USER_NEEDS.md").read_text(encoding="utf-8")
    assert user_needs.with_tests(page, user_needs.marked_tests()) == page, "run: python docs/user_needs.py"


def test_marked_tests_finds_decorators_of_test_functions(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    body = "import pytest\n\n\n@pytest.mark.need('A1', 'B2')\n@pytest.mark.slow\ndef test_a():\n    pass\n"
    (tmp_path / "tests" / "test_x.py").write_text(body)
    found = {"tests/test_x.py": ["test_a"]}
    assert user_needs.marked_tests(tmp_path / "tests") == {"A1": found, "B2": found}


@pytest.mark.parametrize("body", ["pytestmark = pytest.mark.need('A1')", "@pytest.mark.need('A1')\ndef f(): pass"])
def test_marked_tests_refuses_a_marker_elsewhere(tmp_path: Path, body: str) -> None:
    (tmp_path / "test_x.py").write_text(body)
    with pytest.raises(ValueError, match="need is not a decorator of a test function"):
        user_needs.marked_tests(tmp_path)


def test_with_tests_lists_the_tests_and_calls_a_need_without_any_open() -> None:
    page = user_needs.with_tests(PAGE, {"A1": {"tests/test_x.py": ["test_a", "test_b"]}})
    assert "| A1 | One. | [2](#a1) |\n| A2 | Two. | open |\n" in page
    assert page.endswith("\n## The tests\n\n### A1\n\n- `tests/test_x.py`: `test_a`, `test_b`\n")
    assert user_needs.with_tests(page, {}).count("| open |") == 2


def test_with_tests_refuses_a_need_that_the_page_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"has no row A3, which tests/test_x\.py names"):
        user_needs.with_tests(PAGE, {"A3": {"tests/test_x.py": ["test_a"]}})
