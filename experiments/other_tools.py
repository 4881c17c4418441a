"""Do other tools take our range files, and do they compute the same scales and zero points from them?

    python experiments/other_tools.py --tools /path/to/python [--nets resnet8 ...] [--draws 5] [--out results/other_tools.json]

Needs $QSIM_MODELS, and in `--tools` the Python of another environment: `pip install ai-edge-quantizer tensorflow-cpu`. Random ranges for
every tensor of each net (every other draw: symmetric ones, where the rounding of zero points meets ties) are written in both forms,
taken by ai-edge-quantizer (static 8 bits) and by the TFLite converter (`mlir_quantize`), and compared with `qsim.quantize`.
Answer: see the table that it prints, and results/other_tools.json. The converter has our numbers bit for bit; ai-edge-quantizer has our
scales, and rounds the zero points of symmetric ranges (ties) to even in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
NETS = {
    "resnet8": "mlperf_resnet8_f32",
    "vww96": "mlperf_vww96_f32",
    "ad01": "mlperf_ad01_f32",
    "mnist": "aeq_conv_fc_mnist_f32",
    "meter": "meter_digits_f32",
}
TOOLS = ("aeq", "tf")


# In the other environment: no qsim here.


def quantize_elsewhere(folder: pathlib.Path) -> None:
    """Quantize every net of a folder with both tools: NAME.json and NAME.tflite in, NAME.aeq.tflite and NAME.tf.tflite out."""
    import numpy as np
    from ai_edge_quantizer import quantizer, recipe
    from tensorflow.lite.python import convert

    for path in sorted(folder.glob("*.json")):
        source = path.with_suffix(".tflite")
        ranges = {k: {end: np.asarray(v, np.float32) for end, v in entry.items()} for k, entry in json.loads(path.read_text()).items()}
        tool = quantizer.Quantizer(str(source))
        tool.load_quantization_recipe(recipe.static_wi8_ai8())
        tool.quantize(ranges).export_model(str(path.with_suffix(".aeq.tflite")), overwrite=True)
        path.with_suffix(".tf.tflite").write_bytes(convert.mlir_quantize(source.read_bytes()))


# In ours.


def prepare(folder: pathlib.Path, name: str, draw: int) -> None:
    """Range files of one net, and what we make of the same ranges."""
    import numpy as np

    import calibrate
    import qsim
    from calibrate.lacking import lacking
    from qsim.ranges import activation_ends

    model = qsim.load(pathlib.Path(os.environ["QSIM_MODELS"]) / "nets" / f"{NETS[name]}.tflite")
    rng, graph, ranges = np.random.default_rng([draw, *name.encode()]), model.graph, {}
    for missing in lacking(model, {}):
        t = graph.find(missing.tensor)
        low, high = rng.uniform(-50, 0), rng.uniform(1, 50)
        low = low if draw % 2 else -high
        ends = activation_ends(graph.nodes[graph.producer[t]]) if t in graph.producer else (-np.inf, np.inf)
        ranges[missing.tensor] = tuple(float(np.float32(np.clip(v, *ends))) for v in (low, high))
    stem = folder / f"{name}_{draw}"
    calibrate.save_ranges(stem.with_suffix(".json"), ranges, form="aeq", model=model)
    calibrate.save_ranges(stem.with_suffix(".tflite"), ranges, model=model)
    qsim.save(qsim.quantize(model, ranges), stem.with_suffix(".own.tflite"))


def parameters(path: pathlib.Path) -> dict[str, tuple[float, int]]:
    """(scale, zero point) of the computed tensors of a file, by name."""
    import qsim

    tensors = qsim.load(path).graph.tensors
    return {t.name: (float(t.qparams.scale[0]), int(t.qparams.zero_point[0])) for t in tensors if t.qparams and not t.is_constant}


def compare(folder: pathlib.Path, name: str, draws: int) -> list[dict]:
    """One row for each tool: tensors that both files name, and how many of them have our scale and our zero point."""
    rows = []
    for tool in TOOLS:
        pairs = []
        for draw in range(draws):
            own, other = (parameters(folder / f"{name}_{draw}.{which}.tflite") for which in ("own", tool))
            pairs += [(own[k], other[k]) for k in own if k in other]
        scales, zeros = (sum(a[i] == b[i] for a, b in pairs) for i in (0, 1))
        rows.append({"net": name, "tool": tool, "tensors": len(pairs), "same scale": scales, "same zero point": zeros})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", help="Python with ai-edge-quantizer and tensorflow")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "other_tools.json")
    parser.add_argument("--elsewhere", type=pathlib.Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.elsewhere:
        return quantize_elsewhere(asked.elsewhere)
    sys.path.insert(0, str(HERE.parent))
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        for name in asked.nets:
            for draw in range(asked.draws):
                prepare(folder, name, draw)
        subprocess.run([asked.tools, __file__, "--elsewhere", place], check=True, stdout=subprocess.DEVNULL)
        rows = [row for name in asked.nets for row in compare(folder, name, asked.draws)]
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
