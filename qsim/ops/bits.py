"""RIGHT_SHIFT, BITWISE_XOR, ATAN2, and the elementwise ops of StableHLO that LiteRT has: two operands, number by number."""

from __future__ import annotations

from typing import Any

from ..errors import Unsupported
from ..graph import Options
from ..op import Case, Op, Rule, namespace
from .common import align, same_type
from .copying import copies

NARROW = ("int8", "uint8", "int16", "int32")
ONCE = {"float32": 1}


def _integers(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands of one type. *Raises*: Unsupported for reals."""
    a, b = same_type(a, b)
    if a.dtype.kind == "f":
        raise Unsupported(f"{name} is about the bits of stored numbers", hint="Integer mode runs it")
    return a, b


def _right_shift(options: Options, a: Any, b: Any) -> Any:
    """a >> b, the sign kept; b held in 0..bits - 1. *Restates*: RIGHT_SHIFT of LiteRT."""
    a, b = align(*_integers("RIGHT_SHIFT", a, b))
    ns, most = namespace(a, b), a.dtype.type(8 * a.dtype.itemsize - 1)
    return a >> ns.clip(b, a.dtype.type(0), most)


def _xor(options: Options, a: Any, b: Any) -> Any:
    """Bits that differ. *Restates*: BITWISE_XOR of LiteRT."""
    a, b = align(*_integers("BITWISE_XOR", a, b))
    return a ^ b


def _shift_left(options: Options, a: Any, b: Any) -> Any:
    """a << b. *Domain*: b in 0..bits - 1 (LiteRT's result is undefined for others). *Restates*: STABLEHLO_SHIFT_LEFT of LiteRT."""
    a, b = _integers("STABLEHLO_SHIFT_LEFT", a, b)
    return a << b


def _and(options: Options, a: Any, b: Any) -> Any:
    """Bits of both. *Restates*: STABLEHLO_AND of LiteRT."""
    a, b = _integers("STABLEHLO_AND", a, b)
    return a & b


def _atan2(options: Options, y: Any, x: Any) -> Any:
    """The angle of (x, y). *Restates*: ATAN2 of LiteRT."""
    return namespace(y, x).arctan2(y, x)


def _arithmetic(name: str) -> Any:
    def real(options: Options, a: Any, b: Any) -> Any:
        """Sum (product, larger, smaller number) of the stored numbers; integers wrap. *Restates*: STABLEHLO_* of LiteRT."""
        a, b = same_type(a, b)
        return getattr(namespace(a, b), name)(a, b)

    return real


_BOTH = (Case(((2, 3, 4), (2, 3, 4))), Case(((2, 3, 1), (3, 4))), Case(((5,), (1,))))
_SAME = _BOTH[:1]


def _op(name: str, real: Any, types: tuple[str, ...], cases: tuple[Case, ...], **more: Any) -> Op:
    return Op(name, real, Rule(data=(), keep_float=True, versions=ONCE), copies(real, types, ("T", "T"), ("T",), **more), cases, host=True)


OPS = (
    _op("RIGHT_SHIFT", _right_shift, NARROW, _BOTH),
    _op("BITWISE_XOR", _xor, NARROW, _BOTH),
    _op("STABLEHLO_SHIFT_LEFT", _shift_left, ("int8", "int16", "int32"), _SAME, flavours=("xnnpack", "builtin")),
    _op("STABLEHLO_AND", _and, ("int8", "int16", "int32", "bool"), _SAME, flavours=("xnnpack", "builtin")),
    _op("ATAN2", _atan2, (), _SAME),
    *(
        _op(f"STABLEHLO_{name}", _arithmetic(function), NARROW, _SAME)
        for name, function in (("ADD", "add"), ("MULTIPLY", "multiply"), ("MAXIMUM", "maximum"), ("MINIMUM", "minimum"))
    ),
)
