"""The strategy that weighs rounding errors by what they do to the model's output."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qsim.errors import BadData

from .distribution import Distribution
from .rounding import search


@dataclass(frozen=True)
class Fisher:
    """The range whose stored (scale, zero point) has the smallest sum of g^2 (x - real(code(x)))^2 over all elements x, g the gradient of
    the output log-likelihood with respect to x: the diagonal of the Fisher information as the weight of each squared rounding error.

    Where no gradient reaches the values, the range is min/max. *Raises*: BadData where the statistics hold no gradients.
    *Restates*: the objective of BRECQ (Li et al. 2021, eq. 10: squared gradients in place of the Hessian's diagonal), here for ranges.
    """

    symmetric: bool = False
    type_name: str = "int8"

    def __call__(self, d: Distribution) -> tuple[float, float]:
        if d.importance is None:
            raise BadData("fisher needs gradients", hint="Take them in the pass over the data: observe(..., gradients=1)")
        total = float(d.importance.sum())
        if total <= 0.0:
            return d.min, d.max
        return search(replace(d, weight=d.importance * (d.total / total)), self.type_name, symmetric=self.symmetric)[0]
