"""What an op is: one record `Op(name, real, rule, kernels, cases)`; everything else about ops is derived from it.

A kernel is cut in two, as TFLite's own are in Prepare and Eval:

* `plan(site, flavour) -> Plan(static, leaves)` runs once on the host, in numpy, float64 where the C++ uses double and float32 where
  it uses float. `leaves` are all numbers the kernel will need, by name; `static` selects code and must be hashable.
* `run(options, static, leaves, *inputs)` is pure JAX on integers and never branches on a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import Unsupported
from .graph import Graph, Node, Options, Tensor

FLAVOURS = ("xnnpack", "reference", "builtin")
BY_BLOCKS = " by blocks"


@dataclass(frozen=True, eq=False)
class Plan:
    """`static`: hashable choices that select code (two plans with equal static share a compile). `leaves`: numpy arrays by name.

    `note`: which rule or fallback applies, in words, for `explain`.
    """

    static: Any = ()
    leaves: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, eq=False)
class Site:
    """An op where it stands in a graph: the node, its tensors (None where absent), and input values known on the host.

    intermediates: tensors that exist for their parameters alone (LSTM).
    """

    node: Node
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    values: tuple[np.ndarray | None, ...]
    intermediates: tuple[Tensor, ...] = ()

    @property
    def options(self) -> Options:
        return self.node.options

    @property
    def where(self) -> str:
        name = self.outputs[0].name if self.outputs else ""
        return f"op {self.node.index} {self.node.op} ({name!r})"

    @property
    def types(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of the operands ("" where absent; "int4 by blocks" of weights with scales by blocks) and of the outputs."""
        return tuple(t.type + BY_BLOCKS * (t.blocks is not None) if t else "" for t in self.inputs), tuple(t.type for t in self.outputs)


def site(graph: Graph, node: Node, known: Mapping[int, np.ndarray] | None = None) -> Site:
    """The node of a graph with its tensors; `known` adds host values of computed tensors to those of constants."""
    known = known or {}
    inputs = tuple(graph.tensors[i] if i >= 0 else None for i in node.inputs)
    values = tuple(None if t is None else known.get(t.index, t.data) for t in inputs)
    outputs, intermediates = (tuple(graph.tensors[i] for i in indexes) for indexes in (node.outputs, node.intermediates))
    return Site(node, inputs, outputs, values, intermediates)


@dataclass(frozen=True)
class Rule:
    """Facts of an op that quantizer, fake mode and tests share. Data only.

    data: positions of the inputs that carry real values ("all" for every input); they and the outputs get ranges.
    weights, weight_axis: position of the weights and their per-channel axis. bias: position of the bias, whose scale is
    scale(data[0]) * scale(weights) and whose zero point is 0.
    tied: outputs and data inputs share one (scale, zero point) when quantized.
    fixed: type -> (scale, zero point) that the output must have.
    static: positions whose values are needed on the host. prepared: positions whose constants the plan turns into leaves itself
    (run receives None there).
    versions: type of the data ("float32 x int8": float data by such weights) -> op version to stamp (the lowest that fits, never above
    the reference resolver's ceiling).
    keep_float: never quantized (its output feeds shapes, it converts, or LiteRT's kernel stops or errs at some parameters or codes).
    typed: `real` finds the type of the output as options.out_type.
    state: positions of variable tensors that the op replaces; `real` and `run` return their new values after the outputs. Where they
    depend on the form of the op, a mapping from the number of inputs.
    """

    data: tuple[int, ...] | str = (0,)
    weights: int | None = None
    weight_axis: int | None = None
    bias: int | None = None
    tied: bool = False
    fixed: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    static: tuple[int, ...] = ()
    prepared: tuple[int, ...] = ()
    versions: Mapping[str, int] = field(default_factory=lambda: {"float32": 1, "int8": 2})
    keep_float: bool = False
    typed: bool = False
    state: tuple[int, ...] | Mapping[int, tuple[int, ...]] = ()

    def states(self, node: Node) -> tuple[int, ...]:
        """Positions of the variable tensors that this node replaces."""
        return self.state.get(len(node.inputs), ()) if isinstance(self.state, Mapping) else self.state

    def data_inputs(self, node: Node) -> tuple[int, ...]:
        """Positions of the inputs of this node that carry real values."""
        positions = range(len(node.inputs)) if isinstance(self.data, str) else self.data
        return tuple(p for p in positions if p < len(node.inputs) and node.inputs[p] >= 0)


@dataclass(frozen=True)
class Measured:
    """Where a kernel was found equal to LiteRT: versions of the runtime, and CPU classes by the names of `qsim.litert.cpu_class`."""

    runtimes: tuple[str, ...] = ("2.3.0",)
    cpus: tuple[str, ...] = ("x86-64 AVX2+FMA", "x86-64 AVX512", "x86-64 AVX512-VNNI")

    def why_not(self, runtime: str, cpu: str) -> str:
        """Why its exactness says nothing about this runtime and CPU; empty where it does."""
        if runtime not in self.runtimes:
            return f"measured with LiteRT {', '.join(self.runtimes)}, this is {runtime}"
        return "" if cpu in self.cpus else f"measured on {', '.join(self.cpus)}, this is {cpu}"

    def __str__(self) -> str:
        return f"LiteRT {', '.join(self.runtimes)} on {', '.join(self.cpus)}"


@dataclass(frozen=True, eq=False)
class Kernel:
    """One integer (or mixed) kernel: the tensor types and flavours it serves, where that was measured, plan and run.

    `inputs`, `outputs`: type patterns, one an operand: "int8", "int8|uint8", "int32?" (may be absent), "int4 by blocks" (scales by
    blocks of columns), and a last "int8*" for any number. "any" matches every type. `defects`: flavours whose kernel of LiteRT is wrong
    or undefined, and how: `run` gives what the kernel is meant to compute.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flavours: tuple[str, ...]
    plan: Callable[[Site, str], Plan]
    run: Callable[..., Any]
    measured: Measured = Measured()
    defects: Mapping[str, str] = field(default_factory=dict)

    def serves(self, types: tuple[tuple[str, ...], tuple[str, ...]], flavour: str) -> bool:
        return flavour in self.flavours and matches(self.inputs, types[0]) and matches(self.outputs, types[1])


def matches(patterns: tuple[str, ...], types: tuple[str, ...]) -> bool:
    """Whether element types are what the patterns of a `Kernel` ask for."""
    if patterns and patterns[-1].endswith("*"):
        fixed, rest = patterns[:-1], patterns[-1][:-1]
        if len(types) < len(fixed):
            return False
        return matches(fixed, types[: len(fixed)]) and all(_one(rest, t) for t in types[len(fixed) :])
    types = types + ("",) * (len(patterns) - len(types))
    return len(types) == len(patterns) and all(_one(p, t) for p, t in zip(patterns, types, strict=True))


def _one(pattern: str, name: str) -> bool:
    if pattern.endswith("?"):
        return name == "" or _one(pattern[:-1], name)
    return name != "" and (pattern == "any" or name in pattern.split("|"))


@dataclass(frozen=True)
class Case:
    """Shapes and options of one generated test: `inputs` are shapes of the inputs in order (None: absent).

    `values`: position -> value of a static input (paddings, axes, shapes). `types`: position -> type where it is not the drawn one.
    `constant`: positions of data inputs to be made constants. `options`: schema names; enumerations by name.
    """

    inputs: tuple[tuple[int, ...] | None, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[int, Any] = field(default_factory=dict)
    types: Mapping[int, str] = field(default_factory=dict)
    constant: tuple[int, ...] = ()
    outputs: int = 1


@dataclass(frozen=True, eq=False)
class Inner:
    """What fake mode runs in place of `real` where values inside an op have a grid of their own: `real(options, qparams, *inputs)`.

    tensors: name of each such value -> index of the tensor that holds its parameters; qparams: those by name.
    """

    tensors: Mapping[str, int]
    real: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Op:
    """`real(options, *inputs)`: the op over the reals, in the type of its inputs; knows nothing of quantization.

    Static inputs reach `real` as numpy arrays; absent ones as None. `host=True`: `real` also runs on numpy arrays alone (shape
    arithmetic), so the host pass may evaluate it. `fake`: the `Inner` of a site, None where it has none.
    """

    name: str
    real: Callable[..., Any]
    rule: Rule = field(default_factory=Rule)
    kernels: tuple[Kernel, ...] = ()
    cases: tuple[Case, ...] = ()
    host: bool = False
    fake: Callable[[Site], Inner | None] | None = None

    @property
    def blockwise(self) -> bool:
        """Whether its weights may have scales by blocks."""
        return any(pattern.endswith(BY_BLOCKS) for k in self.kernels for pattern in k.inputs)

    def kernel(self, where: Site, flavour: str) -> Kernel:
        """The first row that serves the tensor types and flavour. Raises: Unsupported naming op and types, listing the known rows."""
        for k in self.kernels:
            if k.serves(where.types, flavour):
                return k
        (ins, outs), rows = where.types, sorted({", ".join(k.inputs) + " -> " + ", ".join(k.outputs) for k in self.kernels})
        raise Unsupported(
            f"no {flavour} integer kernel for {', '.join(t or 'none' for t in ins)} -> {', '.join(outs)}",
            where=where.where,
            hint=f"Known: {'; '.join(rows) or 'none'}. Float and fake mode work",
        )


def namespace(*arrays: Any) -> Any:
    """numpy if every array is numpy's (or a Python number), else jax.numpy: lets one `real` serve the host pass and the function."""
    if all(isinstance(a, (np.ndarray, np.generic, int, float)) for a in arrays if a is not None):
        return np
    import jax.numpy as jnp

    return jnp
