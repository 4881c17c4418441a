"""Shared by all tests: strict JAX, the real models, and the counts that the end of a run reports."""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "experiments"))  # tests run the same code as the experiments, on less data
CLEAR_EVERY = 80  # tests between two clearings of JAX's caches: compiled functions of past tests only cost memory

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if not jax.config.jax_compilation_cache_dir:  # `make` names it in the environment
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

_counts: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--draws", type=int, default=6, help="quantization draws per generated shape")
    parser.addoption("--rows", choices=("some", "all"), default="some", help="generated shapes: one per op, types and flavour, or all")
    parser.addoption("--work", help="folder that keeps finished generated rows: go on from there, and write the results file at the end")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--work"):
        import progress

        config.pluginmanager.register(progress.Recorder(config), "progress")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The folder of real models. Skips, saying why, where it is not there."""
    return _models_dir()


def _models_dir() -> Path:
    named = os.environ.get("QSIM_MODELS")
    if not named:
        pytest.skip("QSIM_MODELS is not set: no real models")
    if not (Path(named) / "nets").is_dir():
        pytest.skip(f"QSIM_MODELS={named} has no folder nets")
    return Path(named)


@pytest.fixture(scope="session")
def oracle():
    """LiteRT in a process of its own; skips where it is not installed."""
    from qsim.errors import OracleFailed
    from qsim.litert import Oracle

    with Oracle() as found:
        try:
            found.version()
        except OracleFailed as reason:
            pytest.skip(str(reason))
        yield found


@cache
def _elsewhere() -> str:
    """Why exactness is not claimed for the LiteRT and CPU here; empty where it is, and where there is no LiteRT."""
    from qsim.errors import OracleFailed
    from qsim.litert import cpu_class, version
    from qsim.op import Measured

    try:
        return Measured().why_not(version(), cpu_class())
    except OracleFailed:
        return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("models"):
        _models_dir()
    if item.get_closest_marker("exact") and (elsewhere := _elsewhere()):
        pytest.skip(elsewhere)
    if item.get_closest_marker("gpu") and jax.default_backend() not in ("gpu", "cuda", "rocm"):
        pytest.skip("JAX sees no GPU")


@pytest.fixture(autouse=True)
def _clear_caches():
    yield
    _counts["tests"] += 1
    if _counts["tests"] % CLEAR_EVERY == 0:
        jax.clear_caches()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "models" in report.keywords and (report.when == "call" or report.skipped):
        _counts["models skipped" if report.skipped else "models run"] += 1
    if report.when == "call":
        for name, value in report.user_properties:
            if name in ("draws", "elements"):
                _counts[name] += value


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.write_line(f"real models: {_counts['models run']} run, {_counts['models skipped']} skipped")
    if _counts["draws"]:
        terminalreporter.write_line(f"generated models: {_counts['draws']} draws, {_counts['elements']} elements compared with LiteRT")
