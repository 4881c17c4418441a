"""How long does compiling a net take, and does it grow with the number of ops alone?

    python experiments/compile_time.py [--nets resnet8 vww96 ...] [--out results/compile_time.json]

Needs $QSIM_MODELS. Every figure comes from a process of its own, the best of `--repeat`: CPU seconds (wall seconds: `--wall`) to build
the function (plans, on the host), to trace it, to lower it, to have XLA compile it, and all that again in a fresh process that finds the
program in JAX's disk cache; and what an op costs when only the first half of the ops is compiled, which is the same where time is
linear. Memory: the temporaries of the program by XLA's own account, and its size in the disk cache.
Answer: see the table that it prints, and results/compile_time.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

NETS = {  # name: file, quantized
    "resnet8": "mlperf_resnet8_int8",
    "vww96": "mlperf_vww96_int8",
    "mobilenet_v1": "mobilenet_v1_025_224_uint8",
    "mobilenet_v2": "mobilenet_v2_100_224_uint8",
    "vit": "conv_vit_mnist_int8",
}
MODES = ("integer", "fake", "float")
PARTS = ("build", "trace", "lower", "compile")


def measure(net: str, mode: str, cache: str, share: str, clock: str) -> dict:
    """Seconds of each part in this process, which has compiled nothing before. cache: JAX's folder of compiled programs, or "";
    share: of the ops, from the first; clock: a function of `time`."""
    import jax
    import jax.numpy as jnp

    import qsim
    import qsim.function
    import qsim.ops  # noqa: F401

    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.zeros(3)))  # the backend is up
    model = qsim.load(pathlib.Path(os.environ["QSIM_MODELS"]) / "nets" / f"{NETS[net]}.tflite")
    model = _first(model, max(1, round(float(share) * len(model.graph.nodes))))
    found, now = {}, getattr(time, clock)

    def timed(part: str, call):
        start = now()
        made = call()
        found[part] = now() - start
        return made

    fn = timed("build", lambda: model.function(mode))
    inputs = [jax.ShapeDtypeStruct(t.shape, _stored(t, mode)) for t in (fn.graph.tensors[i] for i in fn.graph.inputs)]
    traced = timed("trace", lambda: fn.jitted.trace(fn.params, *inputs))
    program = timed("compile", timed("lower", traced.lower).compile)
    memory = program.memory_analysis()
    sizes = {k: getattr(memory, f"{k}_size_in_bytes") for k in ("temp", "argument", "output")}
    equations = _equations(traced.jaxpr.jaxpr)
    return {"ops": len(fn.program.steps), "equations": equations, **{k: round(v, 4) for k, v in found.items()}, "bytes": sizes}


def _first(model, count: int):
    """The model that ends after `count` ops."""
    graph = model.graph
    nodes = graph.nodes[:count]
    outputs = graph.outputs if count == len(graph.nodes) else nodes[-1].outputs
    return model.but(graphs=(graph.but(nodes=nodes, outputs=outputs), *model.graphs[1:]))


def _stored(t, mode: str):
    from qsim.types import TYPES

    return "float32" if mode != "integer" and t.qparams is not None else TYPES[t.type].dtype


def _equations(jaxpr) -> int:
    """Of a jaxpr and of what it calls."""
    inner = (p.jaxpr for e in jaxpr.eqns for p in e.params.values() if hasattr(p, "jaxpr"))
    return len(jaxpr.eqns) + sum(map(_equations, inner))


def fresh(net: str, mode: str, clock: str, cache: str = "", share: float = 1.0) -> dict:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--child", net, mode, cache, str(share), clock]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def row(net: str, mode: str, repeat: int, clock: str) -> dict:
    best = _best([fresh(net, mode, clock) for _ in range(repeat)])
    half = _best([fresh(net, mode, clock, share=0.5) for _ in range(repeat)])
    with tempfile.TemporaryDirectory() as cache:
        fresh(net, mode, clock, cache)
        again = _best([fresh(net, mode, clock, cache) for _ in range(repeat)])
        size = sum(f.stat().st_size for f in pathlib.Path(cache).rglob("*") if f.is_file())
    return {
        **best, "half": {k: half[k] for k in ("ops", "equations", "seconds", "per_op_ms")},
        "cached": {k: again[k] for k in (*PARTS, "seconds")}, "cache_bytes": size,
    }  # fmt: skip


def _best(runs: list[dict]) -> dict:
    """The least of each part."""
    best = {**runs[0], **{p: min(r[p] for r in runs) for p in PARTS}}
    seconds = sum(best[p] for p in PARTS)
    return {**best, "seconds": round(seconds, 3), "per_op_ms": round(1e3 * seconds / best["ops"], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", default=None)
    parser.add_argument("--wall", action="store_true", help="wall seconds instead of CPU seconds")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(*args.child)))
        return
    clock, found = "perf_counter" if args.wall else "process_time", {}
    heads = (*PARTS, "sum, s", "ms an op", "of half", "cached, s", "temp MB", "file MB")
    print(f"{'net':14}{'mode':9}{'ops':>5}{'eqns':>7}" + "".join(f"{h:>10}" for h in heads))
    for net in args.nets:
        for mode in args.modes:
            r = found[f"{net}: {mode}"] = row(net, mode, args.repeat, clock)
            cells = [*(r[p] for p in PARTS), r["seconds"], r["per_op_ms"], r["half"]["per_op_ms"], r["cached"]["seconds"]]
            cells += [r["bytes"]["temp"] / 1e6, r["cache_bytes"] / 1e6]
            print(f"{net:14}{mode:9}{r['ops']:5}{r['equations']:7}" + "".join(f"{c:10.2f}" for c in cells), flush=True)
            if args.out:  # row by row: a long run that is stopped leaves what it has
                pathlib.Path(args.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
