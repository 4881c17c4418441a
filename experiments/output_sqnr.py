"""Question: how close do the outputs of nets without labels stay, per output, in exact integer mode?

    QSIM_MODELS=... python experiments/output_sqnr.py [--tools /path/to/python] [--net deeplabv3_257_f32 ...] [--scheme int8 ...]

Answer: SQNR in dB against the float net (10 log10 of signal over noise) of every output, over samples that no range was made from: every
second one of ImageNet images (resized, in the net's domain), of synthetic spectra (dtln_1, its states carried on by the float net), of
random tokens and caches (kv_cache), of Gaussian vectors (transformer_ff, without its
last op: its weights are all zero). Ranges are `auto`'s, corrections those that held-back samples
of the others speak for. `--tools` (the Python of an environment with ai-edge-quantizer): its files from the same samples beside.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sets
from beside_aeq import elsewhere, prepare
from realdata import net
from splits import spectra, tokens

import calibrate
import qsim
from calibrate import evaluation
from calibrate.trials import Bench
from qsim import litert
from qsim.assembly import compact
from qsim.scheme import SCHEMES

Arrays = tuple[np.ndarray, ...]
RESULTS = Path(__file__).parent / "results" / "output_sqnr.json"
PICTURES = 80


def pictures(height: int, width: int, low: float) -> Callable[[], Arrays]:
    def read() -> Arrays:
        x = sets.images("imagenet_sample_calib100_224", max(height, width))[0][:PICTURES, None, :height, :width]
        return ((x if low < 0 else (x + 1) / 2).astype(np.float32),)

    return read


def gaussian() -> Arrays:
    return (np.random.default_rng(0).normal(size=(256, 1, 64, 128)).astype(np.float32),)


INPUTS: dict[str, Callable[[], Arrays]] = {
    "transformer_ff_f32": gaussian,
    "dtln_1_f32": spectra,
    "transformer_kv_cache_f32": lambda: tuple(np.concatenate([a] * 2) for a in tokens()),
    "blazeface_mlkit_f32": pictures(224, 128, 0.0),
    "deeplabv3_257_f32": pictures(257, 257, -1.0),
    "blazeface_front_f32": pictures(128, 128, -1.0),
}


def model_of(name: str) -> qsim.Model:
    """The net; transformer_ff without its last op, whose weights are all zero."""
    model = net(name)
    if name != "transformer_ff_f32":
        return model
    *nodes, last = model.graph.nodes
    graph = model.graph.but(nodes=tuple(nodes), outputs=(last.inputs[0],))
    return model.but(graphs=(compact(graph, graph)[0], *model.graphs[1:]), signatures=())


def halves(name: str) -> tuple[Arrays, Arrays]:
    """Every other sample, so that states which drift with time are alike in both."""
    x = INPUTS[name]()
    return tuple(a[::2] for a in x), tuple(a[1::2] for a in x)


def own(model: qsim.Model, seen: Arrays, scheme: qsim.Scheme) -> tuple[qsim.Model, str]:
    """Our file from calibration samples alone, and what was chosen."""
    if scheme.activation == "float32":
        return qsim.quantize(model, {}, scheme), "no ranges"
    ranges, chosen = calibrate.choose(model, [seen], scheme)
    made, corrected = calibrate.correct(model, qsim.quantize(model, ranges, scheme), [seen])
    return made, f"{chosen.chosen}, corrected: {corrected.chosen}"


def levels(model: qsim.Model, made: qsim.Model, kept: Arrays) -> dict[str, Any]:
    """SQNR per output, dB; None where equal."""
    bench = Bench(model, None)
    found = zip(bench.reference(kept), bench.outputs(made, kept), strict=True)
    return {"sqnr_db": [evaluation.sqnr(a, b.reshape(a.shape)) for a, b in found]}


def theirs(path: Path, model: qsim.Model, kept: Arrays) -> dict[str, Any]:
    if not path.exists():
        return {"refused": path.with_suffix(".txt").read_text()[:200]}
    refused = litert.Oracle().loads(path.read_bytes())
    return {"refused": refused[:200]} if refused else levels(model, qsim.load(path), kept)


def rows(name: str, schemes: list[str], folder: Path | None):
    model, (seen, kept) = model_of(name), halves(name)
    for scheme in schemes:
        made, how = own(model, seen, SCHEMES[scheme])
        yield {"net": name, "scheme": scheme, "tool": "qsim", "chosen": how, **levels(model, made, kept)}
        if folder:
            yield {"net": name, "scheme": scheme, "tool": "ai-edge-quantizer", **theirs(folder / f"{name}.{scheme}.tflite", model, kept)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", help="Python with ai-edge-quantizer")
    parser.add_argument("--net", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--scheme", nargs="+", choices=("int8", "int16x8", "dynamic8"), default=["int8", "int16x8", "dynamic8"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        for name in asked.net if asked.tools else ():
            prepare(Path(place), name, model_of(name), halves(name)[0])
        if asked.tools:
            elsewhere(asked.tools, Path(place), asked.scheme)
        for name in asked.net:
            for row in rows(name, asked.scheme, Path(place) if asked.tools else None):
                found.append(row)
                print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
                asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
