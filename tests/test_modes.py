"""What the three modes promise beside LiteRT's integers: float close to LiteRT's float kernels, fake a faithful simulation with usable
gradients, and one result whichever way a function is called."""

from __future__ import annotations

import json
import zlib

import domains
import fake_distance
import generate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recurrent
import sharing

from qsim.errors import Unsupported
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.op import FLAVOURS
from qsim.ops import REGISTRY
from qsim.writer import to_bytes

FIRST = [r for r in generate.rows(REGISTRY, variants=1) if r.number == 0]
INT8 = [r for r in FIRST if r.types[0][0] in ("int8", "float32") and r.types[1][0] in ("int8", "float32", "int32")]
XNNPACK = [r for r in INT8 if r.flavour == "xnnpack"]
RANGED = [
    r
    for r in fake_distance.rows(variants=1)
    if r.flavour == ("xnnpack" if r.op.name in domains.NO_REFERENCE else "reference")
    and (r.types[1] == ("int8",) or (r.number == 0 and r.op.name not in generate.COPIES))
]
DISTANCE = fake_distance.Distance()


def ids(rows):
    return [pytest.param(r, id=str(r)) for r in rows]


# float ---------------------------------------------------------------


FLOATS = list(generate.float_rows(REGISTRY, "xnnpack"))
WRONG = {"LOCAL_RESPONSE_NORMALIZATION": "the reference kernel leaves out the last channel of the neighbourhood"}


@pytest.mark.parametrize("row", ids(FLOATS))
def test_float_mode_is_close_to_litert(row, oracle):
    """Within 1e-6 of the largest value (at least 2: sums are larger than what a clamp leaves of them), in every flavour."""
    without = "reference" if row.op.name in {*domains.NO_REFERENCE, *WRONG} else ""
    _close(generate.float_trial(row, 0), oracle, [f for f in FLAVOURS if f != without])


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, id=str(r), marks=pytest.mark.xfail(strict=True, reason=WRONG[r.op.name])) for r in FLOATS if r.op.name in WRONG],
)
def test_float_mode_is_close_to_the_reference_kernels_that_are_wrong(row, oracle):
    _close(generate.float_trial(row, 0), oracle, ["reference"])


def _close(trial, oracle, flavours):
    data, ours = to_bytes(trial.model), build(trial.model, "float").batch(*trial.inputs)
    for flavour in flavours:
        theirs = oracle.run(data, trial.inputs, flavour)
        for t, mine in zip(trial.model.graph.outputs, ours, strict=True):
            assert (mine.shape, mine.dtype) == (theirs[t].shape, theirs[t].dtype), flavour
            assert np.abs(mine - theirs[t]).max() <= 1e-6 * max(2.0, np.abs(theirs[t]).max()), flavour


@pytest.mark.parametrize("row", ids(generate.number_rows(REGISTRY)))
def test_numbers_of_other_types_are_as_litert_has_them(row, oracle):
    """float16 within 4e-3 of the largest value (XNNPACK computes some ops in it); whole numbers and bool equal, in every flavour."""
    trial = generate.float_trial(row, 0)
    data, ours = to_bytes(trial.model), build(trial.model, "float").batch(*trial.inputs)
    for flavour in FLAVOURS if row.flavour == "reference" else (row.flavour,):
        theirs = oracle.run(data, trial.inputs, flavour)
        for t, mine in zip(trial.model.graph.outputs, ours, strict=True):
            assert (mine.shape, mine.dtype) == (theirs[t].shape, theirs[t].dtype), flavour
            if mine.dtype != np.float16:
                assert np.array_equal(mine, theirs[t]), flavour
            else:
                apart = np.abs(mine.astype(np.float32) - theirs[t].astype(np.float32))
                assert apart.max() <= 4e-3 * max(1.0, np.abs(theirs[t].astype(np.float32)).max()), flavour


# fake ----------------------------------------------------------------


@pytest.mark.parametrize("row", ids(RANGED))
def test_fake_mode_is_within_a_step_of_integer_mode(row):
    """The real function on snapped values, snapped, lies within one output step of the integers (with exceptions, see there)."""
    trial = generate.trial(row, 0)
    found = DISTANCE(trial, [row.flavour])[row.flavour]
    assert found.max() <= fake_distance.bound(row.op.name, row.types), f"{trial}\n{generate.describe(trial)}"


def test_the_measured_distances_keep_the_bounds():
    """Those of ties, saturated results and scales at the limits of the kernels too."""
    found = json.loads(fake_distance.RESULTS.read_text())["rows"]
    far = [r for r in found if r["max"] > fake_distance.bound(r["op"], fake_distance.parsed(r["types"]))]
    assert found and not far


INNER = (
    recurrent.Form(),
    recurrent.Form(cifg=True, peephole=True, major=True, clip=True),
    recurrent.Form(outputs=4, projection="bias", clip=True),
    recurrent.Form(norm=True),
)


@pytest.mark.parametrize("form", INNER, ids=str)
def test_fake_mode_snaps_what_is_inside_an_lstm(form):
    """A sequence of invocations stays within a few output steps of the integer kernel, a tenth of one on average; layer normalization
    of sums that hardly vary leaves it (the kernel cuts a variance to a whole number)."""
    model, codes, _ = recurrent.integer_lstm(form, 0)
    x, y = (model.graph.tensors[t] for t in (model.graph.inputs[0], model.graph.outputs[0]))
    fake = model.function("fake")
    assert {t.index for t in model.graph.tensors if t.is_variable} <= set(fake.params["qparams"])
    steps = np.rint(fake.sequence(sharing.real(codes, x))[0] / y.qparams.scale[0]) + y.qparams.zero_point[0]
    apart = np.abs(steps - model.function("integer", "reference").sequence(codes)[0])
    assert np.quantile(apart, 0.95 if form.norm else 1) <= 3 and apart.mean() <= (0.5 if form.norm else 0.1)


@pytest.mark.parametrize("row", ids([r for r in XNNPACK if r.types[0][0] == r.types[1][0] == "int8" and r.op.name not in domains.STORED]))
def test_fake_gradients_are_finite_and_not_all_zero(row):
    """With respect to the data, the constants and every scale, on random codes of four draws."""
    found = []
    for draw in (0, 4, 8, 12):
        trial = generate.trial(row, draw)
        fn = build(trial.model, "fake")
        reals = [sharing.real(x[5], trial.model.graph.tensors[t]) for x, t in zip(trial.inputs, trial.model.graph.inputs, strict=True)]
        found += jax.tree.leaves(_gradients(fn, reals))
    assert all(bool(jnp.isfinite(g).all()) for g in found)
    assert any(bool((g != 0).any()) for g in found)


def _gradients(fn, reals):
    """Of the sum of squared outputs with respect to (float constants, scales, data)."""
    constants, qparams = fn.params["constants"], fn.params["qparams"]
    floats = {t: c for t, c in constants.items() if c.dtype == jnp.float32}

    def loss(floats, scales, xs):
        moved = {t: QParams(scales[t], q.zero_point, q.low, q.high, q.axis) for t, q in qparams.items()}
        outputs = fn.apply({"constants": {**constants, **floats}, "qparams": moved}, *xs)
        return sum(jnp.sum(jnp.square(y)) for y in outputs if y.dtype == jnp.float32)

    scales = {t: q.scale for t, q in qparams.items()}
    return jax.grad(loss, argnums=(0, 1, 2))(floats, scales, tuple(map(jnp.asarray, reals)))


def reshaped(scale: float, zero: int) -> Model:
    """int8 RESHAPE, (1, 6) to (1, 2, 3), of one scale and zero point."""
    q = QParams(np.array([scale], np.float32), np.array([zero]), -128, 127)
    shape = Tensor(1, "shape", (3,), "int32", data=np.array([1, 2, 3], np.int32))
    tensors = (Tensor(0, "x", (1, 6), "int8", q), shape, Tensor(2, "y", (1, 2, 3), "int8", q))
    return Model((Graph(tensors, (Node(0, "RESHAPE", (0, 1), (2,), Options(new_shape=(1, 2, 3))),), (0,), (2,)),))


def test_a_quantized_constant_keeps_its_codes_on_the_way_to_an_op():
    """A reshaped int8 constant is no host value: integer mode carries its codes, float and fake mode its reals."""
    codes = np.array([[100, -100, 5, 1, 2, 3]], np.int8)
    model = reshaped(0.1, 5)
    graph = model.graph
    constant = graph.tensors[0].but(data=codes)
    model = model.but(graphs=(graph.but(tensors=(constant, *graph.tensors[1:]), inputs=()),))
    assert np.array_equal(build(model, "integer")()[0].reshape(-1), codes[0])
    for mode in ("float", "fake"):
        assert np.allclose(build(model, mode)()[0].reshape(-1), (codes[0].astype(np.int64) - 5) * 0.1, rtol=1e-6)


def test_the_gradient_is_straight_through_inside_the_range_and_zero_outside():
    fn = build(reshaped(0.5, 10), "fake")  # reals from -69 to 58.5
    x = np.array([[-80.0, -68.9, -0.3, 0.26, 58.4, 70.0]], np.float32)
    grad = jax.grad(lambda v: jnp.sum(fn.apply(fn.params, v)[0] * 3))(x)
    assert np.array_equal(grad, [[0, 3, 3, 3, 3, 0]])
    assert np.array_equal(fn(x)[0].reshape(-1), [-69.0, -69.0, -0.5, 0.5, 58.5, 58.5])


def test_the_gradient_of_a_scale_is_the_rounding_error_inside_and_the_end_outside():
    fn = build(reshaped(0.5, 10), "fake")
    q = fn.params["qparams"][0]

    def total(scale, x):
        snapped = {0: QParams(scale, q.zero_point, q.low, q.high, q.axis)}
        return jnp.sum(fn.apply({**fn.params, "qparams": snapped}, x)[0])

    for value, wanted in ((0.3, 1 - 0.6), (-80.0, -138.0), (70.0, 117.0)):
        x = np.full((1, 6), value, np.float32)
        assert np.allclose(jax.grad(total)(q.scale, x), 6 * wanted, rtol=1e-5)


# one result, however it is called ------------------------------------


def one_each() -> list[generate.Row]:
    """A row of each op and types with codes or reals (of each copying op), in one of its flavours."""
    chosen = {}
    for row in sorted(FIRST, key=lambda r: zlib.crc32(str(r).encode())):
        if any(t in (*domains.QUANTIZED, "float32") for side in row.types for t in side):
            chosen.setdefault((row.op.name, "" if row.op.name in generate.COPIES else row.types), row)
    return sorted(chosen.values(), key=str)


def some_daily(rows: list[generate.Row]) -> list:
    """The rows as parameters: the first of each op runs always, its other types by night."""
    first = {r.op.name: str(r) for r in reversed(rows)}
    return [pytest.param(r, id=str(r), marks=() if first[r.op.name] == str(r) else pytest.mark.nightly) for r in rows]


@pytest.mark.parametrize("row", some_daily(one_each()))
def test_integers_are_the_same_however_they_are_computed(row):
    """64 samples, one of them in a batch of its own and alone, not jitted, and with x64 on: every bit, float outputs included."""
    trial = generate.trial(row, 2)
    fn = trial.model.function("integer", row.flavour)
    many = [np.concatenate([x] * 11)[:64] for x in trial.inputs]
    batched = [b[4] for b in fn.batch(*many)]
    sample = [x[4] for x in trial.inputs]
    _same(batched, [b[0] for b in fn.batch(*(x[None] for x in sample))])
    _same(batched, fn(*sample))
    with jax.disable_jit():
        _same(batched, fn._leave(fn.apply(fn.params, *map(jnp.asarray, sample))))
    with jax.enable_x64(True):
        _same(batched, trial.model.function("integer", row.flavour)(*sample))


def _same(mine, theirs) -> None:
    for a, b in zip(mine, theirs, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _one_type(row) -> bool:
    return row.types == (("int8",) * len(row.types[0]), ("int8",)) or ("CONV" in row.op.name and row.types[1] == ("int8",))


@pytest.mark.parametrize("mode", ["integer", "fake"])
@pytest.mark.parametrize("row", ids([r for r in XNNPACK if r.op.name not in domains.STORED and _one_type(r)]))
def test_stacked_parameters_give_what_separate_runs_give(row, mode):
    trials = [generate.trial(row, d) for d in range(0, 32, 4)]
    fn = build(trials[0].model, mode)
    params = [p for t in trials if (p := _lowered(fn, t.model)) is not None and _form(p) == _form(fn.params)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    inputs = [jnp.asarray(x[2]) if mode == "integer" else jnp.asarray(x[2], np.float32) / 16 for x in trials[0].inputs]
    together = jax.jit(jax.vmap(fn.apply, in_axes=(0, *[None] * len(inputs)), axis_size=len(params)))(stacked, *inputs)
    assert len(params) > 1
    for n, p in enumerate(params):
        for whole, one in zip(together, fn.jitted(p, *inputs), strict=True):
            if mode == "integer":
                assert np.array_equal(whole[n], one)
            else:
                y, both = p["qparams"][fn.graph.outputs[0]], ~(np.isnan(whole[n]) & np.isnan(one))  # 0 / 0
                apart = np.abs(np.asarray(whole[n] - one))[both]
                assert apart.max(initial=0) <= float(y.scale[0]) * 1.001  # a sum in another order, rounded


def _lowered(fn, model: Model):
    try:
        return fn.lower(model)
    except Unsupported:  # another static plan: a compile of its own
        return None


def _form(params) -> list:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params)]


def test_a_second_model_of_the_same_structure_is_not_compiled_again():
    row = next(r for r in XNNPACK if r.op.name == "CONV_2D")
    trials = [generate.trial(row, d) for d in (0, 4)]
    fn = trials[0].model.function()
    traces = 0
    run = fn.apply

    def counted(*args):
        nonlocal traces
        traces += 1
        return run(*args)

    jitted = jax.jit(counted)
    for t in trials:
        jitted(fn.lower(t.model), *(x[0] for x in t.inputs))
    assert traces == 1


def test_what_a_batch_prepares_follows_the_params():
    """Weights are laid out once per set of params; other params, numpy arrays changed in place and other micro-batches are seen."""
    import small

    fn, x = build(small.float_net(), "float"), small.images(5).astype(np.float32) / 255
    x = x.reshape(5, *fn.graph.tensors[fn.graph.inputs[0]].shape)
    one = fn.batch(x)[0]
    doubled = jax.tree.map(lambda v: v * 2, fn.params)
    two = fn.run_samples(doubled, x)[0]
    assert np.array_equal(fn.batch(x)[0], one) and not np.array_equal(one, two)
    mutable = jax.tree.map(np.array, fn.params)
    assert np.array_equal(fn.run_samples(mutable, x)[0], one)
    for v in jax.tree.leaves(mutable):
        v *= 2
    assert np.array_equal(fn.run_samples(mutable, x)[0], two)
    fn.micro_batch = 3
    assert np.allclose(fn.batch(x)[0], one, atol=1e-5)


def test_flavours_that_run_the_same_code_share_a_compile():
    model = reshaped(0.5, 10)
    one, other = build(model, "integer", "xnnpack"), build(model, "integer", "reference")
    assert other.reuse(one) and other.jitted is one.jitted
    assert not build(model, "fake").reuse(build(model, "float"))
    trial = generate.trial(next(r for r in FIRST if r.op.name == "ADD" and r.types[0] == ("int8", "int8")), 0)
    ours, theirs = (build(trial.model, "integer", f) for f in ("xnnpack", "reference"))
    assert not ours.reuse(theirs)


def _bare(op: str, options: dict) -> Model:
    """One op of two int8 tensors without parameters."""
    tensors = tuple(Tensor(i, name, (2, 3), "int8") for i, name in enumerate("xzy"))
    count = 2 if op in ("MUL", "MAXIMUM") else 1
    return Model((Graph(tensors, (Node(0, op, tuple(range(count)), (2,), Options(options)),), tuple(range(count)), (2,)),))


@pytest.mark.parametrize("op, options", [("MUL", {"fused_activation_function": "NONE"}), ("LOGISTIC", {})])
def test_codes_without_parameters_are_refused_by_kernels_that_read_them(op, options):
    with pytest.raises(Unsupported, match="no quantization parameters"):
        build(_bare(op, options), "integer")


@pytest.mark.parametrize("op, options", [("MAXIMUM", {}), ("RESHAPE", {"new_shape": (2, 3)})])
def test_codes_without_parameters_are_moved(op, options, oracle):
    model, rng = _bare(op, options), np.random.default_rng(3)
    data = [rng.integers(-128, 128, (4, 2, 3)).astype(np.int8) for _ in model.graph.inputs]
    theirs = oracle.run(to_bytes(model), data, "reference")[2]
    assert np.array_equal(build(model, "integer", "reference").batch(*data)[0], theirs)
