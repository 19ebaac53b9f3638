"""Frozen parameters: which ones train at an iteration, and which modules stay in evaluation mode."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from warmstart.config import CfgNode, ConfigError, first_matches, pattern_problem


@dataclass
class Freezing:
    """The frozen parameters of a model, as a function of the iteration.

    Args:
        until: by the names of all frozen parameters the completed updates from which each one trains; None: never.
        held: names of the modules that `nn.Module.train` leaves in evaluation mode at present.
    """

    until: Mapping[str, int | None]
    held: tuple[str, ...] = ()

    def at(self, iteration: int) -> set[str]:
        """Return the names of the parameters that are frozen in the update after `iteration` others.

        >>> freezing = Freezing({"stem.weight": None, "layer.weight": 5})
        >>> sorted(freezing.at(4)), sorted(freezing.at(5))
        (['layer.weight', 'stem.weight'], ['stem.weight'])
        """
        return {name for name, until in self.until.items() if until is None or iteration < until}


def check_freeze(cfg: CfgNode) -> None:
    """Raise ConfigError for all mistakes in MODEL.FREEZE that can be found without a model.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.FREEZE", "fc("])
    >>> check_freeze(cfg)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.FREEZE (override): entry 1, MATCH 'fc(': is not a regular \
expression: missing ), unterminated subpattern at position 2
    """
    problems = []
    for number, entry in enumerate(cfg.MODEL.FREEZE, start=1):
        where = f"{cfg.label('MODEL.FREEZE')}: entry {number}, MATCH {entry['MATCH']!r}"
        if problem := pattern_problem(entry["MATCH"]):
            problems.append(f"{where}: {problem}")
        if isinstance(entry.get("UNTIL"), str):
            problems.append(
                f"{where}: UNTIL is {entry['UNTIL']!r}; give a number of updates, or let"
                " warmstart.engine.resolve_config convert it"
            )
    if problems:
        raise ConfigError(problems)


def freeze(model: nn.Module, rules: Sequence[tuple[str, int | None]], label: str = "freeze") -> None:
    """Freeze parameters of a model, for ever or for the first updates of a run.

    They get no gradient. A module that has parameters, in itself or below it, all of them frozen, is in evaluation
    mode with everything below it, and stays so whenever `model.train()` is called. The model gets the attributes
    `freezing` and `trains_later`: the names of the parameters that `set_frozen` will train later.

    Args:
        model: before the first update.
        rules: (regex, until): the regex is searched for in parameter names; the parameters train after `until`
            completed updates, or never, None. The first rule that matches applies.
        label: the beginning of messages.

    Raises:
        ConfigError: a rule applies to no parameter, or nothing would train in the first update.

    >>> model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Dropout(), nn.Linear(2, 1))
    >>> freeze(model, [("^0", None)])
    >>> _ = model.train()
    >>> model[0][1].training, model[1].training, [name for name, p in model.named_parameters() if p.requires_grad]
    (False, True, ['2.weight', '2.bias'])
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    try:
        matches = first_matches([match for match, _ in rules], names, "entry")
    except ConfigError as error:
        raise ConfigError([f"{label}: {problem}" for problem in error.problems]) from None
    chosen = {name: rules[number - 1][1] for name, number in matches.items() if number}
    if len(chosen) == len(names):
        module = names[-1].rpartition(".")[0] or names[-1]
        raise ConfigError(
            f"{label}: freezes every parameter in the first update, so nothing would train; leave out the last"
            rf" layer, {module}: '^(?!{module}\.)'"
        )
    # What the model itself has frozen never trains.
    own = {name: None for name, parameter in model.named_parameters() if not parameter.requires_grad}
    model.freezing = Freezing(own | chosen)  # type: ignore[assignment]
    model.trains_later = frozenset(name for name, until in chosen.items() if until is not None)  # type: ignore[assignment]
    model.train = functools.partial(_train, model)  # type: ignore[method-assign]  # is copied with its model
    set_frozen(model, 0)


def set_frozen(model: nn.Module, iteration: int) -> list[nn.Parameter]:
    """Freeze and train the parameters of a model as in the update after `iteration` others.

    Returns:
        The parameters that begin to train; none for a model without frozen ones.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    >>> freeze(model, [("^0", 5)])
    >>> len(set_frozen(model, 4)), len(set_frozen(model, 5)), model[0].training
    (0, 2, True)
    """
    freezing = freezing_of(model)
    if freezing is None:
        return []
    frozen, begin = freezing.at(iteration), []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad == (name in frozen):
            parameter.requires_grad_(name not in frozen)
            begin += [parameter] if name not in frozen else []
    hold_modules(model, iteration)
    return begin


def hold_modules(model: nn.Module, iteration: int) -> None:
    """Put the modules of a model into the modes of the update after `iteration` others.

    Which parameters get gradients does not change: for copies of a model, such as its moving average.
    """
    freezing = freezing_of(model)
    if freezing is None:
        return
    before, freezing.held = freezing.held, tuple(_without_trainable(model, freezing.at(iteration)))
    for name in {*before} - {*freezing.held} if model.training else ():
        model.get_submodule(name).train()
    _hold(model)


def next_change(model: nn.Module, iteration: int) -> int | None:
    """Return the first number of updates after `iteration` from which further parameters train; None: never.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> freeze(model, [("^0", 5)])
    >>> next_change(model, 4), next_change(model, 5)
    (5, None)
    """
    freezing = freezing_of(model)
    later = [] if freezing is None else [until for until in freezing.until.values() if until is not None]
    return min((until for until in later if until > iteration), default=None)


def freezing_of(model: nn.Module) -> Freezing | None:
    """Return what `freeze` has set up for a model; None if it has frozen nothing."""
    found = getattr(model, "freezing", None)
    return found if isinstance(found, Freezing) else None


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    """Do what the model's own train() does, and put held modules back into evaluation mode."""
    type(model).train(model, mode)
    _hold(model)
    return model


def _hold(model: nn.Module) -> None:
    freezing = freezing_of(model)
    for name in freezing.held if freezing is not None else ():
        model.get_submodule(name).eval()


def _without_trainable(model: nn.Module, frozen: set[str]) -> Iterator[str]:
    """Yield the names of the outermost modules that have parameters, all of them frozen."""
    fixed = {parameter for name, parameter in model.named_parameters() if name in frozen}
    last = None
    for name, module in model.named_modules():  # a module comes before those inside of it
        if last is not None and name.startswith(f"{last}."):
            continue
        parameters = set(module.parameters())
        if name and parameters and parameters <= fixed:
            last = name
            yield name
