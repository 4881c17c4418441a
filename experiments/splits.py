"""Question: what do the proposed QUANTIZE ops bring, where tensors that share a scale pay for it?

Answer, per net and strategy: the proposals with both expected costs (dB at the readers that gain most), the most that any single tie
would give, and the SQNR of every output in exact integer mode (flavour xnnpack) against the float net, without and with them, on
samples that no range was made from. Nets with ties: some under $QSIM_MODELS/nets, and two generated ones with narrow and wide branches.

Inputs are real where a set fits: ImageNet images (resized, rescaled to the net's domain) and MNIST. dtln_1: magnitude spectra of
amplitude-modulated harmonics in noise, the states carried on by the float net. kv_cache: random tokens, positions and caches.

    QSIM_MODELS=... python experiments/splits.py [--net blazeface_mlkit_f32 ...] [--strategy minmax mse] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sets
from realdata import net

import calibrate
import qsim
from calibrate import evaluation
from calibrate.splitting import propose_splits, tie_costs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from nets import Net  # noqa: E402

Arrays = tuple[np.ndarray, ...]
PARTS = 24, 24  # samples that ranges are made from, samples that judge


def pictures(height: int, width: int, low: float = -1.0) -> Callable[[], Arrays]:
    """ImageNet images in [low, 1]."""

    def read() -> Arrays:
        x = sets.images("imagenet_sample_calib100_224", max(height, width))[0][: sum(PARTS), :height, :width]
        return ((x if low < 0 else (x + 1) / 2).astype(np.float32),)

    return read


def digits() -> Arrays:
    with np.load(sets.root() / "data" / "mnist5k.npz") as d:
        x = d["x"][: 16 * sum(PARTS)]
    return (x[..., None].astype(np.float32) / np.float32(255),)


def spectra() -> Arrays:
    """(N, 1, 1, 257) magnitudes and (N, 1, 2, 128, 2) states, frame after frame."""
    rng, run = np.random.default_rng(0), net("dtln_1_f32").function("float")
    frames, states, state = [], [], np.zeros((1, 2, 128, 2), np.float32)
    for k in range(8 * sum(PARTS)):
        t = (np.arange(512) + 128 * k) / 16_000
        voice = sum(np.sin(2 * np.pi * 140 * h * t) / h for h in range(1, 20)) * max(0.0, np.sin(2 * np.pi * 3 * t[0]))
        frame = np.abs(np.fft.rfft(0.1 * voice + 0.02 * rng.normal(size=512))).astype(np.float32).reshape(1, 1, 257)
        frames.append(frame)
        states.append(state)
        state = np.asarray(run(frame, state)[1])
    return np.stack(frames), np.stack(states)


def tokens() -> Arrays:
    rng, n = np.random.default_rng(0), sum(PARTS)
    graph = net("transformer_kv_cache_f32").graph
    return tuple(
        rng.normal(size=(n, *graph.tensors[t].shape)).astype(np.float32)
        if graph.tensors[t].type == "float32"
        else np.stack([rng.permutation(100).astype(np.int32).reshape(graph.tensors[t].shape) for _ in range(n)])
        for t in graph.inputs
    )


def generated(dense: bool) -> tuple[qsim.Model, Arrays]:
    """Inception-like: a wide and a narrow branch into one CONCATENATION, the narrow one read elsewhere too. dense: three in a row."""
    rng, built = np.random.default_rng(1), Net()

    def w(o: int, i: int, gain: float) -> np.ndarray:
        return (rng.normal(size=(o, 3, 3, i)) * gain / np.sqrt(9 * i)).astype(np.float32)

    x = built.input(1, 16, 16, 8)
    outputs = []
    for _ in range(3 if dense else 1):
        c = built.shape(x)[3]
        narrow = built.conv(x, w(8, c, 1.0), np.zeros(8, np.float32), "RELU")
        wide = built.conv(x, w(8, c, 30.0), np.zeros(8, np.float32))
        outputs.append(built.conv(narrow, w(4, 8, 1.0), np.zeros(4, np.float32)))
        x = built.concat([x, narrow, wide] if dense else [narrow, wide])
    outputs.append(built.conv(x, w(4, built.shape(x)[3], 1.0), np.zeros(4, np.float32)))
    return built.model(*outputs), (rng.normal(size=(sum(PARTS), 16, 16, 8)).astype(np.float32),)


REAL: dict[str, Callable[[], Arrays]] = {
    "blazeface_mlkit_f32": pictures(224, 128, 0.0),
    "deeplabv3_257_f32": pictures(257, 257),
    "dtln_1_f32": spectra,
    "transformer_kv_cache_f32": tokens,
    "conv_vit_mnist_f32": digits,
    "meter_digits_f32": lambda: (sets.load("meter_digits_calib100")[0],),
    "mlperf_resnet8_f32": lambda: (sets.load("cifar10_jpeg_calib500")[0],),
}
MADE = {"generated_inception": False, "generated_dense": True}


def measure(name: str, strategy: str, everything: bool) -> dict[str, Any]:
    """One net and strategy; see the module."""
    model, x = generated(MADE[name]) if name in MADE else (net(name), REAL[name]())
    seen, kept = [a[::2] for a in x], [a[1::2] for a in x]  # states drift with time
    stats = calibrate.observe(model, [tuple(seen)])
    start = time.perf_counter()
    split = propose_splits(model, stats, strategy)
    seconds = time.perf_counter() - start
    real, facts = model.function("float").batch(*kept), {}
    for how, cuts in (("without", ()), ("with", split))[: 1 + bool(split)]:
        made = qsim.quantize(model, calibrate.ranges(model, stats, strategy, split=cuts), split=cuts)
        ours = made.function("integer").batch(*kept)
        levels = [evaluation.sqnr(r, y) for r, y in zip(real, ours, strict=True)]
        facts[how] = [None if v is None else round(v, 2) for v in levels]
    ties = tie_costs(model, stats, strategy)
    most = max((r.split_db - r.shared_db for r in ties), default=0.0)
    found = {"net": name, "strategy": strategy, "ties": len(ties), "most_db": round(most, 2), "seconds": round(seconds, 2)}
    return {**found, "sqnr_db": facts, "splits": [r._asdict() for r in (ties if everything else split)]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--net", nargs="*", default=[*REAL, *MADE], choices=[*REAL, *MADE])
    p.add_argument("--strategy", nargs="*", default=["minmax", "mse"])
    p.add_argument("--every-tie", action="store_true", help="list the costs of every tie, not only of the proposals")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    rows = []
    for name in args.net:
        for strategy in args.strategy:
            rows.append(measure(name, strategy, args.every_tie))
            print({k: v for k, v in rows[-1].items() if k != "splits"}, flush=True)
            for r in rows[-1]["splits"]:
                print(f"  {r['op']} {r['tensor']}: readers of {r['readers_of']} {r['shared_db']:.1f} -> {r['split_db']:.1f} dB", flush=True)
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
