"""`qsim explain`: the plan of every op."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from . import options as o
from .models import load_model
from .screen import emit, table, text


def command(
    model: o.Model,
    /,
    *,
    op: Annotated[int | None, Parameter(help="Only this op (its index in `qsim inspect`), with every integer in full.")] = None,
    flavour: o.Flavour = "xnnpack",
    signature: o.Signature = None,
    json: o.Json = False,
) -> int:
    """Every integer of every op: multipliers, shifts, scales, zero points, clamps, accumulator bound and headroom, rounding rule."""
    from qsim import explain
    from qsim.plans import COLUMNS

    found = explain(load_model(model, signature), op, flavour)
    if json:
        emit({"flavour": flavour, "ops": found.rows()})
    elif op is not None:
        text(str(found))
    else:
        table(f"{model} as {flavour} computes it", COLUMNS, (p.cells() for p in found.plans), numeric=("op", "headroom, bits"))
    return 0
