"""One op of a model as a model of its own, so that it can be judged on inputs that are known to be right."""

from __future__ import annotations

from .control import OPS as CONTROL_OPS
from .graph import Model
from .inference import host_values
from .ops.bodies import BODIES
from .state import OPS as STATE_OPS


def alone(model: Model, index: int) -> Model | None:
    """Node `index` of the primary graph as a one-op model; its inputs are the node's computed inputs, in the node's order, once each.

    Tensors keep their indexes; values known on the host (constants, shape arithmetic) become constants; variable tensors start anew.
    None where every output of the node is such a value (there is nothing left to run), and for ops on resource variables, themselves
    or in graphs they run.
    """
    graph, known = model.graph, host_values(model.graph)
    node = graph.nodes[index]
    others = model.graphs[1:] if node.op in CONTROL_OPS or node.op in BODIES else ()
    if node.op in STATE_OPS or all(t in known for t in node.outputs) or any(n.op in STATE_OPS for g in others for n in g.nodes):
        return None
    tensors = tuple(t.but(data=known[t.index]) if t.index in known else t for t in graph.tensors)
    live = tuple(dict.fromkeys(t for t in node.inputs if t >= 0 and not (tensors[t].is_constant or tensors[t].is_variable)))
    one = graph.but(tensors=tensors, nodes=(node.but(index=0),), inputs=live, outputs=node.outputs)
    return Model((one, *others), path=f"{model.path}#{index}")
