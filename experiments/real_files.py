"""Question: does every real file give LiteRT's integers, and close reals, in every flavour?

Answer: a line per file that is not exact, and a count of each outcome; "exact per op": every op gives LiteRT's integers on LiteRT's own
inputs, but in the graph reals that differ in their last bits are quantized to other integers. Every file under $QSIM_MODELS/nets is
certified (`qsim certify`: per op on LiteRT's own intermediates, and the whole graph; uniform, saturating and tie-seeking inputs) in a
process of its own. Files with several signatures are certified once for each.

    QSIM_MODELS=... python experiments/real_files.py [--samples 17] [--only REGEX] [--jobs 2] [--resume] [--output FILE]

`--resume` goes on where a run was stopped, and redoes what was not exact or not within today's bounds. Samples are of each of the three
styles.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import sets
from rich.progress import track

from qsim.certificate import BEHIND_REALS, REAL_SHARE

RESULTS = Path(__file__).parent / "results" / "real_files.json"
SECONDS = 1800  # for one file


def certified(path: Path, name: str, samples: int) -> dict[str, Any]:
    """{flavour: {"status", "elements", "differing", "cause"}} of one file and signature ("file" or "file#signature")."""
    signature = ["--signature", name.split("#", 1)[1]] if "#" in name else []
    command = [sys.executable, "-m", "qsim_cli", "certify", str(path), "--json", "--samples", str(samples), *signature]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"all": {"status": "no answer", "elements": 0, "differing": 0, "cause": f"no answer within {SECONDS} s"}}
    try:
        found = json.loads(done.stdout)["flavours"]
    except (json.JSONDecodeError, KeyError):
        reason = " ".join(done.stderr.split())[-400:]
        return {"all": {"status": "not loaded" if done.returncode in (2, 3) else "failed", "elements": 0, "differing": 0, "cause": reason}}
    return {flavour: _brief(o) for flavour, o in found.items()}


def _brief(outcome: dict[str, Any]) -> dict[str, Any]:
    first = next((t for side in ("per_op", "whole") for t in outcome[side] if t["differing"]), None)
    kept = {k: outcome[k] for k in ("status", "elements", "differing", "rounding", "cause")} | {"unseen": len(outcome["unseen"])}
    if BEHIND_REALS in outcome["cause"]:
        kept["status"] = "exact per op"
    worst = {side: max((t["worst"] for t in outcome[side]), default=0.0) for side in ("per_op", "whole")}
    return kept | {"worst": worst} | ({"first": first} if first else {})


def _stands(found: dict[str, Any]) -> bool:
    """Whether an outcome holds: exact, and its reals within today's bounds."""
    shares = zip(found.get("worst", {}).values(), REAL_SHARE.values(), strict=False)
    return found["status"] == "exact" and (found.get("rounding", 0) > 0 or all(worst <= share for worst, share in shares))


def names(path: Path, root: Path) -> list[str]:
    """The file's name, and one more for each signature of another graph than the first."""
    import qsim
    from qsim.errors import QsimError

    name = str(path.relative_to(root))
    try:
        found = qsim.load(path).signatures
    except QsimError:
        return [name]
    return [name, *(f"{name}#{s['key']}" for s in found if s["graph"])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=17)
    parser.add_argument("--only", default="", help="files whose name matches")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    root = sets.root() / "nets"
    old = json.loads(asked.output.read_text())["files"] if asked.resume and asked.output.exists() else {}
    todo = {n: path for path in sorted(root.rglob("*.tflite")) for n in names(path, root) if re.search(asked.only, n)}
    found = {n: o for n, o in old.items() if n not in todo or all(map(_stands, o.values()))}
    with ThreadPoolExecutor(asked.jobs) as pool:
        waiting = {pool.submit(certified, path, n, asked.samples): n for n, path in todo.items() if n not in found}
        for done in track(as_completed(waiting), "certifying", total=len(waiting)):
            found[waiting[done]] = done.result()
            write(asked.output, found, asked.samples)
    return report({n: o for n, o in found.items() if n in todo})


def write(path: Path, found: dict[str, Any], samples: int) -> None:
    from importlib.metadata import version

    from qsim import NUMERICS
    from qsim.litert import cpu_class

    head = {"litert": version("ai-edge-litert"), "cpu": cpu_class(), "numerics": NUMERICS, "samples": 3 * samples}
    text = json.dumps({**head, "files": dict(sorted(found.items()))}, indent=1) + "\n"
    path.write_text(text.replace(f"{sets.root()}/", ""))


def report(found: dict[str, Any]) -> int:
    counts = Counter((f, o["status"]) for flavours in found.values() for f, o in flavours.items())
    for name, flavours in sorted(found.items()):
        for flavour, o in flavours.items():
            if o["status"] != "exact":
                cause = " ".join(str(o["cause"]).split())[:200]
                print(f"{name} {flavour}: {o['status']}, {o['differing']:,} of {o['elements']:,} differ. {cause} {o.get('first', '')}")
    for (flavour, status), n in sorted(counts.items()):
        print(f"{flavour:10} {status:15} {n}")
    elements = sum(o["elements"] for flavours in found.values() for o in flavours.values())
    print(f"{len(found)} files and signatures, {elements:,} elements compared")
    return 1 if any(status == "differs" for _, status in counts) else 0


if __name__ == "__main__":
    raise SystemExit(main())
