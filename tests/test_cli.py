"""The command `qsim` as its users meet it: results, files, messages, exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small

import calibrate
import qsim
from qsim_cli import app, main, screen

AFFINE = ("--input-scale", "1/64", "--input-offset", "-2")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with net.tflite (float), data.npz (x, y by the net itself), and nothing else; the tests run in it."""
    monkeypatch.chdir(tmp_path)
    model, x = small.float_net(), small.images(48)
    qsim.save(model, "net.tflite")
    (y,) = model.function("float").batch((x / 64 - 2).astype(np.float32))
    np.savez("data.npz", x=x, y=y.reshape(len(x), -1).argmax(1))
    return tmp_path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def result(capsys, *arguments: object) -> dict:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


# help, version, usage


def test_help_names_every_verb_and_imports_nothing_heavy():
    program = "import sys; from qsim_cli import main; main(['--help']); print({'jax', 'numpy', 'tflite'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(verb in shown for verb in app.VERBS)
    assert shown.rstrip().endswith("set()")


def test_inspect_needs_neither_jax_nor_litert(here):
    without = "import sys; sys.modules['jax'] = sys.modules['ai_edge_litert'] = None"
    program = f"{without}; from qsim_cli import main; sys.exit(main(['inspect', 'net.tflite']))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr
    assert "CONV_2D" in done.stdout


@pytest.mark.parametrize("verb", app.VERBS)
def test_every_verb_has_help_and_json(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0 and "--json" in out


def test_version_names_everything_that_decides_numbers(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    for word in (f"qsim {qsim.__version__}", f"numerics {qsim.NUMERICS}", "jax", "LiteRT", "Python"):
        assert word in out


@pytest.mark.parametrize(
    "arguments, hint",
    [
        (["inspct", "net.tflite"], "inspect"),
        (["run", "net.tflite", "data.npz", "-o", "o.npz", "--mode", "intger"], "integer"),
        (["run", "net.tflite", "data.npz"], "--output"),
        (["run", "net.tflite", "data.npz", "-o", "o.npz", "--batch", "0"], "--batch"),
        (["explain", "net.tflite", "--op", "99"], "0 to 4"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_right(capsys, here, arguments, hint):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert hint in err
    assert sorted(p.name for p in here.iterdir()) == ["data.npz", "net.tflite"]


# inspect


def test_inspect_shows_ops_tensors_and_scheme(capsys, here):
    code, out, _ = run(capsys, "inspect", "net.tflite")
    assert code == 0
    for word in ("float32, not quantized", "made by the tests", "FULLY_CONNECTED", "fused_activation_function=RELU", "hidden", "1x8x8x1"):
        assert word in out


def test_inspect_json_has_the_tensors_by_index(capsys, here):
    graph = result(capsys, "inspect", "net.tflite")["graphs"][0]
    assert [t["index"] for t in graph["tensors"]] == list(range(13))
    assert graph["tensors"][0]["role"] == "input" and graph["tensors"][12]["role"] == "output"
    assert [n["op"] for n in graph["ops"]] == ["CONV_2D", "CONV_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]


def test_hostile_names_are_shown_inert(capsys, here):
    name = "[red]\x1b[2J\u202egnp.exe\n</td>\x07"
    qsim.save(small.float_net(names={3: name}), "bad.tflite")
    code, out, err = run(capsys, "inspect", "bad.tflite")
    assert code == 0
    assert "[red]" in out  # no markup is interpreted
    assert not set(out + err) & {"\x1b", "\u202e", "\x07"}
    code, out, _ = run(capsys, "inspect", "bad.tflite", "--json")
    assert not set(out) & {"\x1b", "\u202e", "\x07"}
    assert json.loads(out)["graphs"][0]["tensors"][3]["name"] == name


def test_safe_keeps_letters_and_cuts_length():
    assert screen.safe("größe/重み") == "größe/重み"
    assert screen.safe("\u2066a\u2069\x9b") == "\\u2066a\\u2069\\x9b"
    assert len(screen.safe("x" * 10_000)) == screen.LONGEST_NAME


def test_progress_tells_rate_and_remaining_time(monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with screen.progress("observing", 40) as step:
        for _ in range(4):
            step(10)
            time.sleep(0.11)
    assert "observing" in shown.getvalue() and re.search(r"\d/s", shown.getvalue()) and re.search(r"\d:\d\d:\d\d", shown.getvalue())


# run


def test_run_writes_the_functions_outputs(capsys, here):
    shown = result(capsys, "run", "net.tflite", "data.npz", "-o", "out.npz", "--mode", "float", *AFFINE)
    assert shown["tensors"][0]["key"] == "t12" and shown["tensors"][0]["shape"] == [48, 1, 4]
    x = np.load("data.npz")["x"]
    (expected,) = qsim.load("net.tflite").function("float").batch((x / 64.0 - 2).astype(np.float32))
    with np.load("out.npz") as written:
        assert written.files == ["t12"]
        assert np.array_equal(written["t12"], expected) and written["t12"].dtype == np.float32


def test_run_all_writes_inputs_and_every_op_output(capsys, here):
    code, _, err = run(capsys, "run", "net.tflite", "data.npz", "-o", "out.npz", "--tensors", "all", *AFFINE)
    assert code == 0, err
    with np.load("out.npz") as written:
        assert sorted(written.files) == sorted(f"t{t}" for t in (0, 3, 6, 8, 11, 12))
        assert written["t0"].shape == (48, 1, 8, 8, 1)


def test_run_gives_the_same_for_every_way_to_hand_in_the_data(capsys, here):
    x = (np.load("data.npz")["x"] / 64.0 - 2).astype(np.float32)
    np.savez("named.npz", image=x)
    np.savez("indexed.npz", t0=x[:, None])
    np.savez("any.npz", whatever=x.astype(np.float64))
    np.save("plain.npy", x)
    run(capsys, "run", "net.tflite", "data.npz", "-o", "out.npz", *AFFINE)
    expected = np.load("out.npz")["t12"]
    for name in ("named.npz", "indexed.npz", "any.npz", "plain.npy"):
        code, _, err = run(capsys, "run", "net.tflite", name, "-o", "other.npz", "--force")
        assert code == 0, err
        assert np.array_equal(np.load("other.npz")["t12"], expected), name


def test_batch_size_changes_nothing(capsys, here):
    for size in (1, 7, 48):
        run(capsys, "run", "net.tflite", "data.npz", "-o", f"{size}.npz", "--batch", size, *AFFINE)
    first = np.load("1.npz")["t12"]
    assert np.allclose(np.load("7.npz")["t12"], first, atol=1e-6) and np.allclose(np.load("48.npz")["t12"], first, atol=1e-6)


# what must not work


def save_nan(path: str) -> None:
    x = np.zeros((5, 8, 8, 1), np.float32)
    x[3, 1, 2, 0] = np.nan
    np.savez(path, x=x)


BAD_DATA = {
    "missing": (lambda p: None, "no such file"),
    "text": (lambda p: Path(p).write_text("hello"), "cannot be read as .npz or .npy"),
    "empty file": (lambda p: Path(p).write_bytes(b""), "cannot be read as .npz or .npy"),
    "truncated": (lambda p: Path(p).write_bytes(Path("data.npz").read_bytes()[:900]), "bad.npz"),
    "pickle": (lambda p: np.savez(p, x=np.array([{}], object)), "Python objects"),
    "no samples": (lambda p: np.savez(p, x=np.zeros((0, 8, 8, 1), np.float32)), "no samples"),
    "shape": (lambda p: np.savez(p, x=np.zeros((4, 9, 8, 1), np.float32)), "expected (N, 8, 8, 1)"),
    "nan": (save_nan, "sample 3"),
    "strings": (lambda p: np.savez(p, x=np.full((2, 8, 8, 1), "a")), "not numbers"),
    "ambiguous": (lambda p: np.savez(p, a=np.zeros((2, 8, 8, 1)), b=np.zeros((2, 8, 8, 1))), "no array for image"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_is_5_and_writes_nothing(capsys, here, kind):
    make, words = BAD_DATA[kind]
    make("bad.npz")
    code, out, err = run(capsys, "run", "net.tflite", "bad.npz", "-o", "out.npz", "--json")
    assert code == 5, err
    assert words in err and "bad.npz" in err
    assert json.loads(out)["exit_code"] == 5
    assert not Path("out.npz").exists()


@pytest.mark.parametrize("verb", ["inspect", "explain", "run"])
@pytest.mark.parametrize(
    "content", [None, b"", b"PK\x03\x04 and so on", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1"]
)
def test_a_file_that_is_no_model_is_3(capsys, here, verb, content):
    if content is not None:
        Path("bad.tflite").write_bytes(content)
    more = ["data.npz", "-o", "out.npz"] if verb == "run" else []
    code, _, err = run(capsys, verb, "bad.tflite", *more)
    assert code == 3 and err.startswith("error: bad.tflite")
    assert not Path("out.npz").exists()


def test_an_existing_output_stays_without_force(capsys, here):
    Path("out.npz").write_bytes(b"precious")
    code, _, err = run(capsys, "run", "net.tflite", "data.npz", "-o", "out.npz")
    assert code == 6 and "--force" in err
    assert Path("out.npz").read_bytes() == b"precious"
    assert run(capsys, "run", "net.tflite", "data.npz", "-o", "out.npz", "--force", *AFFINE)[0] == 0
    assert np.load("out.npz").files == ["t12"]


@pytest.mark.parametrize("target", ["net.tflite", "data.npz", ".", "nowhere/out.npz"])
def test_outputs_that_cannot_be_are_refused_before_any_compute(capsys, here, target, monkeypatch):
    monkeypatch.setattr("qsim_cli.computing.function_of", lambda *a: pytest.fail("computed"))
    before = {p: p.read_bytes() for p in here.iterdir()}
    assert run(capsys, "run", "net.tflite", "data.npz", "-o", target, "--force")[0] == 6
    assert {p: p.read_bytes() for p in here.iterdir()} == before


def test_an_op_without_kernel_is_4_and_named(capsys, here):
    net = small.float_net()
    nodes = (*net.graph.nodes[:4], net.graph.nodes[4].but(op="CUSTOM:Strange", options=qsim.graph.Options(custom_options=b"")))
    qsim.save(net.but(graphs=(net.graph.but(nodes=nodes),)), "strange.tflite")
    code, _, err = run(capsys, "run", "strange.tflite", "data.npz", "-o", "out.npz")
    assert code == 4 and "CUSTOM:Strange" in err


def test_a_missing_gpu_is_4(capsys, here):
    import jax

    if jax.default_backend() != "cpu":
        pytest.skip("there is a GPU")
    code, _, err = run(capsys, "run", "net.tflite", "data.npz", "-o", "out.npz", "--device", "gpu")
    assert code == 4 and "no GPU" in err


def test_an_interrupt_is_130(capsys, here, monkeypatch):
    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr("qsim_cli.computing.function_of", interrupted)
    assert run(capsys, "run", "net.tflite", "data.npz", "-o", "out.npz")[0] == 130
    assert not Path("out.npz").exists()


# eval


def test_eval_gives_accuracy_and_cost(capsys, here):
    found = result(capsys, "eval", "net.tflite", "data.npz", "--mode", "float", *AFFINE)
    assert found["samples"] == 48 and found["top1"] == 1.0
    assert found["samples_per_second"] > 0 and found["compile_seconds"] >= 0 and found["peak_memory_bytes"] > 1 << 20


def test_eval_against_another_model(capsys, here):
    qsim.save(small.float_net(seed=5), "other.tflite")
    found = result(capsys, "eval", "other.tflite", "data.npz", "--against", "net.tflite", *AFFINE)
    same = result(capsys, "eval", "net.tflite", "data.npz", "--against", "net.tflite", *AFFINE)
    assert same["agreement"] == 1.0 and same["sqnr_db"] is None and same["kl_nats"] == 0 and same["lost"] == same["won"] == 0
    assert found["agreement"] == found["top1"] < 1.0  # the labels are the other net's answers
    assert found["lost"] == round(48 * (1 - found["top1"])) and found["kl_nats"] > 0


def test_eval_gives_intervals_and_a_paired_verdict(capsys, here):
    qsim.save(small.float_net(seed=5), "other.tflite")
    found = result(capsys, "eval", "other.tflite", "data.npz", "--against", "net.tflite", "--metric", "top1", "--metric", "top2", *AFFINE)
    low, high = found["intervals"]["top1"]
    assert low < found["top1"] < high and set(found["intervals"]) == {"top1", "top2"}
    (first, _) = found["paired"]
    assert first["metric"] == "top1" and first["verdict"] == "inferior" and first["difference"] == pytest.approx(found["top1"] - 1)
    code, out, _ = run(capsys, "eval", "other.tflite", "data.npz", "--against", "net.tflite", *AFFINE)
    assert code == 0 and "95 % interval" in out and "against the other model: inferior" in out
    grouped = result(capsys, "eval", "other.tflite", "data.npz", "--metric", "top1", "--groups", "24", *AFFINE)
    assert grouped["intervals"]["top1"] != [low, high] and grouped["top1"] == found["top1"]


def test_eval_takes_a_metric_of_ones_own(capsys, here):
    Path("mine.py").write_text("def sure(items):\n    return items.y.max(axis=1)\n")
    found = result(
        capsys, "eval", "net.tflite", "data.npz", "--metric", "mine:sure", "--metric", "agreement", "--against", "net.tflite", *AFFINE
    )
    assert 0.25 < found["sure"] <= 1 and found["agreement"] == 1 and [p["metric"] for p in found["paired"]] == ["sure"]
    for name in ("mine:absent", "absent:sure", "accuracy"):
        assert run(capsys, "eval", "net.tflite", "data.npz", "--metric", name, *AFFINE)[0] == 2
    code, _, err = run(capsys, "eval", "net.tflite", "data.npz", "--metric", "kl", *AFFINE)
    assert code == 5 and "another model" in err


@pytest.mark.parametrize("verb", ["eval", "run", "calibrate"])
def test_limit_and_shuffle_say_which_samples_are_used(capsys, here, verb):
    data = np.load("data.npz")
    rows = np.random.default_rng(3).permutation(48)[:10]
    np.savez("some.npz", x=data["x"][rows], y=data["y"][rows])
    qsim.save(small.float_net(seed=5), "other.tflite")

    def outcome(*arguments):
        if verb == "eval":
            return result(capsys, "eval", "net.tflite", *arguments, "--against", "other.tflite", *AFFINE)["intervals"]
        form = ("run", "net.tflite", arguments[0]) if verb == "run" else ("calibrate", "net.tflite", "--data", arguments[0])
        found = result(capsys, *form, *arguments[1:], "-o", "o.npz" if verb == "run" else "o.json", "--force", *AFFINE)
        return found["tensors"] if verb == "run" else found["ranges"]

    assert outcome("data.npz", "--limit", "10", "--shuffle", "3") == outcome("some.npz") != outcome("data.npz", "--limit", "10")
    assert run(capsys, "eval", "net.tflite", "data.npz", "--limit", "0", *AFFINE)[0] == 5


def test_a_table_is_data(capsys, here):
    data = np.load("data.npz")
    heading = ",".join([*(f"p{k}" for k in range(64)), "y"])
    np.savetxt("data.csv", np.column_stack([data["x"].reshape(48, -1), data["y"]]), "%d", ",", header=heading, comments="")
    ours, theirs = (result(capsys, "eval", "net.tflite", f"data.{form}", *AFFINE) for form in ("csv", "npz"))
    assert ours["top1"] == theirs["top1"] == 1.0 and ours["samples"] == 48


def test_eval_without_labels_says_so(capsys, here):
    np.savez("bare.npz", x=np.load("data.npz")["x"])
    code, out, err = run(capsys, "eval", "net.tflite", "bare.npz", *AFFINE)
    assert code == 0 and "no labels" in err and "top-1" not in out


def test_labels_outside_the_classes_are_refused(capsys, here):
    np.savez("bad.npz", x=np.load("data.npz")["x"], y=np.full(48, 9))
    code, _, err = run(capsys, "eval", "net.tflite", "bad.npz", *AFFINE)
    assert code == 5 and "0..3" in err


def test_a_folder_of_images_is_data(capsys, here):
    Image = pytest.importorskip("PIL.Image")
    with np.load("data.npz") as data:
        x, y = data["x"], data["y"]
    Path("pictures").mkdir()
    for i in range(10):
        Image.fromarray(x[i, ..., 0]).save(f"pictures/{9 - i}.png")
    Path("pictures/labels.csv").write_text("file,class\n" + "".join(f"{9 - i}.png,{y[i]}\n" for i in range(10)))
    found = result(capsys, "eval", "net.tflite", "pictures", *AFFINE)
    assert found["samples"] == 10 and found["top1"] == 1.0
    Path("pictures/9.png").write_bytes(b"no picture")
    code, _, err = run(capsys, "eval", "net.tflite", "pictures", *AFFINE)
    assert code == 5 and "9.png" in err


# explain


def test_explain_lists_every_op(capsys, here):
    code, out, _ = run(capsys, "explain", "net.tflite")
    assert code == 0 and out.count("float: the real function") == 5
    assert [o["op"] for o in result(capsys, "explain", "net.tflite")["ops"]][-1] == "SOFTMAX"


# calibrate, quantize


def same_outputs_in_litert(oracle, path: str, x: np.ndarray) -> bool:
    (y,) = qsim.load(path).function().batch(x)
    (expected,) = oracle.run(Path(path).read_bytes(), [x[:, None] if x.ndim == 4 else x]).values()
    return y.dtype == expected.dtype and np.array_equal(y, expected)


@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_quantize_writes_a_file_that_litert_runs_alike(capsys, here, oracle, io):
    done = result(capsys, "quantize", "net.tflite", "--data", "data.npz", "-o", "q.tflite", "--io", io, "--strategy", "minmax", *AFFINE)
    assert done["io"] == io and done["strategy"] == "minmax" and done["samples"] == 48 and not done["warnings"]
    assert len(done["ops"]) == 5 and {row["stored"] for row in done["ops"]} == {"int8"}
    model = qsim.load("q.tflite")
    assert [model.graph.tensors[t].type for t in (*model.graph.inputs, *model.graph.outputs)] == [io, io]
    x = np.load("data.npz")["x"] / 64.0 - 2
    if io != "float32":
        q = model.graph.tensors[model.graph.inputs[0]].qparams
        x = np.clip(np.rint(x / q.scale[0]) + q.zero_point[0], q.low, q.high).astype(io)
    assert same_outputs_in_litert(oracle, "q.tflite", x.astype(np.float32) if io == "float32" else x)
    found = result(capsys, "eval", "q.tflite", "data.npz", "--against", "net.tflite", *AFFINE)
    assert found["agreement"] > 0.9 and found["sqnr_db"] > 25


def test_auto_compares_strategies_and_says_so(capsys, here):
    done = result(capsys, "calibrate", "net.tflite", "--data", "data.npz", "-o", "r.json", *AFFINE)
    assert done["strategy"].startswith("auto, ")
    assert sum(row["chosen"] for row in done["candidates"]) == 1 and len(done["candidates"]) > 3
    assert any("input range -2 .. 1.98" in note for note in done["assumed"])
    np.savez("few.npz", x=np.load("data.npz")["x"][:20])
    code, out, err = run(capsys, "calibrate", "net.tflite", "--data", "few.npz", "-o", "few.json", *AFFINE)
    assert code == 0 and "too few" in err and "minmax" in out


def test_ranges_in_a_file_give_the_same_model_as_data(capsys, here):
    common = ("--strategy", "percentile:99.9", *AFFINE)
    assert run(capsys, "quantize", "net.tflite", "--data", "data.npz", "-o", "direct.tflite", *common)[0] == 0
    for name, form in (("own.json", ()), ("aeq.json", ("--format", "aeq")), ("table.csv", ()), ("held.tflite", ())):
        assert run(capsys, "calibrate", "net.tflite", "--data", "data.npz", "-o", name, *form, *common)[0] == 0
        assert run(capsys, "quantize", "net.tflite", "--ranges", name, "-o", f"of_{name}.tflite")[0] == 0
        assert Path(f"of_{name}.tflite").read_bytes() == Path("direct.tflite").read_bytes()


def test_the_declared_range_is_the_inputs(capsys, here):
    for extra, expected in (((), [-2.0, 255 / 64 - 2]), (("--input-range", "-3,2"), [-3.0, 2.0]), (("--input-range=-1/2,1",), [-0.5, 1.0])):
        done = result(
            capsys, "calibrate", "net.tflite", "--data", "data.npz", "-o", "r.json", "--force", "--strategy", "mse", *AFFINE, *extra
        )
        assert done["ranges"]["image"] == expected
    np.savez("floats.npz", x=(np.load("data.npz")["x"] / 64 - 2).astype(np.float32))
    done = result(capsys, "calibrate", "net.tflite", "--data", "floats.npz", "-o", "r.json", "--force", "--strategy", "mse")
    x = np.load("floats.npz")["x"]
    assert done["ranges"]["image"] == [float(x.min()), float(x.max())]
    assert any("--input-range" in note for note in done["assumed"])


def test_fisher_takes_gradients_in_its_pass(capsys, here):
    done = result(capsys, "calibrate", "net.tflite", "--data", "data.npz", "-o", "r.json", "--force", "--strategy", "fisher", *AFFINE)
    x = np.load("data.npz")["x"] / np.float32(64) - 2
    stats = calibrate.observe(qsim.load("net.tflite"), x, gradients=1)
    assert tuple(done["ranges"]["hidden"]) == calibrate.ranges(qsim.load("net.tflite"), stats, "fisher")["hidden"]


def test_a_strategy_of_the_users_own(capsys, here):
    Path("my_strategies.py").write_text("def half(d):\n    return d.min / 2, d.max / 2\n")
    ranges = {}
    for strategy in ("minmax", "my_strategies:half"):
        done = result(capsys, "calibrate", "net.tflite", "--data", "data.npz", "-o", "r.json", "--force", "--strategy", strategy, *AFFINE)
        ranges[strategy] = done["ranges"]["hidden"]
    assert ranges["my_strategies:half"] == [v / 2 for v in ranges["minmax"]]


def test_samples_of_a_group_stay_together(capsys, here):
    with np.load("data.npz") as data:
        np.savez("grouped.npz", x=data["x"], film=np.arange(48) // 4)
    for groups in ("4", "film"):
        done = result(
            capsys, "calibrate", "net.tflite", "--data", "grouped.npz", "-o", "r.json", "--groups", groups, "--force", *AFFINE
        )  # fmt: skip
        assert any("8 of 48" in note for note in done["assumed"]), done["assumed"]
    assert run(capsys, "calibrate", "net.tflite", "--data", "grouped.npz", "-o", "no.json", "--groups", "scene", *AFFINE)[0] == 5


@pytest.mark.parametrize(
    "arguments, code, hint",
    [
        (["--data", "data.npz", "--strategy", "mximum"], 2, "minmax"),
        (["--data", "data.npz", "--strategy", "nowhere:half"], 2, "nowhere"),
        (["--data", "data.npz", "--strategy", "percentile:101"], 2, "100"),
        (["--data", "data.npz", "--scheme", "int3"], 2, "int8"),
        (["--data", "data.npz", "--ranges", "r.json"], 2, "--data or --ranges"),
        ([], 2, "--data or --ranges"),
        (["--ranges", "nowhere.json"], 5, "nowhere.json"),
        (["--data", "data.npz", "--io", "int32"], 2, "int8"),
        (["--data", "data.npz", "--input-range", "1,0"], 2, "lo must be below hi"),
        (["--data", "data.npz", "--input-scale", "1/0"], 2, "not a number"),
    ],
)
def test_quantize_refuses_with_the_way_out(capsys, here, arguments, code, hint):
    got, _, err = run(capsys, "quantize", "net.tflite", *arguments, "-o", "q.tflite")
    assert got == code and hint in err
    assert not Path("q.tflite").exists()


def test_a_quantized_source_is_refused(capsys, here):
    assert run(capsys, "quantize", "net.tflite", "--data", "data.npz", "-o", "q.tflite", "--strategy", "minmax", *AFFINE)[0] == 0
    for verb, target in (("quantize", "again.tflite"), ("calibrate", "r.json")):
        code, _, err = run(capsys, verb, "q.tflite", "--data", "data.npz", "-o", target, *AFFINE)
        assert code == 4 and "quantized already" in err


def test_ranges_of_another_model_are_refused(capsys, here):
    Path("r.json").write_text('{"imagine": {"min": [0], "max": [1]}}')
    code, _, err = run(capsys, "quantize", "net.tflite", "--ranges", "r.json", "-o", "q.tflite")
    assert code == 5 and "imagine" in err and "image" in err  # the nearest name


def test_inputs_outside_the_domain_and_dead_outputs_are_told(capsys, here):
    run(capsys, "quantize", "net.tflite", "--data", "data.npz", "-o", "q.tflite", "--strategy", "minmax", *AFFINE)
    code, _, err = run(capsys, "run", "q.tflite", "data.npz", "-o", "out.npz")  # the scaling was forgotten
    assert code == 0 and "lies outside -2 .. 1.98" in err and "--input-scale" in err
    np.savez("flat.npz", x=np.zeros((9, 8, 8, 1), np.float32))
    code, _, err = run(capsys, "run", "q.tflite", "flat.npz", "-o", "flat_out.npz")
    assert code == 0 and "the same for all 9 samples" in err


# schemes and recipes


def test_weight_only_schemes_need_no_data(capsys, here):
    code, out, err = run(capsys, "quantize", "net.tflite", "--scheme", "dynamic8", "-o", "d.tflite")
    assert code == 0 and "dynamic8" in out and "it has no weights" not in err
    assert {t.type for t in qsim.load("d.tflite").graph.tensors if t.is_constant} >= {"int8", "float32"}


def test_a_simulated_scheme_is_refused_before_any_work(capsys, here):
    code, _, err = run(capsys, "quantize", "net.tflite", "--scheme", "sim:a4w4", "--data", "nowhere.npz", "-o", "s.tflite")
    assert code == 4 and "simulated" in err and not Path("s.tflite").exists()


def test_a_recipe_file_and_borders_by_any_name(capsys, here):
    Path("r.toml").write_text('default = "int8"\n[[rules]]\nop = "CONV_2D"\nscheme = "int16x8"\n')
    arguments = ("--recipe", "r.toml", "--default-range=-4,4", "--input-type", "QUANTIZED_UINT8", "-o", "m.tflite")
    code, out, _ = run(capsys, "quantize", "net.tflite", *arguments)
    made = qsim.load("m.tflite").graph
    assert code == 0 and [made.tensors[t].type for t in (*made.inputs, *made.outputs)] == ["uint8", "float32"]
    assert {made.tensors[n.outputs[0]].type for n in made.nodes if n.op == "CONV_2D"} == {"int16"}
    assert "uint8 and float32" in out


def test_strict_lists_what_would_stay_float(capsys, here):
    code, _, err = run(capsys, "quantize", "net.tflite", "--scheme", "blockwise4", "--strict", "-o", "b.tflite")
    assert code == 4 and "CONV_2D: no kernel takes weights with scales by blocks" in err and not Path("b.tflite").exists()


def test_biases_are_corrected_on_the_data(capsys, here):
    code, _, err = run(capsys, "quantize", "net.tflite", "--data", "data.npz", "--scheme", "int8w4", "--correct", "bias", "-o", "c.tflite")
    assert code == 0 and "corrections: bias, as asked" in err
    code, _, err = run(capsys, "quantize", "net.tflite", "--data", "data.npz", "--scheme", "int8w4", "--correct", "auto", "-o", "c3.tflite")
    assert code == 0 and "held-back samples" in err and "weights" in err
    code, _, err = run(capsys, "quantize", "net.tflite", "--default-range=-4,4", "--correct", "bias", "-o", "c2.tflite")
    assert code == 2 and "--data" in err
