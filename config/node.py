"""CfgNode: fvcore's (and so yacs's) config tree, made strict and told where each value came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode as _CfgNode

from .errors import ConfigError, nearest
from .fields import Field, Open, field_like
from .yaml12 import BASE_KEY, Assignment, load_file, parse_scalar

# Names in each node's __dict__, beside those of yacs; items of the dict itself are config keys only.
_FIELDS = "__fields__"  # name -> Field or Open
_SOURCES = "__sources__"  # name -> who set it, for names that differ from their declaration
_SEALED = "__sealed__"  # declared completely: an unknown name is a typo


class Difference(NamedTuple):
    """A key whose value is not the default."""

    key: str
    default: Any
    value: Any
    source: str


class CfgNode(_CfgNode):  # type: ignore[misc]  # fvcore ships no types
    """A config tree whose keys are declared with a type; every way to set a key goes through it.

    A key is declared by its first value (`node.X = 0.1` declares a float) or by a field
    (`node.X = Float(0.1, above=0)`). After `seal()` an unknown name is an error with the nearest
    match; new sections (`cfg.MINE = CfgNode({...})`) and new fields remain possible.

    >>> cfg = CfgNode({"SOLVER": {"BASE_LR": 0.1, "STEPS": (30, 60)}}).seal()
    >>> cfg.merge_from_list(["SOLVER.BASE_LR", "1e-3", "SOLVER.STEPS=90"])
    >>> cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS
    (0.001, (90,))
    >>> cfg.merge_from_list(["SOLVER.BASE_RL", 1])
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: override: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?
    """

    def __init__(
        self,
        init_dict: dict[str, Any] | None = None,
        key_list: list[str] | None = None,
        new_allowed: bool = False,
    ) -> None:
        super().__init__(init_dict, key_list, new_allowed)
        self.__dict__[_FIELDS] = {
            name: field_like(value) for name, value in self.items() if not isinstance(value, CfgNode)
        }
        self.__dict__[_SOURCES] = {}
        self.__dict__[_SEALED] = False

    def __setattr__(self, name: str, value: Any) -> None:
        fields = self.__dict__[_FIELDS]
        if self.is_frozen():
            raise AttributeError(f"the config is frozen: cannot set {name} to {value!r}")
        if isinstance(value, Open):
            fields[name] = value
            self[name] = CfgNode(new_allowed=True)
        elif isinstance(value, Field):
            fields[name] = value
            self[name] = value.default
        elif isinstance(value, CfgNode):
            self[name] = value
        elif isinstance(fields.get(name), Field):
            self[name] = _parse(fields[name], name, Assignment((name,), value, "set in Python"))
            self.__dict__[_SOURCES][name] = "set in Python"
        elif self.is_new_allowed():
            self[name] = _open_value(value)
        elif name in self or self.__dict__[_SEALED]:
            match = nearest(name, self)
            raise ConfigError(f"unknown key {name}" + (f"; did you mean {match}?" if match else ""))
        else:
            fields[name] = field_like(value)
            self[name] = fields[name].default

    def seal(self) -> CfgNode:
        """Declare this tree complete: from now on an unknown name is an error. Returns the node."""
        self.__dict__[_SEALED] = True
        for value in self.values():
            if isinstance(value, CfgNode):
                value.seal()
        return self

    def set_new_allowed(self, is_new_allowed: bool) -> None:
        """Refused: a switch that lets any key in would let every typo in."""
        raise TypeError("keys are declared one by one: cfg.NAME = default, or cfg.NAME = Open(...)")

    def merge_from_file(self, cfg_filename: str | Path, allow_unsafe: bool = False) -> None:
        """Merge a YAML file and the `_BASE_` files it names; all its mistakes are one ConfigError."""
        if allow_unsafe:
            raise TypeError("configs are read as data; there is no unsafe loading")
        self._merge(load_file(cfg_filename))

    def merge_from_other_cfg(self, cfg_other: dict[str, Any]) -> None:
        """Merge another tree or a plain dict."""
        self._merge([list(_leaves(cfg_other, (), "merged config"))])

    def merge_from_list(self, cfg_list: Sequence[Any], source: str = "override") -> None:
        """Merge `[KEY, VALUE, ...]` or `["KEY=VALUE", ...]`; a key given twice: the last one wins.

        Strings are read as on a command line, other Python values as they are.
        """
        self._merge([list(self._pairs(list(cfg_list), source))])

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Return the file and its `_BASE_` files as one nested dict, unchecked."""
        tree: dict[str, Any] = {}
        for assignment in (a for layer in load_file(filename) for a in layer):
            node = tree
            for name in assignment.path[:-1]:
                node = node.setdefault(name, {})
            node[assignment.path[-1]] = assignment.value
        return tree

    def has_key(self, key: str) -> bool:
        """Return whether `key`, such as "SOLVER.BASE_LR", is a section or a key of this tree.

        >>> cfg = CfgNode({"SOLVER": {"BASE_LR": 0.1}})
        >>> cfg.has_key("SOLVER.BASE_LR"), cfg.has_key("SOLVER"), cfg.has_key("SOLVER.LR")
        (True, True, False)
        """
        node: Any = self
        for name in key.split("."):
            if not isinstance(node, CfgNode):
                return False
            if name not in node:
                return bool(node.is_new_allowed())
            node = node[name]
        return True

    def label(self, key: str) -> str:
        """Return the key and, where it was set, by whom: "SOLVER.BASE_LR (x.yaml:12)"."""
        *sections, name = key.split(".")
        node: Any = self
        for section in sections:
            node = node.get(section, {})
        source = node.__dict__[_SOURCES].get(name, "") if isinstance(node, CfgNode) else ""
        return f"{key} ({source})" if source else key

    def is_set(self, key: str) -> bool:
        """Return whether a file, a command line or Python code has set `key`, also to its default."""
        return self.label(key) != key

    def flatten(self) -> dict[str, Any]:
        """Return every key with its value: {"SOLVER.BASE_LR": 0.001, ...}."""
        return {".".join(a.path): a.value for a in _leaves(self, (), "")}

    def fields(self) -> Iterator[tuple[str, Field]]:
        """Yield every declared key with its field; keys of open nodes have none."""
        for name, value in self.items():
            if isinstance(value, CfgNode):
                yield from ((f"{name}.{rest}", field) for rest, field in value.fields())
            elif name in self.__dict__[_FIELDS]:
                yield name, self.__dict__[_FIELDS][name]

    def differences(self, other: dict[str, Any]) -> list[Difference]:
        """Return the keys whose value here is not that of `other`, a tree or a plain nested dict."""
        theirs = {".".join(a.path): a.value for a in _leaves(other, (), "")}
        ours = self.flatten()
        found = []
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            before, now = theirs.get(key), ours.get(key)
            if (key in theirs) != (key in ours) or before != now:
                found.append(Difference(key, before, now, self.label(key).removeprefix(key).strip(" ()")))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as plain nested dicts, the form that a checkpoint holds."""
        return {k: v.to_dict() if isinstance(v, CfgNode) else v for k, v in self.items()}

    def _pairs(self, items: list[Any], source: str) -> Iterator[Assignment]:
        while items:
            item = items.pop(0)
            if not isinstance(item, str):
                raise ConfigError(f"{source}: expected a key such as SOLVER.BASE_LR, got {item!r}")
            key, equals, text = item.partition("=")
            if equals:
                yield Assignment(tuple(key.split(".")), text, source, is_text=True)
            elif not items:
                raise ConfigError(f"{source}: {key} has no value; write KEY VALUE or KEY=VALUE")
            else:
                value = items.pop(0)
                yield Assignment(tuple(key.split(".")), value, source, is_text=isinstance(value, str))

    def _merge(self, layers: list[list[Assignment]]) -> None:
        if self.is_frozen():
            raise AttributeError("the config is frozen: clone() and defrost() it first")
        problems: list[str] = []
        # On a copy first: either all of it is right and merged, or nothing has changed.
        for node in (self.clone(), self):
            for layer in layers:
                node._drop_arguments_of_old_names(layer)
                for assignment in layer:
                    try:
                        node._assign(assignment)
                    except ConfigError as error:
                        problems += error.problems
            if problems:
                raise ConfigError(list(dict.fromkeys(problems)))

    def _assign(self, assignment: Assignment) -> None:
        node: CfgNode = self
        for depth, name in enumerate(assignment.path):
            declared = node.__dict__[_FIELDS].get(name)
            last = depth == len(assignment.path) - 1
            if node.is_new_allowed():
                value = parse_scalar(assignment.value) if assignment.is_text else assignment.value
                _assign_open(node, assignment.path[depth:], value, assignment.source)
                return
            if name not in node:
                raise self._unknown(assignment)
            if isinstance(node[name], CfgNode) and not last:
                node = node[name]
            elif isinstance(node[name], CfgNode):
                _assign_section(node[name], assignment)
            elif not last and isinstance(declared, Field):
                raise self._unknown(assignment)
            else:
                key = ".".join(assignment.path)
                node[name] = _parse(declared, key, assignment)
                node.__dict__[_SOURCES][name] = assignment.source

    def _unknown(self, assignment: Assignment) -> ConfigError:
        key = ".".join(assignment.path)
        if key == BASE_KEY:
            return ConfigError(f"{assignment.source}: {BASE_KEY} can only stand in a file")
        known = self.flatten()
        # The right name in the wrong section (BASE_LR for SOLVER.BASE_LR) is nearer than any spelling.
        tails = [k for k in known if k.rpartition(".")[2] == assignment.path[-1].upper()]
        match = tails[0] if len(tails) == 1 else nearest(key, known)
        hint = f"; did you mean {match}?" if match else "; config/defaults.py lists all keys"
        return ConfigError(f"{assignment.source}: unknown key {key}{hint}")

    def _drop_arguments_of_old_names(self, layer: list[Assignment], prefix: tuple[str, ...] = ()) -> None:
        for name, value in list(self.items()):
            if not isinstance(value, CfgNode):
                continue
            declared = self.__dict__[_FIELDS].get(name)
            if isinstance(declared, Open):
                renamed = [a.value for a in layer if a.path == (*prefix, declared.owner)]
                if renamed and renamed[-1] != self[declared.owner]:
                    value.clear()
            else:
                value._drop_arguments_of_old_names(layer, (*prefix, name))


def _parse(field: Field, key: str, assignment: Assignment) -> Any:
    try:
        if assignment.is_text:
            return field.parse_text(assignment.value)
        return field.parse(assignment.value)
    except ValueError:
        raise ConfigError(
            f"{key} ({assignment.source}): expected {field.expected}; got {assignment.value!r}"
            f" (for example: {key} {field.example})"
        ) from None


def _leaves(tree: Any, prefix: tuple[str, ...], source: str) -> Iterator[Assignment]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*prefix, name), source)
        else:
            yield Assignment((*prefix, name), value, source)


def _open_value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    node = CfgNode(new_allowed=True)
    for name, inner in value.items():
        node[str(name)] = _open_value(inner)
    return node


def _assign_open(node: CfgNode, path: Iterable[str], value: Any, source: str) -> None:
    *sections, name = path
    for section in sections:
        if not isinstance(node.get(section), CfgNode):
            node[section] = CfgNode(new_allowed=True)
        node = node[section]
    node[name] = _open_value(value)
    node.__dict__[_SOURCES][name] = source


def _assign_section(section: CfgNode, assignment: Assignment) -> None:
    value = parse_scalar(assignment.value) if assignment.is_text else assignment.value
    key = ".".join(assignment.path)
    if value is None or value == {}:
        return  # `SOLVER:` with nothing below it
    if not isinstance(value, dict):
        raise ConfigError(f"{key} ({assignment.source}): is a section; set a key in it, as {key}.NAME VALUE")
    for leaf in _leaves(value, (), assignment.source):
        section._assign(leaf)
