"""Question: should each channel of weights keep its sum (rounding="sum"), or is every weight rounded to the nearest code?

    QSIM_MODELS=... python experiments/weight_rounding.py

Ranges are min/max of four fifths of each calibration set; the figure is the SQNR (dB) of integer outputs against the float model on
the held-back fifth. No test data are read.
Answer: keeping the sum is better in 7 of 8 settings, most for the thin depthwise net (mobilenet_v1 0.25: 12.3 against 5.3 dB); only
vww96 with per-channel weights loses (30.4 against 33.8 dB).
"""

from __future__ import annotations

import sets
from accuracy import ranges_of
from realdata import net

import qsim
from calibrate.evaluation import reals, sqnr

NETS = ("mobilenet_v1", "resnet8", "vww96", "ad01")


def main() -> None:
    print(f"{'net':14}{'weights':14}{'nearest':>9}{'sum':>9}")
    for name in NETS:
        task = sets.TASKS[name]
        model = net(task.net)
        x = sets.load(task.calibration)[0]
        x = x.reshape(-1, *model.graph.tensors[model.graph.inputs[0]].shape[1:])
        kept = len(x) * 4 // 5
        ranges = ranges_of(model, x[:kept], "minmax", task.domain)
        reference = reals(model.function("float").batch(x[kept:])[0], None)
        for per_channel in (True, False):
            found = []
            for rounding in ("nearest", "sum"):
                int8 = qsim.quantize(model, ranges, qsim.Scheme("int8", per_channel=per_channel, rounding=rounding))
                found.append(sqnr(reference, reals(int8.function("integer").batch(x[kept:])[0], None)))
            print(f"{name:14}{'per channel' if per_channel else 'per tensor':14}{found[0]:9.2f}{found[1]:9.2f}", flush=True)


if __name__ == "__main__":
    main()
