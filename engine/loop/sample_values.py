"""What an evaluation keeps of each sample, for its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..distributed import comm

INDEX = "index"


class SampleValues:
    """Values of the samples that this rank evaluates, kept on their device until they are joined.

    >>> values = SampleValues()
    >>> values.add(torch.tensor([5, 3]), {"size": torch.tensor([50, 30])})
    >>> values.add(torch.tensor([4]), {"size": torch.tensor([40])})
    >>> {name: each.tolist() for name, each in values.joined().items()}
    {'index': [3, 4, 5], 'size': [30, 40, 50]}
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, Tensor]] = []
        self.kept: Mapping[str, Any] = {}  # of all samples of all ranks, by an evaluator that has joined them

    def add(self, indices: Tensor, values: Mapping[str, Tensor]) -> None:
        """Take the values of a batch, each (N, ...), and the samples' indices in the test set, (N,)."""
        if values:
            self._parts.append({INDEX: indices, **values})

    def joined(self) -> Mapping[str, Any]:
        """Return the values of the samples of all ranks on the CPU, by increasing index; {} if there are none.

        They do not depend on the number of ranks. Waits for all ranks.
        """
        if self.kept:
            return self.kept
        own = {name: torch.cat([part[name] for part in self._parts]).cpu() for name in self._names()}
        found = [each for each in comm.gather(own) if each]
        if not found:
            return {}
        values = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        order = values[INDEX].argsort(stable=True)
        return {name: each[order] for name, each in values.items()}

    def _names(self) -> list[str]:
        return [*self._parts[0]] if self._parts else []
