"""The registry: every op record, by name. One file per family, each ending in OPS = (...); files without OPS are helpers."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..op import Op


def _load() -> dict[str, Op]:
    found: dict[str, Op] = {}
    for family in sorted(m.name for m in iter_modules(__path__)):
        for op in getattr(import_module(f".{family}", __name__), "OPS", ()):
            if op.name in found:
                raise RuntimeError(f"two records for {op.name}")
            found[op.name] = op
    return found


REGISTRY: dict[str, Op] = _load()
