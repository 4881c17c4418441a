"""Recipes: which rule wins, what other tools' files mean; and random ones on random nets, which LiteRT runs and integer mode equals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import small
from nets import Net, random_net, random_range

import calibrate
import qsim
from qsim import recipe as recipes
from qsim.check import check
from qsim.graph import Model
from qsim.layout import layout, tied_edges
from qsim.op import FLAVOURS
from qsim.quantizer import IO_TYPES, quantize
from qsim.recipe import Given, Recipe, Rule, load_recipe, parse_recipe
from qsim.scheme import FLOAT32, INT8, INT16X8, SCHEMES, scheme_named
from qsim.writer import to_bytes

ACTIVATION = {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"}
WEIGHT = {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"}


def foreign(weight=None, data=None, explicit=False, **more):
    """A rule as ai-edge-quantizer writes it."""
    config = {"weight_tensor_config": {**WEIGHT, **(weight or {})}, "compute_precision": "INTEGER", "explicit_dequantize": explicit}
    config |= {"activation_tensor_config": {**ACTIVATION, **data}} if data is not None else {}
    return {"regex": ".*", "operation": "*", "algorithm_key": "min_max_uniform_quantize", "op_config": config, **more}


def two_convs() -> Model:
    net = Net()
    x = net.input(1, 4, 4, 4)
    a = net.conv(x, np.ones((4, 1, 1, 4), np.float32), np.zeros(4, np.float32))
    b = net.conv(a, np.ones((4, 1, 1, 4), np.float32), np.zeros(4, np.float32))
    return net.model(net.one("LOGISTIC", b))


def test_the_last_rule_that_matches_wins():
    model = two_convs()
    names = [recipes.name_of(model.graph, n) for n in model.graph.nodes]
    rules = (Rule(INT8), Rule(INT16X8, op="CONV_2D"), Rule(FLOAT32, regex=f"^{names[1]}$"), Rule(INT8, index=2))
    assert Recipe(rules).schemes(model) == {0: INT16X8, 1: FLOAT32, 2: INT8}
    assert Recipe(rules[1:2]).schemes(model) == {0: INT16X8, 1: INT16X8, 2: FLOAT32}


def test_rules_that_match_nothing_are_told():
    with pytest.raises(qsim.BadRecipe, match="match no op.*inspect"):
        Recipe((Rule(INT8), Rule(FLOAT32, regex="nowhere"))).schemes(two_convs())
    with pytest.raises(qsim.BadRecipe, match="op 99"):
        Recipe((Rule(INT8, index=99),)).schemes(two_convs())


@pytest.mark.parametrize(
    "entry, wanted",
    [
        (foreign(data={}), "int8"),
        (foreign({"num_bits": 4}, {}), "int8w4"),
        (foreign(data={"num_bits": 16, "symmetric": True}), "int16x8"),
        (foreign(), "dynamic8"),
        (foreign({"num_bits": 4}), "dynamic4"),
        (foreign(explicit=True), "weights8"),
        (foreign({"num_bits": 4}, explicit=True), "weights4"),
        (foreign({"num_bits": 16, "dtype": "FLOAT"}, explicit=True, algorithm_key="float_casting"), "float16"),
        ({"regex": ".*", "operation": "*", "algorithm_key": "no_quantize"}, "float32"),
    ],
    ids=lambda e: e if isinstance(e, str) else "",
)
def test_what_other_tools_rules_mean(entry, wanted):
    (rule,) = parse_recipe([entry]).rules
    assert rule.scheme.name == wanted
    assert rule.scheme == replace(SCHEMES[wanted], rounding=rule.scheme.rounding)


def test_another_tools_octav_clips_weights():
    (rule,) = parse_recipe([foreign({"num_bits": 4}, {}, algorithm_key="OCTAV")]).rules
    assert rule.scheme == replace(SCHEMES["int8w4"], rounding="nearest", clip="octav")
    with pytest.raises(qsim.BadRecipe, match="symmetric integer weights"):
        parse_recipe([foreign({"num_bits": 4, "granularity": "BLOCKWISE_32"}, algorithm_key="OCTAV")])


def test_axes_of_other_tools_rules():
    entry = foreign({"granularity": "BLOCKWISE_64", "num_bits": 4})
    entry["op_config"]["min_weight_elements"] = 1024
    (rule,) = parse_recipe([entry]).rules
    assert (rule.scheme.block, rule.scheme.smallest, rule.scheme.rounding) == (64, 1024, "nearest")
    (rule,) = parse_recipe([foreign({"granularity": "TENSORWISE"}, {})]).rules
    assert not rule.scheme.per_channel


def test_a_rule_for_all_ops_replaces_those_of_its_regex_and_borders_have_rules():
    dense = {"regex": ".*", "operation": "FULLY_CONNECTED", "algorithm_key": "no_quantize"}
    found = parse_recipe([dense, foreign(data={}), {**dense, "operation": "OUTPUT"}])
    assert [r.op for r in found.rules] == ["*"] and found.io == ("int8", "float32")


def several_ops() -> Model:
    net = Net()
    x = net.conv(net.input(1, 4, 4, 4), np.ones((4, 1, 1, 4), np.float32))
    x = net.depthwise(x, np.ones((1, 3, 3, 4), np.float32), np.zeros(4, np.float32))
    x = net.one("LEAKY_RELU", net.two("ADD", x, net.one("HARD_SWISH", x)), alpha=0.1)
    return net.model(net.dense(net.reshape(x, 1, 64), np.ones((3, 64), np.float32)))


WHOLE = "int8 int8 int8 int8 float32 int8 int8"  # LEAKY_RELU is none of the tool's ops
CASES = {  # rules of a list: (regex, bits of data, of weights, explicit DEQUANTIZE); what ai-edge-quantizer 0.10.0 takes for each op
    "int8": ([(".*", 8, 8, False)], WHOLE),
    "16 bits": ([(".*", 16, 8, False)], "int16x8 int16x8 float32 int16x8 float32 int16x8 int16x8"),
    "4-bit weights": ([(".*", 8, 4, False)], "int8w4 float32 int8w4 int8w4 float32 int8w4 int8w4"),
    "weights": ([(".*", 32, 8, True)], "weights8 weights8 float32 float32 float32 float32 weights8"),
    "4-bit weights alone": ([(".*", 32, 4, True)], "weights4 float32 float32 float32 float32 float32 weights4"),
    "an earlier rule": ([("x", 8, 8, False), (".*", 32, 4, False)], "dynamic4 int8 int8 int8 float32 int8 dynamic4"),
    "the earlier of two": (
        [("x", 8, 8, False), ("x[0-9]", 32, 8, True), (".*", 32, 4, True)],
        "weights4 weights8 int8 int8 float32 int8 weights4",
    ),
    "one for all replaces those of its regex": (
        [(".*", 8, 8, False), (".*", 32, 4, False)],
        "dynamic4 float32 float32 float32 float32 float32 dynamic4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_list_falls_back_as_ai_edge_quantizer_does(name):
    """A rule that the tool cannot apply to an op leaves it to the rule before."""
    listed, wanted = CASES[name]
    entries = [
        foreign({"num_bits": weights}, {"num_bits": data, "symmetric": data == 16} if data < 32 else None, explicit, regex=regex)
        for regex, data, weights, explicit in listed
    ]
    model = several_ops()
    assert [s.name for s in parse_recipe(entries).schemes(model).values()] == wanted.split()
    last = parse_recipe({"rules": entries}).schemes(model)
    assert len({s.name for s in last.values()}) == 1


def test_a_rule_of_a_list_without_checks_or_with_its_op_is_taken_as_it_stands():
    model = several_ops()
    free, own = foreign({"num_bits": 4}), foreign({"num_bits": 4}, operation="LEAKY_RELU")
    free["op_config"]["skip_checks"] = True
    assert {s.name for s in parse_recipe([free]).schemes(model).values()} == {"dynamic4"}
    assert parse_recipe([own]).schemes(model)[4].name == "dynamic4"
    assert {s.name for s in parse_recipe([{"operation": "*", "scheme": "int8w4"}]).schemes(model).values()} == {"int8w4"}


def test_algorithms_that_are_not_there_are_refused_by_name(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps([foreign(algorithm_key="GPTQ")]))
    with pytest.raises(qsim.BadRecipe, match="rule 1.*GPTQ"):
        load_recipe(path)


def test_toml_says_the_same(tmp_path):
    (tmp_path / "base.json").write_text(json.dumps([foreign(data={})]))
    path = tmp_path / "r.toml"
    path.write_text(
        'default = "base.json"\nio = ["uint8", "float32"]\nignore = ["head"]\n'
        '[[rules]]\nop = "CONV_2D"\nscheme = { base = "int8w4", rounding = "nearest" }\n'
        '[[tensors]]\nname = "x"\nrange = [-1, 2]\n[[tensors]]\nname = "y"\nscale = 0.5\nzero_point = -128\n'
    )
    found = load_recipe(path)
    assert found.io == ("uint8", "float32")
    assert [(r.op, r.regex, r.scheme.weight) for r in found.rules] == [
        ("*", ".*", "int8"),
        ("CONV_2D", ".*", "int4"),
        ("*", "head", "float32"),
    ]
    assert found.tensors == (Given("x", (-1.0, 2.0)), Given("y", None, 0.5, -128))


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"rule": []}', "unknown word.*rule.*default"),
        ('{"rules": [{"scheme": "int9"}]}', "no such scheme.*int9.*int16x8"),
        ('{"rules": [{"scheme": {"bits": 3}}]}', "no such axis.*bits"),
        ('[{"regex": "("}]', "regular expression"),
        ('{"rules": [{"op": "CONV2D", "scheme": "int8"}]}', "rule 1.*no such op; found CONV2D.*Nearest: CONV_2D"),
        ('{"tensors": [{"name": "x"}]}', "range or a scale"),
        ('{"tensors": [{"name": "x", "range": [1]}]}', "pair"),
        ("[", "cannot be read"),
        ("[3]", "table"),
    ],
)
def test_faulty_recipes_are_told_by_entry(tmp_path, text, reason):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(qsim.BadRecipe, match=f"(?s){reason}"):
        load_recipe(path)


def test_a_given_scale_and_zero_point_reach_the_file():
    model = two_convs()
    name = model.graph.key(model.graph.nodes[0].outputs[0])
    ranges = {model.graph.key(t): (-1.0, 1.0) for group in layout(model, INT8).groups for t in group}
    made = quantize(model, ranges, Recipe((Rule(INT8),), (Given(name, None, 0.037, 5),)))
    q = made.graph.tensors[made.graph.find(name)].qparams
    assert (q.scale[0], q.zero_point[0]) == (np.float32(0.037), 5)


def test_a_recipe_s_io_reaches_the_file_and_an_argument_goes_before_it():
    model = two_convs()
    ranges = {model.graph.key(t): (-1.0, 1.0) for group in layout(model, INT8).groups for t in group}
    asked = Recipe((Rule(INT8),), io=("uint8", "int8"))

    def border(scheme, **io) -> tuple[str, str]:
        graph = quantize(model, ranges, scheme, **io).graph
        return graph.tensors[graph.inputs[0]].type, graph.tensors[graph.outputs[0]].type

    assert border(asked) == ("uint8", "int8") == border(INT8, io=("uint8", "int8"))
    assert border(asked, io="float32") == ("float32", "float32") == border(replace(asked, io=None)) == border(INT8)
    assert border(parse_recipe([foreign(data={})])) == ("int8", "int8")
    assert parse_recipe({"rules": [{"scheme": "sim:a4w4"}]}).io is None


def test_ranges_are_chosen_the_same_whatever_io_a_recipe_asks_for():
    model, x = small.float_net(), small.images(48).astype(np.float32) / 255
    found = [calibrate.choose(model, [x], Recipe((Rule(INT8),), io=io))[0] for io in (None, ("uint8", "int8"))]
    assert dict(found[0]) == dict(found[1])
    made = quantize(model, found[1], Recipe((Rule(INT8),), io=("uint8", "int8")))
    assert made.graph.tensors[made.graph.inputs[0]].type == "uint8"


# simulated schemes


@pytest.mark.parametrize("name", ["sim:a4w4", "sim:a6w3", "sim:a8w8", "sim:a12w8", "sim:a16w2"])
def test_simulated_schemes_run_in_fake_mode_and_nowhere_else(name, tmp_path):
    """Values lie on the grid of their bits; ops without an integer kernel take part; no file and no integer mode."""
    model, scheme = small.float_net(), scheme_named(name)
    x = small.images(32).astype(np.float32) / 255
    ranges = calibrate.ranges(model, calibrate.observe(model, [x]), scheme=scheme)
    made = quantize(model, ranges, scheme)
    _, taps = made.function("fake", taps="all").batch(x)
    bits = int(name[5:].partition("w")[0])
    stored = [t for t in made.graph.tensors if t.qparams is not None and not t.is_constant]
    assert stored and {int(t.qparams.high) - int(t.qparams.low) + 1 for t in stored} == {2**bits}
    for t in stored:
        steps = taps[t.index].astype(np.float64) / np.float64(t.qparams.scale[0])
        assert len(np.unique(taps[t.index])) <= 2**bits and np.abs(steps - np.rint(steps)).max() < 1e-3 * 2**bits
    with pytest.raises(qsim.Unsupported, match=f"simulated.*{name}"):
        qsim.save(made, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
    if name not in ("sim:a8w8", "sim:a16w2"):
        with pytest.raises(qsim.Unsupported, match="simulated"):
            made.function("integer")


@pytest.mark.parametrize("name, reason", [("int9", "sim:a4w4"), ("sim:a1w4", "2 to 16"), ("sim:a4w9", "2 to 8"), ("sim:w4", "simulated")])
def test_schemes_that_are_not_there(name, reason):
    with pytest.raises(qsim.BadRecipe, match=reason):
        scheme_named(name)


# random recipes


def random_recipe(model: Model, rng: np.random.Generator) -> dict[int, qsim.Scheme]:
    """A few schemes, spread over the ops; sometimes with one weight scale a tensor."""
    few = rng.choice(sorted(SCHEMES), int(rng.integers(1, 5)))
    found = {n.index: SCHEMES[str(rng.choice(few))] for n in model.graph.nodes}
    found = {i: replace(s, per_channel=False) if rng.random() < 0.2 else s for i, s in found.items()}
    return {i: replace(s, symmetric=False) if s.name.startswith("weights") and rng.random() < 0.5 else s for i, s in found.items()}


def random_case(seed: int, float_ops: bool = True) -> tuple[Model, Model]:
    rng = np.random.default_rng([7, seed])
    model = random_net(rng, int(rng.integers(2, 12)), float_ops)
    schemes = random_recipe(model, rng)
    plan = layout(model, schemes)
    ranges = {model.graph.key(t): random_range(rng) for group in plan.groups for t in group}
    io = tuple(str(rng.choice(IO_TYPES)) for _ in range(2))
    split = [e for e in tied_edges(model.graph, plan) if rng.random() < 0.5]
    try:
        return model, quantize(model, ranges, schemes, io=io, split=split)
    except qsim.Unsupported as reason:
        assert "no op can store its weights" in str(reason)
        return model, model


def stored(model: Model, rng: np.random.Generator, count: int = 3) -> list[np.ndarray]:
    """Random inputs in the types that the model's inputs have."""
    tensors = [model.graph.tensors[i] for i in model.graph.inputs]
    real = [rng.normal(size=(count, *t.shape)) * 10.0 ** rng.integers(-2, 3) for t in tensors]
    ends = [np.iinfo(t.type) if t.type != "float32" else None for t in tensors]
    return [
        x.astype(np.float32) if e is None else rng.integers(e.min, e.max + 1, x.shape).astype(e.dtype)
        for x, e in zip(real, ends, strict=True)
    ]


def test_random_recipes_load_and_run_everywhere(oracle, request, record_property):
    """Every resolver that loads the source loads and runs the result; degenerate weights and ranges included."""
    draws = 20 * request.config.getoption("--draws")
    for seed in range(draws):
        model, made = random_case(seed)
        source, data, inputs = to_bytes(model), to_bytes(made), stored(made, np.random.default_rng(seed))
        assert check(made) == [], seed
        for flavour in FLAVOURS:
            if oracle.loads(source, flavour) is None:
                assert oracle.run(data, inputs, flavour), (seed, flavour)
    record_property("draws", draws)


@pytest.mark.exact
@pytest.mark.parametrize("seed", [0, 1, 3, *(pytest.param(k, marks=pytest.mark.nightly) for k in (2, 4, 5))])
def test_random_recipes_equal_litert(seed, oracle):
    """Every integer of the graph, on LiteRT's own inputs op by op."""
    _, made = random_case(1000 + seed, float_ops=False)
    inputs = stored(made, np.random.default_rng(seed))
    found = qsim.certify(made, inputs, flavours=("xnnpack", "reference"))
    assert all(not sum(t.differing for t in o.per_op) for o in found.flavours.values()), {f: o.cause for f, o in found.flavours.items()}
