"""Dead range: values of a tensor that everything that reads it maps to one value. Codes for them are wasted, as saturating them is free.

RELU reads all below 0 as 0 (RELU6 all above 6 as 6), HARD_SWISH all below -3 as -3. With s the step that an op dictates for its output,
LOGISTIC is within PART steps of its limit beyond +-ln(1 / (PART s) - 1), TANH beyond half of ln(2 / (PART s) - 1): 7.8 and 3.9 at 8 bits.
A number of a row of K before SOFTMAX that is ln(K / (PART s)) / beta below the largest adds less than PART steps to any output; so far
below the smallest largest one that was seen, values count no more. Ops that only select among values (RESHAPE, CONCATENATION,
MAX_POOL_2D, MAXIMUM, ...) read what their readers read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log

import numpy as np

from qsim.graph import Graph, Node
from qsim.layout import AVERAGING, Layout
from qsim.ranges import ENDS

from .statistics import Statistics

Pair = tuple[float, float]
PART = 0.1  # of an output's step: by how much it may change
ALL = (-inf, inf)


def live_intervals(graph: Graph, plan: Layout, stats: Statistics | None = None) -> dict[int, Pair]:
    """tensor index -> (low, high), real units, low <= 0 <= high: values outside need no codes. An end is infinite where no value is dead.

    The hull over a tensor's readers; outputs of the model, and what ops read that are not listed above, are live everywhere. stats, with
    a sequence: for SOFTMAX of a single row, which without is live everywhere. HARD_SWISH's -3 is rounded to the grid with the range: what
    it gives for values below is then up to a quarter of an input step from 0.
    """
    found: dict[int, Pair] = {t: ALL for t in graph.outputs}
    for node in reversed(graph.nodes):
        for position, t in enumerate(node.inputs):
            if t >= 0:
                low, high = _read(graph, plan, node, position, found, stats)
                before = found.get(t, (0.0, 0.0))
                found[t] = min(low, before[0]), max(high, before[1])
    return found


def group_interval(group: Sequence[int], live: Mapping[int, Pair]) -> Pair:
    """The live interval of tensors that share a range: the hull of theirs. A tensor that nothing reads is live everywhere."""
    ends = [live.get(t, ALL) for t in group]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _read(graph: Graph, plan: Layout, node: Node, position: int, found: Mapping[int, Pair], stats: Statistics | None) -> Pair:
    """The interval that a node reads of an input."""
    if node.op in ENDS:
        return ENDS[node.op]
    if node.op == "HARD_SWISH":
        return -3.0, inf
    if _selects(graph, node, position):
        return group_interval(node.outputs, found)
    step = _dictated_step(plan, node)
    if step is None:
        return ALL
    if node.op == "LOGISTIC":
        return -log(1.0 / (PART * step) - 1.0), log(1.0 / (PART * step) - 1.0)
    if node.op == "TANH":
        return -0.5 * log(2.0 / (PART * step) - 1.0), 0.5 * log(2.0 / (PART * step) - 1.0)
    return _before_softmax(graph, node, step, stats) if node.op == "SOFTMAX" else ALL


def _selects(graph: Graph, node: Node, position: int) -> bool:
    """Whether every element that a node computes is one of those that it reads at a position, or of another input; monotonely, so that
    values beyond an end may be moved to that end first."""
    from qsim.ops import REGISTRY

    rule = REGISTRY[node.op].rule if node.op in REGISTRY else None
    if rule is None or not rule.tied or node.op in AVERAGING or node.options.get("fused_activation_function", "NONE") != "NONE":
        return False
    return position in rule.data_inputs(node) and all(graph.tensors[t].type == "float32" for t in node.outputs)


def _dictated_step(plan: Layout, node: Node) -> float | None:
    """The step of a quantized node's output where the op dictates it."""
    t = node.outputs[0] if node.outputs else -1
    return plan.fixed[t][0] if node.index in plan.quantized and t in plan.fixed else None


def _before_softmax(graph: Graph, node: Node, step: float, stats: Statistics | None) -> Pair:
    t = node.inputs[0]
    shape = graph.tensors[t].shape
    seen = None if stats is None or stats.sequence is None else stats.sequence.get(stats.copies.get(t, t))
    if seen is None or not len(seen) or int(np.prod(shape[:-1])) != 1:
        return ALL
    below = log(shape[-1] / (PART * step)) / float(node.options.get("beta", 1.0))
    return min(float(seen[:, 1].min()) - below, 0.0), inf
