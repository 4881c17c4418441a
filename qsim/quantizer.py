"""A float model, ranges and a scheme -> a quantized model that every kernel flavour of LiteRT accepts, with a report of what was done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .assembly import FLOAT, Assembly, compact, moved_signatures
from .channels import Ends, held, parameters, whole
from .channels import split as split_channels
from .errors import BadRecipe, Unsupported
from .graph import Graph, Model, Node, Tensor
from .layout import HARMLESS, Edge, Layout, Variable, cuttable, for_target, layout, record
from .lstm_quantizing import parts
from .ranges import GroupRange, dictated_ends, group_ranges
from .recipe import Recipe, Schemes, border_of, given_ranges, schemes_of
from .report import AS_IT_WAS, GuardRow, OpRow, RepairRow, Report, TensorRow, some
from .scheme import INT8, INT8W4, INT16X8, UINT8, Scheme
from .solve import Conflict, Solution, data_position, largest_input, owner, solve
from .types import holder, simulated
from .weightonly import is_weight_only, store_weights, with_weights
from .weights import DEAD, least_scales, plain_scales

WRITTEN = {(s.activation, s.weight, s.bias) for s in (INT8, UINT8, INT16X8, INT8W4)}
PART_ROLES = {"int8": "weights", "int32": "bias"}  # role of a constant of an LSTM
IO_TYPES = ("float32", "int8", "uint8", "int16")
__all__ = ["Layout", "layout", "quantize"]


def quantize(
    model: Model,
    ranges: Mapping[Any, Any],
    scheme: Schemes = INT8,
    *,
    io: str | tuple[str, str] | None = None,
    target: str = "litert",
    strict: bool = False,
    split: Iterable[Sequence[Any]] = (),
) -> Model:
    """The model with its primary graph quantized under a scheme; `.report` says what became of every op, tensor and range.

    real = scale * (code - zero_point). Activations: (scale, zero point) of their tie group's range, 0.0 always a code; zero point 0 for
    16 bits. Weights: symmetric, per output channel (axis of the op's rule); uint8: one scale and zero point. Bias: scale s_x * s_w.
    ranges: {tensor key: (low, high)}, real units, for every tensor in `layout(model, scheme).groups` (cell states of LSTMs may lack one).
    Under a simulated scheme with activations by channel the ends may be arrays, one number a channel (last axis); biases keep the scale
    of the whole tensor's range.
    scheme: one for all ops, a `Recipe`, or a mapping from node index to the scheme of that op; other ops stay as they are, and QUANTIZE
    goes between ops of different activation types. io: type of the model's inputs and outputs, or of each; None: as the recipe says, else
    float32. Names and signatures stay.
    target: what the file is for (`targets.TARGETS`); what that forbids stays float, or gets one weight scale where only channels are
    the trouble. Ops without an integer kernel stay float between DEQUANTIZE and QUANTIZE. Only the primary graph is touched.
    split: (node, input position), as `calibrate.propose_splits` finds them: where a tensor enters an op that ties its range to others
    (CONCATENATION, PAD, ...), it keeps its own, and a QUANTIZE takes it to the op's; `calibrate.ranges(split=...)` gives both ranges.

    *Raises*: BadRange (every faulty or missing range at once), Unsupported (the source is quantized already; the scheme cannot be
    written; with `strict`, every op on real values that would stay float), BadRecipe (unknown io, unknown target, a split of no tie).
    """
    border = border_of(scheme, io)
    schemes, forbidden = for_target(model, schemes_of(model, scheme), target)
    _refuse(model, schemes, border)
    if isinstance(scheme, Scheme) and is_weight_only(scheme) and not forbidden:
        return _strict(store_weights(model, scheme)) if strict else store_weights(model, scheme)
    ranges, channels = split_channels(model.graph, schemes.values(), {**ranges, **recipe_ranges(model, scheme)})
    split, source = list(split), _source(model, schemes, forbidden)
    _require_ties(model, split, channels)
    cuts = [(source.moved[e[0]], e[1]) for e in split if e[0] in source.moved]
    excluded = {source.moved[i]: why for i, why in forbidden.items() if i in source.moved}
    while True:
        plan = layout(source.made, source.schemes, exclude=excluded, split=cuts)
        given = group_ranges(source.made.graph, plan, ranges)
        try:
            solution = solve(source.made.graph, plan, given)
        except Conflict as conflict:
            node, reason = conflict.args
            excluded[node] = reason
            dictated = {t: dictated_ends(plan, t) for t in source.made.graph.nodes[node].outputs if t in plan.fixed}
            ranges = {**dictated, **ranges}
            continue
        made = _finish(source, _Job(plan, given, solution, _name_of(scheme), border, channels, cuts), ranges)
        return _strict(made) if strict else made


def _strict(made: Model) -> Model:
    """*Raises*: Unsupported naming every op that stays float though it computes with reals."""
    lost = [f"op {row.index} {row.op}: {row.reason}" for row in made.report.kept_float if row.reason not in HARMLESS]
    if lost:
        raise Unsupported(f"{len(lost)} op(s) would stay float:\n  " + "\n  ".join(lost), where=made.path, hint="Leave --strict out")
    return made


def recipe_ranges(model: Model, scheme: Schemes) -> dict[str, Any]:
    """{tensor key: (low, high) or `QParams`} that a recipe gives; they go before others."""
    if not isinstance(scheme, Recipe) or not scheme.tensors:
        return {}
    plan = layout(model, scheme)
    types = {t: kinds[0] for t, kinds in plan.grouped.items()} | dict(plan.native)
    return {model.graph.key(t): ends for t, ends in given_ranges(model, scheme.tensors, types)}


class _Source(NamedTuple):
    """A model, and itself with the weights of weight-only schemes stored. schemes: of the nodes of the latter that are to get integer
    activations; moved: old node index -> new; rows: old node index -> what became of the weights."""

    model: Model
    made: Model
    schemes: Mapping[int, Scheme]
    moved: Mapping[int, int]
    rows: Mapping[int, OpRow]


def _source(model: Model, schemes: Mapping[int, Scheme], forbidden: Mapping[int, str]) -> _Source:
    """The model with the weights stored that weight-only schemes ask for."""
    light = {i: s for i, s in schemes.items() if is_weight_only(s) and i not in forbidden}
    rest = {i: s for i, s in schemes.items() if s.activation != FLOAT}
    if not light:
        return _Source(model, model, rest, {n.index: n.index for n in model.graph.nodes}, {})
    graph, moved, rows = with_weights(model.graph, light)
    made = model.but(graphs=(graph, *model.graphs[1:]))
    return _Source(model, made, {moved[i]: s for i, s in rest.items() if i in moved}, moved, rows)


class _Job(NamedTuple):
    """All that was decided about a model."""

    plan: Layout
    ranges: list[GroupRange]
    solution: Solution
    scheme: str
    io: tuple[str, str]
    channels: Mapping[int, Ends]
    split: Sequence[Edge] = ()


def _name_of(scheme: Schemes) -> str:
    if isinstance(scheme, (Scheme, Recipe)):
        return scheme.name
    return " and ".join(dict.fromkeys(s.name for s in scheme.values()))


def _refuse(model: Model, schemes: Mapping[int, Scheme], io: tuple[str, ...]) -> None:
    if len(io) != 2 or not set(io) <= set(IO_TYPES):
        raise BadRecipe(f"io is one of {', '.join(IO_TYPES)}", found=io[0] if len(set(io)) == 1 else io)
    for s in schemes.values():
        if s.is_simulated and io != (FLOAT, FLOAT):
            raise BadRecipe(f"scheme {s.name!r} is simulated: the model's inputs and outputs stay float32", found=io)
        if s.activation != FLOAT and not s.is_simulated and (s.activation, s.weight, s.bias) not in WRITTEN:
            raise Unsupported(
                f"scheme {s.name!r} cannot be written", found=f"{s.activation} x {s.weight}", hint="LiteRT has no such kernels"
            )
    stored = [t for t in model.graph.tensors if t.qparams is not None and t.type != FLOAT]
    if stored:
        raise Unsupported(
            "the model is quantized already; quantizing needs a float source", where=model.path,
            found=f"{len(stored)} quantized tensors, the first {stored[0].name!r} ({stored[0].type})",
        )  # fmt: skip


def _require_ties(model: Model, split: Sequence[Sequence[Any]], channels: Mapping[int, Ends]) -> None:
    """*Raises*: BadRecipe for a pair that is no real input of an op with one scale for inputs and outputs, or of one that averages; and
    where channels have ranges of their own."""
    if split and channels:
        raise BadRecipe("with a range for each channel no tie is cut", found=f"{len(split)} splits", hint="Leave split out")
    known = set(cuttable(model.graph.nodes)) if split else set()
    for i, p, *_ in split:
        if (i, p) not in known:
            where = _place(model.graph, i) if 0 <= i < len(model.graph.nodes) else f"op {i}"
            raise BadRecipe(f"input {p} has no tie that can be cut", where=where, expected="an input of CONCATENATION, PAD or the like")


def _finish(source: _Source, job: _Job, ranges: Mapping[Any, Any]) -> Model:
    before = source.made.graph
    built = Assembly(before, job.plan, job.solution, job.io, parameters(before, job.plan, job.channels)).build()
    graph, moved = compact(built.but(tensors=tuple(map(_held, built.tensors))), source.model.graph)
    signatures, report = moved_signatures(source.model, moved), _report(source, graph, job, ranges)
    return source.model.but(graphs=(graph, *source.model.graphs[1:]), signatures=signatures, report=report)


def _held(t: Tensor) -> Tensor:
    """Codes of fewer bits than LiteRT has for such a tensor, in the type that has room for them."""
    if t.qparams is not None and t.qparams.per_channel and not t.is_constant and t.type != FLOAT:
        return t.but(type=held(t.type))
    narrow = simulated(t.type) or (t.type in ("int2", "int4") and not t.is_constant)
    return t.but(type="int8" if t.type in ("int2", "int4") else holder(t.type)) if narrow else t


# ---------------------------------------------------------------- the report


def _report(source: _Source, made: Graph, job: _Job, ranges: Mapping[Any, Any]) -> Report:
    graph, plan = source.made.graph, job.plan
    ops = tuple(_op_row(source, plan, n) for n in source.model.graph.nodes)
    repairs = tuple(
        RepairRow(_owner_name(graph, plan, r.variable), r.before, r.after, _place(graph, r.node), r.reason) for r in job.solution.repairs
    )
    notes = tuple(_notes(source.made, job, ranges))
    io = job.io[0] if job.io[0] == job.io[1] else " and ".join(job.io)
    return Report(job.scheme, io, ops, tuple(_tensor_rows(made)), repairs, tuple(_guard_rows(graph, plan, job.solution)), notes)


def _op_row(source: _Source, plan: Layout, node: Node) -> OpRow:
    """What became of a node of the source."""
    if node.index in source.rows:
        return source.rows[node.index]
    at, name = source.moved.get(node.index, -1), _name(source.model.graph, node)
    if at not in plan.quantized:
        return OpRow(node.index, node.op, name, AS_IT_WAS, plan.kept_float.get(at, ""))
    scheme, asked = plan.quantized[at], source.schemes[at].weight
    kept = scheme.weight if record(node).rule.weights is not None else "int8" if parts(node) else asked
    return OpRow(node.index, node.op, name, _stored(node, scheme), f"no kernel takes {asked} weights" if kept != asked else "")


def _stored(node: Node, scheme: Scheme) -> str:
    """The activation type, with the type of the weights where that is another."""
    same = record(node).rule.weights is None or scheme.weight == scheme.activation
    return scheme.activation if same else f"{scheme.activation} x {scheme.weight}"


def _name(graph: Graph, node: Node) -> str:
    return graph.key(node.outputs[0]) if node.outputs else ""


def _place(graph: Graph, index: int) -> str:
    return "" if index < 0 else f"op {index} {graph.nodes[index].op}"


def _owner_name(graph: Graph, plan: Layout, v: Variable) -> str:
    if v[0] == "group":
        return ", ".join(graph.key(t) for t in plan.groups[v[1]])
    return graph.key(v[1]) if v[0] == "fixed" else graph.key(graph.nodes[v[1]].inputs[v[2]])


def _tensor_rows(made: Graph) -> Iterator[TensorRow]:
    """Every stored tensor of the new graph with parameters; channels with different scales are summed up by their widest."""
    roles = _roles(made)
    for t in made.tensors:
        if t.qparams is not None and t.index in roles:
            low, high = t.qparams.real_range()
            widest = int(np.argmax(t.qparams.scale))
            scale, zero = float(t.qparams.scale[widest]), int(t.qparams.zero_point[widest])
            yield TensorRow(
                made.key(t.index), roles[t.index], t.type, scale, zero, float(low[widest]), float(high[widest]), t.qparams.scale.size
            )


def _roles(made: Graph) -> dict[int, str]:
    from .ops import REGISTRY

    roles: dict[int, str] = {t: "range" for t in made.inputs}
    for node in made.nodes:
        rule = REGISTRY[node.op].rule if node.op in REGISTRY else None
        for p, t in enumerate(node.inputs):
            if rule is not None and t >= 0 and made.tensors[t].is_constant:
                roles[t] = {rule.weights: "weights", rule.bias: "bias"}.get(p, PART_ROLES.get(parts(node).get(p, ""), "constant"))
            elif rule is not None and p in parts(node) and t >= 0:
                roles[t] = "range"
        for t in node.outputs:
            q = made.tensors[t].qparams
            dictated = (
                rule is not None and q is not None and rule.fixed.get(made.tensors[t].type) == (float(q.scale[0]), int(q.zero_point[0]))
            )
            roles[t] = "fixed" if dictated else "range"
    return roles


def _guard_rows(graph: Graph, plan: Layout, solution: Solution) -> Iterator[GuardRow]:
    """Ops where the guard raised a scale, or with dead channels."""
    for index, found in solution.surveys.items():
        scheme = plan.quantized[index]
        x = solution.parameters[owner(plan, graph.nodes[index], data_position(graph.nodes[index]))]
        scale = float(x.scale[0])
        plain = plain_scales(found, scheme.weight, scheme.per_channel)
        raised = plain < least_scales(found, scale, largest_input(scale, int(x.zero_point[0]), scheme.activation), scheme)
        dead = found.peak < DEAD * found.peak.max(initial=0.0)
        if raised.any() or dead.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = np.where(found.bias > 0, found.bias / (plain * scale), 0.0)
            yield GuardRow(_place(graph, index), len(plain), int(dead.sum()), int(raised.sum()), float(steps.max(initial=0.0)))


def _notes(model: Model, job: _Job, ranges: Mapping[Any, Any]) -> Iterator[str]:
    graph, plan, given = model.graph, job.plan, job.ranges
    if len(model.graphs) > 1:
        yield f"only the primary graph was quantized; {len(model.graphs) - 1} other subgraphs are as they were"
    for text in dict.fromkeys(r.note for r in given if r.note):
        yield f"ranges {text}: " + some([_owner_name(graph, plan, ("group", i)) for i, r in enumerate(given) if r.note == text])
    for node, position in sorted(plan.requantized):
        own = "own range, as asked," if (node, position) in plan.cuts else "dictated parameters"
        yield f"{_place(graph, node)}: input {position} keeps its {own} and is requantized for this op"
    for node, position in sorted(set(job.split) - plan.cuts):
        yield f"{_place(graph, node)}: input {position} keeps no range of its own, though asked: tied in another way, or not quantized"
    for node, reason in job.solution.unmet:
        yield f"{_place(graph, node)}: {reason}; not repaired, the builtin kernel runs"
    alike = whole(graph, plan, job.channels)
    if alike:
        yield f"one range for all channels: {some([graph.key(t) for t in alike])}"
    yield from _left_float(graph, plan, job.io)
    unused = [graph.key(graph.find(k)) for k in ranges if graph.find(k) not in plan.grouped]
    if unused:
        yield f"ranges given but not needed: {some(unused)}"


def _left_float(graph: Graph, plan: Layout, io: tuple[str, str]) -> Iterator[str]:
    """Model inputs and outputs that stay float32 though codes were asked for."""
    asked = [(t, "reads") for t in graph.inputs if io[0] != FLOAT] + [(t, "computes") for t in graph.outputs if io[1] != FLOAT]
    for t, does in asked:
        stored = t in plan.grouped if does == "reads" else t in plan.native or (t in graph.inputs and t in plan.grouped)
        if graph.tensors[t].type == FLOAT and not stored:
            yield f"{graph.key(t)} stays float32: a float op {does} it"
