"""Question: does LiteRT run every float net under every scheme, in every resolver that runs the net itself, as qsim does?

Answer: a line per net and scheme with the file's size beside the source's, the ops that stayed float and why, and per flavour what
`certify` found (every op on LiteRT's own intermediates, and the whole graph); "exact per op" as in real_files.py. Where there is a
file of TF's converter with the same granularity and types of inputs and outputs, its size is beside. Float nets: those under
$QSIM_MODELS/nets without quantized tensors. Ranges are min/max of random inputs: accuracy is another question (accuracy.py).

    QSIM_MODELS=... python experiments/scheme_table.py [--samples 1] [--only REGEX] [--schemes int8,float16] [--jobs 1] [--resume]
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import sets
import tflite
from real_files import certified

import calibrate
import qsim
from qsim import litert
from qsim.assembly import compact
from qsim.certificate import generated
from qsim.errors import QsimError
from qsim.layout import HARMLESS, known_values
from qsim.op import FLAVOURS
from qsim.scheme import SCHEMES, Scheme
from qsim.writer import to_bytes

RESULTS = Path(__file__).parent / "results" / "scheme_table.json"
NAMES = ("int8", "int8_per_tensor", "uint8", "int16x8", "int8w4", "dynamic8", "dynamic4", "weights8", "weights4", "float16", "blockwise4")
ALL = {**SCHEMES, "int8_per_tensor": replace(SCHEMES["int8"], name="int8_per_tensor", per_channel=False)}
TF_SMALLEST = 1024  # elements of weights that TF's converter leaves alone with dynamic range
FLOAT_RESNET, FLOAT_AD01 = "conv_resnet8_fp16", "mlperf_ad01_f32"
TWINS = {  # (net, scheme) -> the file of TF's converter, the net to start from (in its own graph, where there is one), and how to write it
    ("mlperf_resnet8_f32", "dynamic8"): ("conv_resnet8_dr", FLOAT_RESNET, {"smallest": TF_SMALLEST}),
    ("mlperf_resnet8_f32", "float16"): ("conv_resnet8_fp16", FLOAT_RESNET, {}),
    ("mlperf_resnet8_f32", "int16x8"): ("conv_resnet8_int16x8", FLOAT_RESNET, {"io": "int16"}),
    ("mlperf_resnet8_f32", "int8"): ("conv_resnet8_uint8io", FLOAT_RESNET, {"io": "uint8"}),
    ("mlperf_resnet8_f32", "int8_per_tensor"): ("conv_resnet8_int8_pertensor", FLOAT_RESNET, {"io": "int8"}),
    ("mlperf_ad01_f32", "dynamic8"): ("conv_ad01_dr", FLOAT_AD01, {"smallest": TF_SMALLEST}),
    ("mlperf_ad01_f32", "int16x8"): ("conv_ad01_int16x8", FLOAT_AD01, {"io": "int16"}),
    ("mlperf_ad01_f32", "int8_per_tensor"): ("conv_ad01_int8_pertensor", FLOAT_AD01, {"io": "int8"}),
    ("mlperf_vww96_f32", "int8_per_tensor"): ("conv_vww96_int8_pertensor", "mlperf_vww96_f32", {"io": "int8"}),
    ("conv_vit_mnist_f32", "int8"): ("conv_vit_mnist_int8", "conv_vit_mnist_f32", {"io": "int8"}),
}


def float_nets(root: Path) -> Iterator[tuple[Path, qsim.Model]]:
    """The files without quantized tensors, of those that load."""
    for path in sorted((root / "nets").glob("*.tflite")):
        try:
            model = qsim.load(path)
        except QsimError:
            continue
        if not any(t.qparams is not None and t.type != "float32" or t.blocks is not None for g in model.graphs for t in g.tensors):
            yield path, model


def tried(path: Path, model: qsim.Model, scheme: Scheme, samples: int) -> dict[str, Any]:
    """What becomes of a net under a scheme; see the module."""
    try:
        made = written(model, scheme)
    except QsimError as reason:
        return {"refused": str(reason).split(": ", 1)[-1]}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.name
        qsim.save(made, target)
        size = target.stat().st_size
        flavours = json.loads(json.dumps(certified(target, target.name, samples)).replace(f"{folder}/", ""))
        lost = [f for f in FLAVOURS if litert.loads(target.read_bytes(), f) and not litert.loads(path.read_bytes(), f)]
    kept = Counter(f"{row.op}: {row.reason}" for row in made.report.kept_float if row.reason not in HARMLESS)
    return {
        "bytes": size,
        "share": round(size / path.stat().st_size, 4),
        "kept": dict(kept),
        "lost": lost,
        **twin(path, scheme),
        **flavours,
    }


def written(model: qsim.Model, scheme: Scheme, io: str = "float32") -> qsim.Model:
    """The model under a scheme, with min/max ranges of three random inputs where it needs any."""
    if scheme.activation == "float32":
        return qsim.quantize(model, {}, scheme)
    x = [v[:3] for v in generated(model, 3)["uniform"]]
    stats = calibrate.observe(model, [tuple(x) if len(x) > 1 else x[0]])
    return qsim.quantize(model, calibrate.ranges(model, stats, "minmax", scheme=scheme), scheme, io=io)


def twin(path: Path, scheme: Scheme) -> dict[str, Any]:
    """The size of TF's file for the same net and scheme, and ours as a ratio; from the converter's graph, where that is there."""
    if (path.stem, scheme.name) not in TWINS:
        return {}
    name, source, axes = TWINS[path.stem, scheme.name]
    scheme = replace(scheme, smallest=axes.get("smallest", 0))
    made = written(widened(qsim.load(path.parent / f"{source}.tflite")), scheme, axes.get("io", "float32"))
    theirs, ours = (path.parent / f"{name}.tflite").read_bytes(), len(to_bytes(made))
    return {"beside": {name: round(ours / len(theirs), 4), "less its min/max": round(ours / (len(theirs) - unread(theirs)), 4)}}


def unread(data: bytes) -> int:
    """Bytes of the min and max fields of a file's tensors, float32 numbers that LiteRT does not read; TF's 16-bit files keep them."""
    graph = tflite.Model.GetRootAsModel(data, 0).Subgraphs(0)
    quantization = [graph.Tensors(i).Quantization() for i in range(graph.TensorsLength())]
    return sum(4 * (q.MinLength() + q.MaxLength()) for q in quantization if q is not None)


def widened(model: qsim.Model) -> qsim.Model:
    """The model with its float16 constants as float32 ones, without what made them real."""
    graph, values = model.graph, known_values(model.graph)
    half = {n.outputs[0] for n in graph.nodes if n.op == "DEQUANTIZE" and graph.tensors[n.inputs[0]].type == "float16"}
    tensors = tuple(t.but(data=values[t.index]) if t.index in half else t for t in graph.tensors)
    nodes = [n for n in graph.nodes if not half.intersection(n.outputs)]
    new, moved = compact(graph.but(tensors=tensors, nodes=tuple(n.but(index=i) for i, n in enumerate(nodes))), graph)
    sides = ("inputs", "outputs")
    signatures = tuple({**s, **{side: {k: moved[t] for k, t in s[side].items()} for side in sides}} for s in model.signatures)
    return model.but(graphs=(new, *model.graphs[1:]), signatures=signatures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--only", default="", help="nets whose name matches")
    parser.add_argument("--schemes", default=",".join(NAMES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    found = json.loads(asked.output.read_text()) if asked.resume and asked.output.exists() else {}
    nets = [(path, model) for path, model in float_nets(sets.root()) if re.search(asked.only, path.stem)]
    nets.sort(key=lambda net: len(net[1].graph.nodes))
    with ThreadPoolExecutor(asked.jobs) as pool:
        waiting = {
            pool.submit(tried, path, model, ALL[name], asked.samples): f"{path.stem} {name}"
            for path, model in nets for name in asked.schemes.split(",") if f"{path.stem} {name}" not in found
        }  # fmt: skip
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            print(line(waiting[done], done.result()), flush=True)
            asked.output.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
    return report(found)


def line(name: str, row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"{name}: refused: {row['refused'][:200]}"
    said = {
        f: f"{o['status']} {o['differing']}/{o['elements']} {o['cause'][:160] if o['status'] != 'exact' else ''}" for f, o in _flavours(row)
    }
    return f"{name}: {row['bytes']} bytes ({row['share']}), {row.get('beside', '')} {said} kept {row['kept']} lost {row['lost']}"


def _flavours(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f, o) for f, o in row.items() if isinstance(o, dict) and "status" in o]


def report(found: dict[str, Any]) -> int:
    counts = Counter((name.split()[1], f, o["status"]) for name, row in found.items() for f, o in _flavours(row))
    for key, n in sorted(counts.items()):
        print(*key, n)
    print(f"{len(found)} nets x schemes, {sum('refused' in row for row in found.values())} refused before writing")
    return 1 if any(row.get("lost") or any(o["status"] == "differs" for _, o in _flavours(row)) for row in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
