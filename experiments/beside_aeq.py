"""Question: how accurate are the files of ai-edge-quantizer for the same net, scheme and calibration samples, and does LiteRT run them?

    QSIM_MODELS=... python experiments/beside_aeq.py --tools /path/to/python [--task resnet8 ...] [--scheme int8 ...] [--out FILE]

`--tools`: the Python of another environment with `pip install ai-edge-quantizer`. Both tools get the same float net (with a signature,
which ai-edge-quantizer needs) and the same calibration set: theirs min/max as shipped, ours `auto`, corrected as held-back calibration
samples say. All files run in exact integer mode (flavour xnnpack) on the whole test set, if LiteRT loads them.
A third row, of static schemes, is the winner of a sweep over strategies of activations alone (uncorrected).
Answer: a row for each task, scheme and tool, as accuracy.py has them (ad01: the AUC); results/beside_aeq.json.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
RECIPES = {
    "int8": "static_wi8_ai8",
    "int16x8": "static_wi8_ai16",
    "dynamic8": "dynamic_wi8_afp32",
    "weights8": "weight_only_wi8_afp32",
    "dynamic4": "dynamic_wi4_afp32",
}
TASKS = ("resnet8", "vww96", "mobilenet_v1", "mobilenet_v2", "ad01")


# In the other environment: no qsim here.


def quantize_elsewhere(folder: pathlib.Path, schemes: list[str]) -> None:
    """NAME.tflite and NAME.npz (x0, x1, ..., a sample a row) in, NAME.SCHEME.tflite out, or NAME.SCHEME.txt with the error."""
    import numpy as np
    from ai_edge_quantizer import quantizer, recipe

    for source in sorted(folder.glob("*.tflite")):
        with np.load(source.with_suffix(".npz")) as data:
            samples = [dict(zip(data.files, row, strict=True)) for row in zip(*(data[k] for k in data.files), strict=True)]
        for scheme in schemes:
            tool = quantizer.Quantizer(str(source))
            tool.load_quantization_recipe(getattr(recipe, RECIPES[scheme])())
            try:
                found = tool.calibrate({"serving_default": samples}) if tool.need_calibration else None
                tool.quantize(found).export_model(str(source.with_suffix(f".{scheme}.tflite")), overwrite=True)
            except Exception as fault:  # whatever the tool raises is the row
                source.with_suffix(f".{scheme}.txt").write_text(f"{type(fault).__name__}: {fault}")


# In ours.


def prepare(folder: pathlib.Path, name: str, model, arrays) -> None:
    """The float net with a signature, and its calibration samples; arrays: (N, *shape) of each model input."""
    import numpy as np

    import qsim

    names = {
        side: {f"{side[0]}{i}": t for i, t in enumerate(ends)} for side, ends in (("xs", model.graph.inputs), ("ys", model.graph.outputs))
    }
    signature = {"key": "serving_default", "graph": 0, "inputs": names["xs"], "outputs": names["ys"]}
    qsim.save(model.but(signatures=(signature,)), folder / f"{name}.tflite")
    np.savez(folder / f"{name}.npz", **dict(zip(names["xs"], arrays, strict=True)))


def elsewhere(tools: str, folder: pathlib.Path, schemes) -> None:
    """`quantize_elsewhere` in the other environment."""
    subprocess.run([tools, __file__, "--elsewhere", str(folder), "--scheme", *schemes], check=True, stdout=subprocess.DEVNULL)


def task_of(name: str):
    """(float net, its calibration samples in the shape of its input)."""
    import sets
    from realdata import net

    task = sets.TASKS[name]
    model = net(task.net)
    return model, sets.load(task.calibration)[0].reshape(-1, *model.graph.tensors[model.graph.inputs[0]].shape)


def own(name: str, scheme: str):
    import sets
    from accuracy import ranges_of
    from realdata import net

    import calibrate
    import qsim
    from qsim.scheme import SCHEMES

    task = sets.TASKS[name]
    model, x = net(task.net), sets.load(task.calibration)[0]
    groups = None if name != "ad01" else [i for i in range(len(x)) for _ in range(x.shape[1])]
    x = x.reshape(-1, *model.graph.tensors[model.graph.inputs[0]].shape[1:])
    made = qsim.quantize(model, ranges_of(model, x, "auto", task.domain, groups, SCHEMES[scheme]), SCHEMES[scheme])
    return calibrate.correct(model, made, [x], groups=groups)[0] if SCHEMES[scheme].activation != "float32" else made


def swept(name: str, scheme: str):
    """The winner of a sweep over strategies of activations alone: of the calibration set, 60 % to calibrate and 40 % to select on."""
    import numpy as np
    import sets
    from realdata import net

    from calibrate.candidates import grid
    from calibrate.data import as_data
    from calibrate.scoring import Job, Lab
    from calibrate.splits import Splits, split
    from calibrate.statistics import sample_hash
    from calibrate.strategies import candidates
    from calibrate.sweeper import Search, run_sweep

    task = sets.TASKS[name]
    model, (x, _) = net(task.net), sets.load(task.calibration)
    groups = np.repeat(np.arange(len(x)), x.shape[1]) if name == "ad01" else np.arange(len(x))
    x = x.reshape(-1, *model.graph.tensors[model.graph.inputs[0]].shape)
    part = split([sample_hash([row]) for row in x], groups, (0.6, 0.4, 0.0))
    parts = [as_data(model, x[part == k], groups=groups[part == k]) for k in (0, 1)]
    lab = Lab(model, Splits(*parts, parts[1], "60 % to calibrate, 40 % to select"), Job("", (), input_range=task.domain))
    found = run_sweep(lab, grid({"scheme": [scheme], "activation": [*candidates(), "aciq", "fisher"]}), Search(shortlist=12))
    return found.model(scheme), str(found.best().winner)


def judged(name: str, model) -> dict:
    """The figures of one quantized net."""
    import sets
    from accuracy import judge
    from ad01_auc import scores
    from realdata import net

    from calibrate.evaluation import auc
    from calibrate.trials import Bench

    task = sets.TASKS[name]
    x, y = sets.load(task.test)
    if name == "ad01":
        return {
            f"auc_{k}": auc(scores(m, mode, "xnnpack", x), y)
            for k, m, mode in (("float", net(task.net), "float"), ("quantized", model, "integer"))
        }
    real_net = net(task.net)
    bench, x = Bench(real_net, None), x.reshape(-1, *real_net.graph.tensors[real_net.graph.inputs[0]].shape)
    real, stored = (outputs[0].reshape(len(x), -1) for outputs in (bench.reference([x]), bench.outputs(model, [x])))
    return judge(real, stored, y.reshape(-1) + (real.shape[1] == 1001))


def theirs(path: pathlib.Path, name: str) -> dict:
    import qsim
    from qsim import litert

    if not path.exists():
        return {"refused": path.with_suffix(".txt").read_text()[:200]}
    refused = litert.loads(path.read_bytes(), "xnnpack")
    if refused is not None:
        return {"refused": refused[:200]}
    return {"bytes": path.stat().st_size, **judged(name, qsim.load(path))}


def rows_of(folder: pathlib.Path, name: str, scheme: str):
    yield "ai-edge-quantizer", theirs(folder / f"{name}.{scheme}.tflite", name)
    yield "qsim", judged(name, own(name, scheme))
    if scheme.startswith("int"):
        model, winner = swept(name, scheme)
        yield "qsim, swept", {"winner": winner, **judged(name, model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", help="Python with ai-edge-quantizer")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--scheme", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "beside_aeq.json")
    parser.add_argument("--elsewhere", type=pathlib.Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.elsewhere:
        return quantize_elsewhere(asked.elsewhere, asked.scheme)
    sys.path.insert(0, str(HERE.parent))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        for name in asked.task:
            model, x = task_of(name)
            prepare(folder, name, model, [x])
        elsewhere(asked.tools, folder, asked.scheme)
        for name in asked.task:
            for scheme in asked.scheme:
                for tool, found in rows_of(folder, name, scheme):
                    rows.append({"task": name, "scheme": scheme, "tool": tool, **found})
                    print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
                    asked.out.write_text(json.dumps(rows, indent=1, default=bool) + "\n")


if __name__ == "__main__":
    main()
