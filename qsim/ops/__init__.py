"""The registry: every op record, by name. One file per family, each ending in OPS = (...)."""

from __future__ import annotations

from importlib import import_module

from ..op import Op

FAMILIES = (
    "linear", "products", "elementwise", "arithmetic", "compare", "activation", "softmax", "tables",
    "unary", "normalize", "pooling", "neighbours", "reduction", "movement", "slicing", "blocks",
    "filling", "choosing", "lookup", "shape", "convert", "resize", "recurrent", "lstm",
    "sparse", "detection", "spectral", "segments", "bits", "windows", "bodies", "suppression", "unknown", "audio",
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
