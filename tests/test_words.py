"""The vocabulary: phrases that readers cannot search for are refused in source, tests and docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "config",
    "solver",
    "data",
    "modeling",
    "tasks",
    "engine",
    "tools",
    "tests",
    "docs",
    "examples",
    "benchmarks",
)
FILES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.suffix in (".py", ".md", ".yaml") and path != Path(__file__)
)

#: What to write instead, by the phrase that is refused.
PHRASES = {
    r"\b(lies?|lay|is|are|cut|models?|weights|tensors?|checkpoints?|saved) (in|into) parts\b": "sharded, split",
    r"\bput together\b": "all-gathered, combined",
    r"\btak(e|es|en|ing) apart\b": "resharded, split",
    r"\b(ranks|machines|processes|others) (all )?(meet|met)\b": "rendezvous",
    r"\b(did|does|do) not come\b": "timed out, did not join",
    r"\b(is|are|was|were) waited for\b": "the rank waits for ...",
    r"(?<!second )\bmoments\b": "optimizer state (or: first and second moments)",
    r"\bhas gathered\b": "optimizer state",
    r"\b(update|step|iteration)s?( that)?( is| are| was| were)? left out\b": "skipped",
    r"\bmicro-batches that (one|an) update\b": "micro-batches per optimizer update",
    r"\bsettl(e|es|ed|ing)\b": "flush",
    r"\bhand(s|ed)? on\b": "flush, pass on",
    r"\bwhat (is|was) kept\b": "name it",
    r"\b(go|goes|going|gone|went) on\b": "continue, resume",
    r"\banew\b": "again, restart",
    r"\b(a|the) whole\b(?! number)": "full, complete, unsharded",
    r"\b(and|of) (its|the) kin\b|\band kin\b": "similar",
    r"\bso too\b": "likewise",
    r"\bthat of\b": "name the thing",
    r"(?<![Tt]here )\b(is|are|was|were) no (?!longer\b|more\b|less\b|later\b|worse\b|better\b|such\b)": "is not a",
    r", since [a-z]|^\W*Since\b": "because",
    r"\b(stand|stands|stood)\b": "is",
    r"\b(lies|lie|lying)\b": "is",
    r"\b(is|are|was|were) to be\b": "must",
    r"\b(is|are) shown to\b": "is passed to",
    r"\bwalking there\b": "O(1)",
    r"\bnotes of a camera\b": "EXIF",
    r"(?<![\d,.])1 (iterations|updates|epochs|batches)\b": "the singular",
    r"\b(of|by) (a|the) user's own\b|\buser's own\b|\bof the user's\b(?! \w)": "user-defined",
}
ANY = re.compile("|".join(PHRASES), re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")  # names in it may be old
#: Test functions whose name is a sentence without a subject.
NAMES = re.compile(r"def (test_(?:what|so|they|it)_\w+)")


def refused(text: str) -> list[str]:
    """Return the phrases of a text that are refused, each with its line and what to write instead."""
    text = CODE.sub("", text)
    if not ANY.search(text):
        return []
    return [
        f"line {number}: {found[0]!r}; write: {instead}"
        for number, line in enumerate(text.splitlines(), 1)
        for phrase, instead in PHRASES.items()
        if (found := re.search(phrase, line))
    ]


def test_no_file_has_a_refused_phrase() -> None:
    assert len(FILES) > 300
    found = [f"{path.relative_to(ROOT)}, {each}" for path in FILES for each in refused(path.read_text("utf-8"))]
    assert found == []


def test_test_functions_are_named_by_unit_and_behaviour() -> None:
    tests = [path for path in FILES if path.name.startswith("test_")]
    assert [name for path in tests for name in NAMES.findall(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("the model lies in parts", ["'lies in parts'", "'lies'"]),
        ("a whole number, first and second moments; there is no GPU", []),
        ("the weights of the update that is left out", ["'update that is left out'"]),
        ("trained for 1 iterations, then for 21 iterations", ["'1 iterations'"]),
    ],
)
def test_refused_names_the_phrases_of_a_line(line: str, found: list[str]) -> None:
    assert sorted(each.split("; ")[0].removeprefix("line 1: ") for each in refused(line)) == sorted(found)
