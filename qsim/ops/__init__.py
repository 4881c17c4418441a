"""The registry: every op record, by name. One file per family, each ending in OPS = (...)."""

from __future__ import annotations

from importlib import import_module

from ..op import Op

FAMILIES = (
    "linear", "elementwise", "activation", "pooling", "reduction", "movement", "shape", "convert",
    "resize", "recurrent", "lstm", "products", "slicing", "blocks", "filling", "choosing",
    "lookup", "arithmetic", "compare", "softmax", "tables", "unary", "normalize", "neighbours",
)  # fmt: skip
)  # fmt: skip


def _load() -> dict[str, Op]:
    found: dict[str, Op] = {}
    for family in FAMILIES:
        for op in import_module(f".{family}", __name__).OPS:
            if op.name in found:
                raise RuntimeError(f"two records for {op.name}")
            found[op.name] = op
    return found


REGISTRY: dict[str, Op] = _load()
