"""Only affine parameters have a meaning here: codes with scales of another kind must not be taken for the numbers they are not."""

from __future__ import annotations

from ..errors import Unsupported
from ..op import Site


def details(site: Site) -> tuple[str, str] | None:
    """(name of the first input whose parameters are not affine, what they are), or None."""
    for t in site.inputs:
        found = (t.raw or {}).get("quantization", {}).get("details") if t is not None else None
        if t is not None and found is not None:
            return t.name, found.table
    return None


def require_affine(site: Site, blockwise: bool = False) -> None:
    """Raises: Unsupported where an input has parameters that are not affine; scales by blocks pass where they are read and the op
    computes with them (`blockwise`)."""
    found = details(site)
    if found is not None and not (blockwise and any(t is not None and t.blocks is not None for t in site.inputs)):
        raise Unsupported(
            f"{found[0]!r} has a {found[1]}", where=site.where, expected="one scale, or one per channel",
            hint="Of scales by blocks only float16 ones of 4-bit FULLY_CONNECTED weights are computed with; files keep the others",
        )  # fmt: skip
