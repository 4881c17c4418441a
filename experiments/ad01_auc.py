"""Question: does the int8 anomaly detector (ad01) still tell broken machines from good ones?

Answer: ROC AUC over 124 recordings; the score of a recording is the mean over its windows of the mean squared reconstruction error.
Known figures on these recordings: float 0.817, the official int8 file 0.754 (its weights have one scale per tensor).

    QSIM_MODELS=... python experiments/ad01_auc.py [--strategy minmax ...] [--flavour xnnpack]
"""

from __future__ import annotations

import argparse

import numpy as np
import sets
from accuracy import ranges_of
from realdata import net

import qsim
from calibrate.evaluation import auc


def scores(model: qsim.Model, mode: str, flavour: str, x: np.ndarray) -> np.ndarray:
    """Mean squared error of every recording; x: (files, windows, 640) real."""
    files, count, width = x.shape
    out = model.function(mode, flavour).batch(x.reshape(-1, width))[0].reshape(files, count, width)
    t = model.graph.tensors[model.graph.outputs[0]]
    if out.dtype != np.float32 and t.qparams is not None:
        out = (out.astype(np.float32) - np.float32(t.qparams.zero_point[0])) * np.float32(t.qparams.scale[0])
    return ((out.astype(np.float64) - x) ** 2).mean((1, 2))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--strategy", nargs="*", default=["auto"])
    p.add_argument("--flavour", default="xnnpack")
    args = p.parse_args()
    task = sets.TASKS["ad01"]
    x, broken = sets.load(task.test)
    held = sets.load(task.calibration)[0]
    model = net(task.net)
    print(f"float {auc(scores(model, 'float', args.flavour, x), broken):.4f}", flush=True)
    print(f"official int8 {auc(scores(net('mlperf_ad01_int8'), 'integer', args.flavour, x), broken):.4f}", flush=True)
    files, count, width = held.shape
    for strategy in args.strategy:
        ranges = ranges_of(model, held.reshape(-1, width), strategy, task.domain, np.repeat(np.arange(files), count).tolist())
        for scheme in (qsim.INT8, qsim.Scheme("int8-per-tensor", per_channel=False)):
            int8 = qsim.quantize(model, ranges, scheme)
            print(f"{strategy} {scheme.name} {auc(scores(int8, 'integer', args.flavour, x), broken):.4f}", flush=True)


if __name__ == "__main__":
    main()
