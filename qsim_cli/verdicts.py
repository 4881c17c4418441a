"""What a sweep found, in words and short figures: the same on the terminal and in the HTML report."""

from __future__ import annotations

from calibrate.summaryform import Found

VERDICTS = {
    "better": "better than min/max",
    "worse": "worse than min/max",
    "alike": "not to be told from min/max",
    "itself": "min/max itself",
}


def loss_text(value: float | None, error: float | None = None) -> str:
    """A mean, and two standard errors of it."""
    if value is None:
        return ""
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {2 * error:.2g}"


def share(value: float | None, error: float | None = None) -> str:
    """A share in percent, and two standard errors of it."""
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if error is None else f"{100 * value:.2f} ± {200 * error:.2g} %"


def verdict_lines(f: Found) -> list[str]:
    """The outcome of one scheme, a sentence a line: the winner first."""
    best = f.tested[0]
    lines = [
        f"{best.candidate}: {loss_text(best.loss, best.error)} on the test split ({f.unit})",
        f"It is {VERDICTS[best.against_baseline]}"
        + ("." if best.against_baseline == "itself" else f": gain {loss_text(best.gain, best.gain_error)}."),
    ]
    if best.right is not None:
        lines.append(f"Accuracy {share(best.right, best.right_error)}" + _against_float(f))
    scored = sum(not t.failed for t in f.tried)
    failed = f", {len(f.tried) - scored} failed" if scored < len(f.tried) else ""
    lines.append(
        f"Of {scored - 1} other candidates {f.alike} cannot be told from the winner on the select split{failed}. Being the best of them "
        f"flatters its select loss by {f.optimism:.2g}, expected."
    )
    return [*lines, f"{f.size:,} bytes ({f.sized}).", *f.notes]


def _against_float(f: Found) -> str:
    best = f.tested[0]
    if f.float_right is None:
        return "."
    words = f", the float model {share(f.float_right)}"
    if best.interval is None:
        return words + "."
    low, high = best.interval
    is_it = "not inferior" if best.not_inferior else "inferior"
    return f"{words}: {is_it} (lost {best.lost}, won {best.won}; the drop is {low:.2f} to {high:.2f} points)."
