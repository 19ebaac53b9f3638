from __future__ import annotations

import sys
from pathlib import Path

import pytest

from warmstart.config import ConfigError, import_function, import_module, imports


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine_for_a_test.py").write_text("def half(t):\n    return 0.5\n\n\nnumber = 3\n")
    (tmp_path / "broken_for_a_test.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(imports, "_IMPORTED", {})
    return tmp_path


def test_import_module_finds_the_current_folder_after_all_others(folder: Path) -> None:
    (folder / "json.py").write_text("raise AssertionError")
    assert import_module("mine_for_a_test", "KEY").number == 3
    assert sys.path[-1] == str(folder)
    assert import_function("mine_for_a_test:half", "KEY")(7) == 0.5
    import_module("json", "KEY")
    assert import_function("json:dumps", "KEY")([1]) == "[1]"


@pytest.mark.parametrize(
    "path", ["os:_exit", "sys:exit", "math:erfc", "mine_for_a_test:half", "gone_for_a_test:f"]
)
def test_import_function_imports_nothing_itself(path: str) -> None:
    module = path.partition(":")[0]
    known = {*sys.modules}
    with pytest.raises(ConfigError) as caught:
        import_function(path, "KEY")
    assert str(caught.value) == (
        f"KEY: {path} is in a module that no --import names, and a config cannot load code by itself; if you "
        f"trust it, add --import {module}"
    )
    assert {*sys.modules} == known


@pytest.mark.parametrize(
    ("imported", "path"),
    [("json", "json.decoder:JSONDecoder"), ("json.decoder", "json:dumps"), ("os.path", "os:_exit")],
)
def test_import_function_treats_submodules_and_packages_as_other_modules(imported: str, path: str) -> None:
    import_module(imported, "KEY")
    with pytest.raises(ConfigError, match=f"if you trust it, add --import {path.partition(':')[0]}$"):
        import_function(path, "KEY")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mine_for_a_test", "KEY: expected \"module:function\"; got 'mine_for_a_test'"),
        (":half", 'KEY: expected "module:function"'),
        ("mine_for_a_test:", 'KEY: expected "module:function"'),
        ("mine_for_a_test:hal", "KEY: the module mine_for_a_test has no function 'hal'; did you mean 'half'?"),
        ("mine_for_a_test:number", "KEY: mine_for_a_test:number is not a function, but 3"),
        ("mine_for_a_test.py:half", "takes a module's name; write mine_for_a_test"),
    ],
)
def test_import_function_refuses_unknown_functions_and_modules(path: str, message: str) -> None:
    import_module("mine_for_a_test", "KEY")
    with pytest.raises(ConfigError) as caught:
        import_function(path, "KEY")
    assert message in str(caught.value)


def test_import_module_refuses_unknown_modules() -> None:
    with pytest.raises(ConfigError, match="^KEY: no such module on the Python path or in the current folder$"):
        import_module("gone_for_a_test", "KEY")


def test_import_module_shows_errors_inside_the_module() -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        import_module("broken_for_a_test", "KEY")
