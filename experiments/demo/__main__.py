"""Question: which calibration strategy suits a small digit classifier, and does its file run in LiteRT with the very bytes computed here?

    make demo            (or: python -m experiments.demo [--out demo_out])

One pass over 200 digits; every strategy's ranges come from it. Each candidate is quantized and run in exact integers on 600
selection digits; the one nearest to the float net wins. The winner is reported on 1,000 digits used for nothing else, written, and
run in LiteRT. Beside it the same strategies with activations cut to 4 bits, which no runtime has (simulated), where less fits.
Answer: in int8 nearly every strategy that does not cut the logits reads the digits like the float net (minmax and the winner, a
percentile of 99.999: 992 of 1,000, float 991); they differ in KL. All 40,000 output bytes equal. About 30 s on 2 cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import qsim
from qsim import litert
from qsim.errors import QsimError
from qsim.graph import Model
from qsim_cli.screen import text

from . import digits, report, scoring
from .candidates import Compiled, candidates
from .strategies import STRATEGIES, Strategy

HERE = Path(__file__).resolve().parent
FLOAT_FILE = HERE / "digits_f32.tflite"
EXACT, SIMULATED = "int8", "4-bit, simulated"
USES = {
    "train": "the float net learned from these",
    "calibrate": "the ranges are estimated on these",
    "select": "the strategy is chosen on these",
    "test": "the result is reported on these, which served nothing before",
}


@dataclass(frozen=True)
class Setting:
    """One arithmetic in which all candidates are scored. bits: of the activations."""

    compiled: Compiled
    bits: int

    def score(self, name: str, model: Model, part: digits.Digits, float_answer: np.ndarray) -> scoring.Score:
        return scoring.score(name, self.compiled.answers(model, part.x, self.bits), float_answer, part.y)


@dataclass(frozen=True)
class Result:
    """selected: setting -> strategy -> score on the selection digits. tested: float first. different: output bytes unlike LiteRT's."""

    selected: Mapping[str, Mapping[str, scoring.Score]]
    tested: list[scoring.Score]
    compiles: int
    bytes: int
    different: int


def demo(parts: Mapping[str, digits.Digits], out: Path, strategies: Mapping[str, Strategy] = STRATEGIES) -> Result:
    """All five steps; prints what it does and writes its files into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    model = qsim.load(FLOAT_FILE)
    settings = {EXACT: Setting(Compiled("integer"), 8), SIMULATED: Setting(Compiled("fake"), 4)}
    introduce(parts)
    made = quantized(model, parts["calibrate"].x, strategies)
    selected = select(model, made, settings, parts["select"], out)
    winners = {name: scoring.best(list(found.values())).name for name, found in selected.items()}
    tested = judge(model, made, settings, winners, parts["test"], out)
    count, different = compare(made[winners[EXACT]], out / "digits_int8.tflite", parts["test"].x)
    return Result(selected, tested, sum(len(s.compiled.functions) for s in settings.values()), count, different)


def introduce(parts: Mapping[str, digits.Digits]) -> None:
    text(f"[1/5] A float net of {FLOAT_FILE.stat().st_size / 1000:.0f} kB (made by experiments/demo/train.py) and the digits:")
    for name, part in parts.items():
        text(f"    {name:10}{len(part.y):5}  {USES[name]}")


def quantized(model: Model, x: np.ndarray, strategies: Mapping[str, Strategy]) -> dict[str, Model]:
    text(f"\n[2/5] One pass over {len(x)} digits, then {len(strategies)} strategies derived from what it left, each an int8 model:")
    start = time.monotonic()
    made = candidates(model, x, strategies)
    text(f"    {time.monotonic() - start:.1f} s")
    return made


def select(
    model: Model, made: Mapping[str, Model], settings: Mapping[str, Setting], part: digits.Digits, out: Path
) -> dict[str, dict[str, scoring.Score]]:
    """Every candidate in every setting on the selection digits: table, CSV, plot."""
    text(f"\n[3/5] Every candidate on the {len(part.y)} selection digits: distance from the float net (KL, nats) and digits read wrongly:")
    float_answer = model.function("float").batch(part.x)[0]
    scores = {}
    for setting, s in settings.items():
        start = time.monotonic()
        scores[setting] = {name: s.score(name, m, part, float_answer) for name, m in made.items()}
        text(f"    {setting}: {len(made)} candidates, compiled {len(s.compiled.functions)} time(s), {time.monotonic() - start:.1f} s")
    report.selection(scores)
    rows = report.selection_rows(scores)
    report.write_csv(out / "selection.csv", rows)
    report.plot(rows, out / "selection.png", out / "selection.html")
    return scores


def judge(
    model: Model,
    made: Mapping[str, Model],
    settings: Mapping[str, Setting],
    winners: Mapping[str, str],
    part: digits.Digits,
    out: Path,
) -> list[scoring.Score]:
    """Float, minmax and each setting's winner on the test digits, paired with float digit by digit."""
    text(f"\n[4/5] The winners beside float and minmax on the {len(part.y)} test digits:")
    float_answer = model.function("float").batch(part.x)[0]
    scores = [scoring.score("float", float_answer, float_answer, part.y)]
    for setting, s in settings.items():
        for name in dict.fromkeys(["minmax", winners[setting]]):
            scores.append(s.score(f"{setting}: {name}", made[name], part, float_answer))
    report.test(scores)
    report.write_csv(out / "test.csv", report.test_rows(scores))
    return scores


def compare(model: Model, path: Path, x: np.ndarray) -> tuple[int, int]:
    """(output bytes, how many differ): the file is written, read back and run here, and run in LiteRT's default interpreter."""
    text(f"\n[5/5] The best int8 file, {path}, on the test digits in LiteRT {litert.version()}, in a process of its own:")
    qsim.save(model, path, force=True)
    mine = qsim.load(path).function("integer", "xnnpack").batch(x)[0]
    (theirs,) = litert.run(path.read_bytes(), [x], "xnnpack").values()
    a, b = (np.frombuffer(y.tobytes(), np.uint8) for y in (mine, theirs))
    different = int((a != b).sum()) if len(a) == len(b) else max(len(a), len(b))
    text(f"    {path.stat().st_size / 1000:.0f} kB, {len(x)} digits, {len(b)} output bytes, {different} of them different from ours")
    return len(b), different


def farewell(found: Result, out: Path, seconds: float) -> None:
    text("\nEvery output byte equal." if not found.different else "\nNOT EQUAL: this should not happen; please report it.")
    text(f"Done in {seconds:.0f} s. Look at {out / 'selection.html'} in a browser (or {out / 'selection.png'}); numbers: {out}/*.csv.")
    beside = Path(sys.executable).with_name("qsim")
    qsim_command, file = beside if beside.exists() else "qsim", out / "digits_int8.tflite"
    text(f"Try next: {_short(qsim_command)} inspect {file}, and {_short(qsim_command)} explain {file} --op 1")


def _short(path: Path | str) -> str:
    """Relative to the working directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if isinstance(path, Path) and path.is_relative_to(here) else str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for the results (default demo_out)")
    args = parser.parse_args()
    start = time.monotonic()
    try:
        found = demo(digits.load(), args.out)
    except QsimError as fault:
        text(f"error: {fault}")
        return fault.exit_code
    farewell(found, args.out, time.monotonic() - start)
    return int(found.different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
