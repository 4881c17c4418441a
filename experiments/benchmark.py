"""How fast is qsim against LiteRT? CPU time per sample, one thread each side, alternating in one process.

    python experiments/benchmark.py [--nets resnet8 vww96 ad01 mobilenet_v2] [--seconds 3] [--out results.json]

Needs $QSIM_MODELS. A ratio above 1 means qsim is faster. Each row is the median of alternating rounds with its quartiles; wall
figures with two threads (a thread pool of two for JAX, num_threads=2 for LiteRT) come from a second process, `--wall`. The process is
tuned by `tune_cpu(onednn=True)`.
Answer: see the table that it prints, and results/benchmark.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402

import qsim  # noqa: E402
from qsim.tune import tune_cpu  # noqa: E402

NETS = {  # name: (float file, int8 file or None where qsim quantizes the float file, samples a round)
    "resnet8": ("mlperf_resnet8_f32", "mlperf_resnet8_int8", 256),
    "vww96": ("mlperf_vww96_f32", "mlperf_vww96_int8", 128),
    "ad01": ("mlperf_ad01_f32", "mlperf_ad01_int8", 1024),
    "mobilenet_v2": ("twin_mobilenet_v2_100_224_f32", None, 48),
}
TARGETS = {
    "integer xnnpack / LiteRT default": {"resnet8": 0.85, "vww96": 0.70, "mobilenet_v2": 0.75},
    "integer reference / LiteRT BUILTIN_REF": {"resnet8": 12, "vww96": 12, "mobilenet_v2": 12, "ad01": 5},
    "float / LiteRT default float": dict.fromkeys(("resnet8", "vww96", "mobilenet_v2", "ad01"), 0.75),
    "fake / own float": dict.fromkeys(("resnet8", "vww96", "mobilenet_v2", "ad01"), 0.80),
}


def quantized(path: pathlib.Path) -> qsim.Model:
    """An int8 model of a float file; random data give the ranges, since only speed counts here."""
    import calibrate

    model = qsim.load(path)
    shape = model.graph.tensors[model.graph.inputs[0]].shape
    data = np.random.default_rng(0).uniform(-1, 1, (4, *shape[1:])).astype(np.float32)
    ranges = calibrate.ranges(model, calibrate.observe(model, [data]), "minmax", scheme=qsim.INT8)
    return qsim.quantize(model, ranges, qsim.INT8, io="int8")


def interpreter(content: bytes, reference: bool, threads: int):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    made = Interpreter(model_content=content, experimental_op_resolver_type=kind, num_threads=threads)
    made.allocate_tensors()
    return made


def litert_runner(content: bytes, x: np.ndarray, reference: bool, threads: int = 1):
    it = interpreter(content, reference, threads)
    at, out = it.get_input_details()[0]["index"], it.get_output_details()[0]["index"]

    def go(n: int) -> None:
        for sample in x[:n]:
            it.set_tensor(at, sample)
            it.invoke()
            it.get_tensor(out)

    return go


def qsim_runner(model: qsim.Model, mode: str, flavour: str, x: np.ndarray):
    fn = model.function(mode, flavour)

    def go(n: int) -> None:
        fn.batch(x[:n])

    return go


def alternate(a, b, n_a: int, n_b: int, seconds: float, clock) -> dict:
    """Median and quartiles of (time of b per sample) / (time of a per sample) over alternating rounds."""
    a(n_a), b(n_b)
    times_a, times_b, end = [], [], time.monotonic() + seconds
    while time.monotonic() < end or len(times_a) < 3:
        for go, n, times in ((a, n_a, times_a), (b, n_b, times_b)):
            start = clock()
            go(n)
            times.append((clock() - start) / n * 1e3)
    ratios = np.array(times_b) / np.array(times_a)
    low, mid, high = np.percentile(ratios, [25, 50, 75])
    return {
        "ms": round(float(np.median(times_a)), 4), "other_ms": round(float(np.median(times_b)), 4),
        "ratio": round(float(mid), 3), "quartiles": [round(float(low), 3), round(float(high), 3)], "rounds": len(times_a),
    }  # fmt: skip


def rows(net: str, models: pathlib.Path, seconds: float, threads: int, clock):
    float_file, int8_file, n = NETS[net]
    real = qsim.load(models / f"{float_file}.tflite")
    int8 = qsim.load(models / f"{int8_file}.tflite") if int8_file else quantized(models / f"{float_file}.tflite")
    from qsim.writer import to_bytes

    float_bytes, int8_bytes = to_bytes(real), to_bytes(int8)
    shape = real.graph.tensors[real.graph.inputs[0]].shape
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n, *shape)).astype(np.float32)
    q = rng.integers(-128, 128, (n, *shape)).astype(np.int8)
    pairs = [
        ("integer xnnpack / LiteRT default", (int8, "integer", "xnnpack", q), (int8_bytes, q, False), n),
        ("integer reference / LiteRT BUILTIN_REF", (int8, "integer", "reference", q), (int8_bytes, q, True), max(2, n // 16)),
        ("float / LiteRT default float", (real, "float", "xnnpack", x), (float_bytes, x, False), n),
    ]
    for name, mine, other, n_other in pairs:
        yield name, alternate(qsim_runner(*mine), litert_runner(*other, threads), n, n_other, seconds, clock)
    if threads == 1:
        fake, own = qsim_runner(int8, "fake", "xnnpack", x), qsim_runner(real, "float", "xnnpack", x)
        yield "fake / own float", alternate(fake, own, n, n, seconds, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each row's alternation")
    parser.add_argument("--wall", action="store_true", help="wall time with two threads each instead of CPU time with one")
    parser.add_argument("--out", default=None)
    args = parser.parse_args()
    threads = 2 if args.wall else 1
    tune_cpu(threads=threads, onednn=True)
    models = pathlib.Path(os.environ["QSIM_MODELS"]) / "nets"
    found = {}
    print(f"{'net':14}{'workload':42}{'qsim ms':>9}{'other ms':>10}{'ratio':>8}  quartiles      target")
    for net in args.nets:
        for name, row in rows(net, models, args.seconds, threads, time.perf_counter if args.wall else time.process_time):
            target = None if args.wall else TARGETS[name].get(net)
            found[f"{net}: {name}"] = {**row, "target": target}
            low, high = row["quartiles"]
            times = f"{row['ms']:9.3f}{row['other_ms']:10.3f}{row['ratio']:8.2f}"
            print(f"{net:14}{name:42}{times}  {low:5.2f}-{high:5.2f}   {target or ''}", flush=True)
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
