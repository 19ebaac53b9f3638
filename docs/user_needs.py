"""Write into USER_NEEDS.md which tests show that each need is met.

    python docs/user_needs.py

Ids and needs are written by hand; the last column of the tables and everything from "## The tests" on is generated
from the markers `pytest.mark.need` in tests/.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "USER_NEEDS.md"
HEADING = "## The tests"
ROW = re.compile(r"^\| ([A-Z]\d+) \| (.+?) \| *.*\|$", re.MULTILINE)


def marked_tests(folder: Path = ROOT / "tests") -> dict[str, dict[str, list[str]]]:
    """Return the tests by the need that their marker names and by their file, in the order of the files.

    Raises:
        ValueError: a marker is not a decorator of a test function in a module.
    """
    tests: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = path.relative_to(folder.parent).as_posix()
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        decorators = {mark: each.name for each in functions for mark in each.decorator_list if _is_need(mark)}
        for mark in filter(_is_need, ast.walk(tree)):
            if mark not in decorators or not decorators[mark].startswith("test_"):
                raise ValueError(f"{name}:{mark.lineno}: pytest.mark.need is not a decorator of a test function")
            for need in mark.args:
                tests[ast.literal_eval(need)][name].append(decorators[mark])
    return tests


def _is_need(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "need"


def with_tests(page: str, tests: dict[str, dict[str, list[str]]]) -> str:
    """Return the page with the tests of each need filled in.

    Raises:
        ValueError: a test names a need that the page does not have, or the page has a need twice.
    """
    page = page.split(HEADING)[0].rstrip()
    ids = [match[1] for match in ROW.finditer(page)]
    if unknown := sorted({*tests} - {*ids}):
        files = sorted({file for need in unknown for file in tests[need]})
        raise ValueError(f"{PAGE.name} has no row {', '.join(unknown)}, which {', '.join(files)} names")
    if len({*ids}) < len(ids):
        raise ValueError(f"{PAGE.name} has a row twice")

    def fill(match: re.Match[str]) -> str:
        count = sum(len(names) for names in tests.get(match[1], {}).values())
        link = f"[{count}](#{match[1].lower()})" if count else "open"
        return f"| {match[1]} | {match[2]} | {link} |"

    lines = [ROW.sub(fill, page), "", HEADING]
    for need in (need for need in ids if need in tests):
        lines += ["", f"### {need}", ""]
        lines += [f"- `{file}`: {', '.join(f'`{name}`' for name in names)}" for file, names in tests[need].items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(with_tests(PAGE.read_text(encoding="utf-8"), marked_tests()), encoding="utf-8")
