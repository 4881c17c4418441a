"""Question: does integer mode give the same integers on eight devices as on one, and observing on two the same statistics?

Answer: 0 of all output elements differ for the demo's net and six real int8 nets, and the statistics of ad01 have the same bytes
(results/devices.json). The devices are forced on the host, so this says nothing about speed.

    QSIM_MODELS=... python experiments/devices.py [--samples 96]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

COUNT = 8
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={COUNT}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
import realdata  # noqa: E402

import qsim  # noqa: E402
from calibrate import observe  # noqa: E402
from calibrate.archive import pack  # noqa: E402
from calibrate.data import as_data  # noqa: E402
from calibrate.sharding import Sharded, observe_on  # noqa: E402

HERE = Path(__file__).resolve().parent
OBSERVED = {"mlperf_ad01_int8": "mlperf_ad01_f32"}  # observing compiles once for each device


def inputs(name: str, samples: int) -> np.ndarray:
    """Real inputs; digits for the demo."""
    return realdata.real("mnist" if name == "demo" else name, samples)


def measure(name: str, samples: int) -> dict[str, Any]:
    model = qsim.load(HERE / "demo" / "digits_int8.tflite") if name == "demo" else realdata.net(name)
    x = inputs(name, samples)
    one, many = model.function().batch(x), Sharded(model).batch(x)
    found = {
        "net": name, "samples": len(x), "devices": COUNT, "elements": sum(y.size for y in one),
        "differ": sum(int((a != b).sum()) for a, b in zip(one, many, strict=True)),
    }  # fmt: skip
    if name in OBSERVED:
        source = realdata.net(OBSERVED[name])
        found["same_statistics"] = pack(observe(source, x)) == pack(observe_on(source, as_data(source, x), jax.devices()[:2]))
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--samples", type=int, default=96)
    p.add_argument("--out", type=Path, default=HERE / "results" / "devices.json")
    args = p.parse_args()
    rows = []
    for name in ("demo", *realdata.EXACT):
        rows.append(measure(name, args.samples))
        print(rows[-1], flush=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
