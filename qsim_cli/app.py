"""The commands and what becomes of errors.

Exit codes: 0 ok, 1 finding, 2 usage or recipe, 3 bad model, 4 unsupported, 5 bad data or range, 6 write failed, 7 LiteRT failed or
missing, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError

from qsim.errors import QsimError

from .screen import emit, say

VERBS = {
    "inspect": "What a model is: scheme, ops, tensors with their ranges. Needs neither jax nor LiteRT.",
    "run": "Run a model on the arrays of an .npz: float, fake-quantized, or with the integers the device computes.",
    "calibrate": "Choose ranges for a float model from data, and write them as JSON, CSV or into the model.",
    "strategies": "The names that --strategy takes, with their options.",
    "quantize": "Turn a float model into an int8 one, from data or from ranges.",
    "requantize": "A better file from one that is quantized already: new ranges from data, or the float model it stands for.",
    "eval": "Accuracy of a model on labelled data, and agreement with another model; speed and memory beside.",
    "sweep": "Score many ways of quantizing a model on held-out samples, and say which is best; goes on where it stopped.",
    "merge": "Unite the stores of several sweep workers.",
    "report": "What sweeps found: tables here, CSV or Parquet, and one HTML file that needs no network.",
    "certify": "Compare every tensor of a model with the installed LiteRT, element by element; writes a certificate.",
    "diff": "What changed between two models: ops, tensors, ranges, constants, signatures, metadata.",
    "explain": "Every integer of every op: multipliers, shifts, zero points, clamps, accumulator bounds.",
}


def version() -> str:
    """Versions of everything that decides what a number comes out as."""
    import platform
    from importlib import metadata

    from qsim import NUMERICS, __version__

    def of(distribution: str) -> str:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return "not installed"

    return (
        f"qsim {__version__}\nnumerics {NUMERICS}\njax {of('jax')}\nLiteRT {of('ai-edge-litert')}\n"
        f"Python {platform.python_version()} on {platform.machine()}"
    )


def application() -> App:
    """The command line; verbs are imported when they are called, so that help needs neither numpy nor jax."""
    app = App(
        name="qsim",
        help="Quantization simulator and calibration toolkit for TensorFlow Lite / LiteRT models.",
        version=version,
        help_format="plaintext",
        version_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, text in VERBS.items():
        app.command(f"qsim_cli.{name}:command", name=name, help=text)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = application()(tokens, exit_on_error=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError:
        return 2  # said by cyclopts, with the nearest option
    except QsimError as error:
        return report(error, as_json="--json" in tokens)
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return 130
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def report(error: QsimError, as_json: bool) -> int:
    """Tell the error in one sentence with its fix; with `--json` also as a document on stdout."""
    say(f"error: {error}")
    if as_json:
        facts: dict[str, Any] = {k: str(v) for k in ("where", "found", "expected", "hint") if (v := getattr(error, k)) not in ("", None)}
        emit({"error": {"kind": type(error).__name__, "message": error.message, **facts}, "exit_code": error.exit_code})
    return error.exit_code
