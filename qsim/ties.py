"""Which things must be alike: union-find."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Ties:
    """Union-find over tensors or uses; groups come out in the order in which their first member was added."""

    def __init__(self) -> None:
        self.parent: dict[Any, Any] = {}

    def add(self, t: Any) -> None:
        self.parent.setdefault(t, t)

    def root(self, t: Any) -> Any:
        while self.parent[t] != t:
            self.parent[t] = t = self.parent[self.parent[t]]
        return t

    def join(self, tensors: Iterable[Any]) -> None:
        roots = [self.root(t) for t in tensors]
        for r in roots[1:]:
            self.parent[self.root(r)] = self.root(roots[0])

    def groups(self) -> tuple[tuple[Any, ...], ...]:
        found: dict[Any, list[Any]] = {}
        for t in self.parent:
            found.setdefault(self.root(t), []).append(t)
        return tuple(tuple(g) for g in found.values())
