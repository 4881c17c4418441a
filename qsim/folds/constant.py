"""New values for constants: in place where one reader has them, else in a tensor of their own."""

from __future__ import annotations

import numpy as np

from ..graph import Graph, Tensor


class Stock:
    """Collects the tensors that a change makes. `made`: index -> tensor; indexes past the graph's are new ones."""

    def __init__(self, graph: Graph):
        self.graph, self.made = graph, dict[int, Tensor]()

    def put(self, t: int, values: np.ndarray) -> int:
        """Index of a tensor with these values for the one reader that asks, which had constant t; t itself where it has them."""
        old, readers = self.graph.tensors[t], self.graph.consumers.get(t, ())
        if np.array_equal(old.data, values.reshape(old.shape)):  # type: ignore[arg-type]
            return t
        if len(readers) > 1 or t in (*self.graph.inputs, *self.graph.outputs):
            return self.add(old.name, values.reshape(old.shape))
        self.made[t] = old.but(data=_frozen(values.reshape(old.shape)), buffer=0, raw=None, qparams=None)
        return t

    def add(self, name: str, values: np.ndarray) -> int:
        index = len(self.graph.tensors) + sum(i >= len(self.graph.tensors) for i in self.made)
        self.made[index] = Tensor(index, self._free(name), values.shape, "float32", data=_frozen(values))
        return index

    def _free(self, name: str) -> str:
        taken = {t.name for t in (*self.graph.tensors, *self.made.values())}
        count = 1
        found = name
        while found in taken:
            count += 1
            found = f"{name}_{count}"
        return found


def _frozen(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values).reshape(values.shape)
    values.setflags(write=False)
    return values
