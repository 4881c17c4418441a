"""The packages as others see them: light to import, every module importable, public names frozen, imports in one direction."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import calibrate
import qsim
import qsim_cli

ROOT = Path(__file__).parent.parent
PACKAGES = (qsim, calibrate, qsim_cli)

QSIM = {
    "NUMERICS", "__version__", "load", "save", "quantize", "explain", "certify", "Scheme", "Model", "QParams",
    "INT8", "UINT8", "INT16X8", "INT8W4", "DYNAMIC8", "DYNAMIC4", "WEIGHTS8", "WEIGHTS4", "BLOCKWISE4", "FLOAT16",
    "load_recipe", "requantize", "dequantize",
    "QsimError", "BadModel", "Malformed", "Invalid", "TooLarge", "NewerSchema", "Unsupported", "BadData", "BadRange", "BadRecipe",
    "WriteFailed", "OracleFailed",
}  # fmt: skip
CALIBRATE = {
    "observe",
    "Statistics",
    "load_statistics",
    "ranges",
    "channel_ranges",
    "choose",
    "save_ranges",
    "load_ranges",
    "open_data",
    "correct",
    "correct_bias",
    "round_weights",
    "improve",
    "propose_splits",
    "three_way",
    "evaluate",
    "compare",
    "sweep",
}
HEAVY = ("numpy", "jax", "jaxlib", "scipy", "optax", "tflite", "flatbuffers", "altair", "polars", "PIL", "ai_edge_litert")


def modules() -> list[str]:
    found = [p.__name__ for p in PACKAGES]
    for package in PACKAGES:
        found += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return sorted(m for m in found if not m.endswith("__main__"))


def imported_by(statement: str) -> set[str]:
    """Top-level packages in sys.modules after a statement in a fresh interpreter."""
    program = f"import sys; {statement}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


@pytest.mark.parametrize("statement", ["import qsim", "import calibrate", "import qsim_cli"])
def test_importing_a_package_pulls_in_nothing_heavy(statement):
    assert not imported_by(statement) & set(HEAVY)


def test_loading_a_model_does_not_need_jax_or_litert():
    assert not imported_by("import qsim.reader, qsim.writer, qsim.check, qsim.scheme") & {"jax", "jaxlib", "optax", "ai_edge_litert"}


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name):
    importlib.import_module(name)


@pytest.mark.parametrize("package, names", [(qsim, QSIM), (calibrate, CALIBRATE)], ids=["qsim", "calibrate"])
def test_public_names_are_exactly_these_and_resolve(package, names):
    for module in modules():
        importlib.import_module(module)  # a module named like a function would now shadow it
    assert set(package.__all__) == names
    for name in names - {"NUMERICS", "__version__"}:
        value = getattr(package, name)
        assert not isinstance(value, type(sys)), f"{name} is a module"
    assert set(dir(package)) >= names


def test_no_module_bears_the_name_of_a_public_function():
    for package in (qsim, calibrate):
        stems = {m.rpartition(".")[2] for m in modules() if m.startswith(package.__name__ + ".")}
        assert not stems & set(getattr(package, "__all__", ()))


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level}
    return {n.partition(".")[0] for n in names}


@pytest.mark.parametrize("package, banned", [("qsim", {"calibrate", "qsim_cli"}), ("calibrate", {"qsim_cli"})])
def test_imports_point_one_way(package, banned):
    for path in (ROOT / package).rglob("*.py"):
        assert not imports_of(path) & banned, path


def test_types_are_declared():
    for package in PACKAGES:
        assert (Path(package.__file__).parent / "py.typed").exists()
