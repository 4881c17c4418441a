"""PAD with zeros in height and width becomes the padding of the convolution that reads it, where SAME or VALID says the same."""

from __future__ import annotations

import numpy as np

from ..graph import Graph, Node
from ..windows import window
from .change import Change, Refusal, fixed_size, real, shared

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
Border = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)


def pad(graph: Graph, node: Node) -> Change | Refusal | None:
    """conv(pad(x)) = conv with other padding of x: the same zeros are read, or none.

    Per axis, of padded size n + p + q: the output size must be that of x alone, and the rows before x as many; behind x both see zeros.
    """
    if node.op not in ("PAD", "PADV2") or not real(graph, node.inputs[0], *node.outputs):
        return None
    out, readers = node.outputs[0], [graph.nodes[n] for n, _ in graph.consumers.get(node.outputs[0], ())]
    convolutions = [n for n in readers if n.op in CONVOLUTIONS and n.inputs[0] == out]
    if not convolutions:
        return None
    nodes, border = (node.index, convolutions[0].index), _border(graph, node)
    if isinstance(border, str) or (reason := shared(graph, out)):
        return Refusal(nodes, (out,), border if isinstance(border, str) else reason)
    conv = convolutions[0]
    found = _padding(graph, node, conv, border)
    if found is None:
        (top, bottom), (left, right) = border
        return Refusal(nodes, (out,), f"neither SAME nor VALID pads {top} + {bottom} rows and {left} + {right} columns here")
    options = conv.options.but(padding=found)
    changed = conv.but(inputs=(node.inputs[0], *conv.inputs[1:]), options=options)
    return Change(nodes, frozenset((node.index,)), (out,), f"{found} reads the same zeros", {conv.index: changed})


def _border(graph: Graph, node: Node) -> Border | str:
    """The zeros that a PAD adds in height and width, or what else it does."""
    paddings = graph.tensors[node.inputs[1]].data
    if paddings is None:
        return "its paddings are computed, not constant"
    value = graph.tensors[node.inputs[2]].data if len(node.inputs) > 2 else np.zeros(())
    if value is None or np.any(value != 0):
        return "it does not pad with zeros"
    if paddings.shape != (4, 2) or paddings[0].any() or paddings[3].any() or np.any(paddings < 0):
        return "it pads other axes than height and width"
    (top, bottom), (left, right) = paddings[1:3].tolist()
    return (top, bottom), (left, right)


def _padding(graph: Graph, node: Node, conv: Node, border: Border) -> str | None:
    """The padding option of a convolution of the unpadded tensor that computes the same; None where neither does."""
    x, w = graph.tensors[node.inputs[0]], graph.tensors[conv.inputs[1]]
    if not fixed_size(x) or len(w.shape) != 4:
        return None
    return next((p for p in ("VALID", "SAME") if all(_same(x.shape, w.shape, conv, border, p, d) for d in (0, 1))), None)


def _same(size: tuple[int, ...], kernel: tuple[int, ...], conv: Node, border: Border, padding: str, d: int) -> bool:
    """Whether the two convolutions read the same along height (d = 0) or width."""
    n, k, side = size[1 + d], kernel[1 + d], "hw"[d]
    steps = conv.options[f"stride_{side}"], conv.options[f"dilation_{side}_factor"]
    outputs, before, _ = window(n + sum(border[d]), k, *steps, conv.options.padding)
    return (outputs, border[d][0] + before) == window(n, k, *steps, padding)[:2]
