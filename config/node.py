"""CfgNode: the config tree of fvcore (and yacs) with strict checks and the source of each value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode as _CfgNode

from .compound_fields import Open, field_like
from .errors import ConfigError, gathering, unknown_key
from .fields import Field, shown
from .sources import Assignment, leaves, load_file, pairs
from .yaml12 import dump_yaml, numbers_in, parse_scalar

# Names in the __dict__ of each node, in addition to yacs's; the items of the dict itself are only config keys.
_FIELDS = "__fields__"  # name -> Field or Open
_SOURCES = "__sources__"  # name -> where it was set; in an open node: dotted path -> where it was set
_SEALED = "__sealed__"  # whether all keys are declared, so that an unknown name is a typo
_PYTHON = "set in Python"


class Difference(NamedTuple):
    """A key whose value is not the default."""

    key: str
    default: Any
    value: Any
    source: str


class CfgNode(_CfgNode):  # type: ignore[misc]  # fvcore ships no types
    """A config tree whose keys are declared with a type, which is checked whenever a key is set.

    A key is declared by its first value (`node.X = 0.1` declares a float) or by a field (`node.X = Float(0.1,
    above=0)`). After `seal()` an unknown name is an error that suggests the most similar key; new sections
    (`cfg.MINE = CfgNode({...})`) and new fields can still be added.

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
        plain = {} if new_allowed else {k: v for k, v in self.items() if not isinstance(v, CfgNode)}
        self.__dict__[_FIELDS] = {name: field_like(value) for name, value in plain.items()}
        self.__dict__[_SOURCES] = {}
        self.__dict__[_SEALED] = False

    def __setattr__(self, name: str, value: Any) -> None:
        fields, sealed = self.__dict__[_FIELDS], self.__dict__[_SEALED]
        if self.is_frozen():
            raise AttributeError(f"the config is frozen: cannot set {name} to {value!r}")
        if isinstance(value, Open):
            fields[name] = value
            self[name] = CfgNode(new_allowed=True)
        elif isinstance(value, Field):
            fields[name] = value
            self[name] = value.default
        elif isinstance(value, CfgNode) and not (sealed and name in self):
            self[name] = value
        elif sealed or name in self or self.is_new_allowed():
            if isinstance(fields.get(name), Open):
                self[name]._clear()
            for assignment in self._expand(Assignment((name,), value, _PYTHON)):
                self._assign(assignment)
        else:
            fields[name] = field_like(value)
            self[name] = fields[name].default

    def seal(self) -> CfgNode:
        """Declare this tree complete: unknown names are errors from now on. Return the node."""
        self.__dict__[_SEALED] = True
        for value in self.values():
            if isinstance(value, CfgNode):
                value.seal()
        return self

    def set_new_allowed(self, is_new_allowed: bool) -> None:
        """Raise TypeError: a switch that allows any key would allow every typo."""
        raise TypeError("keys are declared one by one: cfg.NAME = default, or cfg.NAME = Open(...)")

    def merge(self, filename: str | Path = "", overrides: Sequence[Any] = (), source: str = "override") -> None:
        """Merge the `_BASE_` files of a YAML file, the file, and overrides, in increasing precedence.

        Args:
            filename: the file; `recipe:digits.yaml` is a file that ships with the package; "" for none.
            overrides: `[KEY, VALUE, ...]` or `["KEY=VALUE", ...]`; of a key given twice the last value is used.
                Strings are parsed as on a command line, other Python values are used directly.
            source: where the overrides come from, for messages.

        Raises:
            ConfigError: lists all mistakes at once; the config is not changed.
            AttributeError: the config is frozen.
        """
        problems: list[str] = []
        layers: list[list[Assignment]] = []
        with gathering(problems):
            layers += load_file(filename) if filename else []
        with gathering(problems):
            layers.append(pairs(overrides, source, self.has_key))
        self._merge(layers, problems)

    def merge_from_file(self, cfg_filename: str | Path, allow_unsafe: bool = False) -> None:
        """Merge a YAML file and its `_BASE_` files, as `merge` does."""
        _refuse_unsafe(allow_unsafe)
        self.merge(cfg_filename)

    def merge_from_list(self, cfg_list: Sequence[Any], source: str = "override") -> None:
        """Merge `[KEY, VALUE, ...]` or `["KEY=VALUE", ...]`, as `merge` does."""
        self.merge(overrides=cfg_list, source=source)

    def merge_from_other_cfg(self, cfg_other: dict[str, Any]) -> None:
        """Merge another tree or a plain nested dict."""
        self._merge([list(leaves(cfg_other, "merged config"))], [])

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Return the file and its `_BASE_` files as one nested dict, unchecked."""
        _refuse_unsafe(allow_unsafe)
        tree = cls(new_allowed=True)
        tree.merge(filename)
        return tree.to_dict()

    def dump(self, **kwargs: Any) -> str:
        """Return the tree as YAML, in the order of declaration; merging it gives the same config.

        >>> print(CfgNode({"SOLVER": {"STEPS": (30, 60), "BASE_LR": 1e-5}}).dump(), end="")
        SOLVER:
          STEPS: [30, 60]
          BASE_LR: 1.0e-05
        """
        return dump_yaml(self.to_dict(), **kwargs)

    def has_key(self, key: str) -> bool:
        """Return whether `key`, such as "SOLVER.BASE_LR", is a section or a key of this tree.

        >>> cfg = CfgNode({"SOLVER": {"BASE_LR": 0.1}})
        >>> cfg.has_key("SOLVER.BASE_LR"), cfg.has_key("SOLVER"), cfg.has_key("SOLVER.LR")
        (True, True, False)
        """
        node, rest = self._find(tuple(key.split(".")))
        return not rest or bool(node.is_new_allowed()) or (len(rest) == 1 and rest[0] in node)

    def source(self, key: str) -> str:
        """Return where `key` was set: "x.yaml:12", "command line", ... or "" if it has its default."""
        node, rest = self._find(tuple(key.split(".")))
        return str(node.__dict__[_SOURCES].get(".".join(rest), ""))

    def label(self, key: str) -> str:
        """Return the key and its source, if it was set: "SOLVER.BASE_LR (x.yaml:12)"."""
        source = self.source(key)
        return f"{key} ({source})" if source else key

    def is_set(self, key: str) -> bool:
        """Return whether a file, a command line or Python code has set `key`, even to its default."""
        return self.source(key) != ""

    def flatten(self) -> dict[str, Any]:
        """Return all keys with their values: {"SOLVER.BASE_LR": 0.001, ...}."""
        return {assignment.key: assignment.value for assignment in leaves(self, "")}

    def fields(self) -> Iterator[tuple[str, Field]]:
        """Yield every declared key with its field; keys of open nodes have no field."""
        for name, value in self.items():
            if isinstance(value, CfgNode):
                yield from ((f"{name}.{rest}", field) for rest, field in value.fields())
            elif name in self.__dict__[_FIELDS]:
                yield name, self.__dict__[_FIELDS][name]

    def differences(self, other: dict[str, Any]) -> list[Difference]:
        """Return the keys whose values differ from `other`, a tree or a plain nested dict."""
        theirs = {assignment.key: assignment.value for assignment in leaves(other, "")}
        ours = self.flatten()
        return [
            Difference(key, theirs.get(key), ours.get(key), self.source(key) or "defaults")
            for key in [*ours, *(k for k in theirs if k not in ours)]
            if (key in theirs) != (key in ours) or theirs[key] != ours[key]
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as plain nested dicts, the form in which it is saved in checkpoints."""
        return {k: v.to_dict() if isinstance(v, CfgNode) else v for k, v in self.items()}

    def _find(self, path: tuple[str, ...]) -> tuple[CfgNode, tuple[str, ...]]:
        """Return the innermost section in `path`, and the rest of the path."""
        node: CfgNode = self
        while path and not node.is_new_allowed() and isinstance(node.get(path[0]), CfgNode):
            node, path = node[path[0]], path[1:]
        return node, path

    def _merge(self, layers: list[list[Assignment]], problems: list[str]) -> None:
        if self.is_frozen():
            raise AttributeError("the config is frozen: clone() and defrost() it first")
        # On a copy first: if there is a mistake, the config is not changed.
        for node in (self.clone(), self):
            for layer in layers:
                last: dict[tuple[str, ...], Assignment] = {}  # for keys given twice
                for assignment in layer:
                    with gathering(problems):
                        last |= {a.path: a for a in node._expand(assignment)}
                # Names before their arguments, in whatever order they were typed: a new name clears the arguments.
                for assignment in sorted(last.values(), key=lambda a: node._find(a.path)[0].is_new_allowed()):
                    with gathering(problems):
                        node._assign(assignment)
            if problems:
                raise ConfigError(list(dict.fromkeys(problems)))

    def _expand(self, assignment: Assignment) -> list[Assignment]:
        """Return one assignment per key, if a mapping is assigned to a section or in an open node."""
        node, rest = self._find(assignment.path)
        if rest and not node.is_new_allowed():
            return [assignment]
        key, value, source, is_text = assignment.key, assignment.value, assignment.source, assignment.is_text
        try:
            value = parse_scalar(value) if is_text else value
        except ValueError as error:
            raise ConfigError(f"{key} ({source}): invalid list or mapping: {error}; got {value!r}") from None
        if isinstance(value, dict):
            inner = leaves(value, source, assignment.path)
            return [expanded for leaf in inner for expanded in self._expand(leaf)]
        if rest:
            value = numbers_in(value) if isinstance(value, str) else value
            return [assignment._replace(value=value, is_text=False)]
        if value is not None:  # `SOLVER:` with nothing below it has no effect
            example = f"{key}.{next(iter(node), 'NAME')}"
            raise ConfigError(f"{key} ({source}): expected keys with values, as {example}; got {shown(value)}")
        return []

    def _assign(self, assignment: Assignment) -> None:
        path, value, source, is_text = assignment
        node, rest = self._find(path)
        if node.is_new_allowed():
            _assign_open(node, rest, value)
        elif rest[0] not in node:
            raise unknown_key(source, assignment.key, list(self._names()))
        else:
            fields, name = node.__dict__[_FIELDS], rest[0]
            if len(rest) > 1:
                whole = ".".join(path[: 1 - len(rest)])
                hint = f"{whole} expects {fields[name].expected} (for example: {whole} {fields[name].example})"
                raise ConfigError(f"{source}: unknown key {assignment.key}; {hint}")
            value = fields[name].read(assignment.key, source, value, is_text=is_text)
            for arguments, declared in fields.items():
                if isinstance(declared, Open) and declared.owner == name and value != node[name]:
                    node[arguments]._clear()
            node[name] = value
        node.__dict__[_SOURCES][".".join(rest)] = source

    def _names(self) -> Iterator[str]:
        for name, value in self.items():
            yield name
            if isinstance(value, CfgNode):
                yield from (f"{name}.{rest}" for rest in value._names())

    def _clear(self) -> None:
        self.clear()
        self.__dict__[_SOURCES].clear()


def _refuse_unsafe(allow_unsafe: bool) -> None:
    if allow_unsafe:
        raise TypeError("configs are read as data; there is no unsafe loading")


def _assign_open(node: CfgNode, path: tuple[str, ...], value: Any) -> None:
    *sections, name = path
    for section in sections:
        if not isinstance(node.get(section), CfgNode):
            node[section] = CfgNode(new_allowed=True)
        node = node[section]
    node[name] = value
