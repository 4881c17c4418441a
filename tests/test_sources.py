"""Data of other libraries, by what they can do; tables; folders of arrays; which samples are taken. No library is imported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nets import Net
from small import float_net, images

from calibrate import choose, observe, open_data
from calibrate.data import as_data
from calibrate.feeding import feed, named_ports, ports
from calibrate.sources import kept
from calibrate.splits import three_way
from qsim.errors import BadData

MODEL = float_net()
X, Y = images(20), np.arange(20) % 4


def fed(model, batches):
    parts = [b.arrays for b in feed(model, batches)]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


class TensorFlow:
    """As tf.data.Dataset: iterating it gives tensors, `as_numpy_iterator` arrays."""

    def __init__(self, items):
        self.items = items

    def as_numpy_iterator(self):
        return iter(self.items)

    def __iter__(self):
        raise AssertionError("its elements are tensors")


class HuggingFace:
    """As datasets.Dataset: rows are dicts of Python values."""

    column_names = ["picture", "label"]

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


class Grain:
    """As grain.MapDataset: `[]` and `len`, without an end when iterated; elements are arrays or dicts."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i % len(self.items)]

    def map(self, f):
        return Grain([f(i) for i in self.items])

    batch = map


class Stream:
    """As grain.IterDataset and datasets.IterableDataset: an iterable with map and batch."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)

    def map(self, f):
        return Stream([f(i) for i in self.items])

    batch = map


SETS = {
    "tf.data, single": TensorFlow(list(X)),
    "tf.data, batched": TensorFlow([X[:12], X[12:]]),
    "tf.data, (x, y)": TensorFlow(list(zip(X, Y, strict=True))),
    "tf.data, dicts and y": TensorFlow([({"image": x}, y) for x, y in zip(X, Y, strict=True)]),
    "HuggingFace": HuggingFace([{"picture": x[..., 0].tolist(), "label": int(y)} for x, y in zip(X, Y, strict=True)]),
    "grain": Grain(list(X)),
    "grain, dicts": Grain([{"image": x, "label": y} for x, y in zip(X, Y, strict=True)]),
    "stream": Stream([(x, y) for x, y in zip(X, Y, strict=True)]),
}


@pytest.mark.parametrize("name", SETS)
def test_data_sets_of_other_libraries_are_the_same_samples(name):
    for _ in range(2):  # they can be gone through again
        (x,) = fed(MODEL, SETS[name])
        assert np.array_equal(x, X[:, None])
    data = as_data(MODEL, SETS[name], labels=Y)
    assert len(data) == 20 and np.array_equal(fed(MODEL, data)[0], X[:, None]) and np.array_equal(data.labels, Y)
    assert np.array_equal(fed(MODEL, data.take([3, 1, 2]))[0], X[[3, 1, 2], None])


def test_rows_with_columns_that_no_input_has_are_refused():
    with pytest.raises(BadData, match="names do not match"):
        fed(MODEL, HuggingFace([{"left": X[0], "right": X[0], "label": 1}]))
    with pytest.raises(BadData, match="wrong number of arrays"):
        fed(MODEL, TensorFlow([(X, X, Y)]))


def test_rows_that_a_filter_dropped_are_left_out():
    (x,) = fed(MODEL, Grain([x if k % 3 else None for k, x in enumerate(X)]))
    assert np.array_equal(x[:, 0], X[np.arange(20) % 3 > 0])


def test_single_samples_in_a_list_are_not_guessed():
    with pytest.raises(BadData, match="batch dimension"):
        fed(MODEL, list(X))


def test_rows_of_a_data_set_are_read_when_they_are_asked_for():
    asked = []

    class Watched(Grain):
        def __getitem__(self, i):
            asked.append(i)
            return self.items[i]

    data = as_data(MODEL, Watched(list(X)))
    assert not asked
    data.part(4, 7)
    assert asked == [4, 5, 6]
    with pytest.raises(BadData, match="single samples"):
        as_data(MODEL, Grain([X[:10], X[10:]])).part(0, 2)


# ---------------------------------------------------------------- several inputs, signatures


def two_inputs():
    net = Net()
    a, b = net.input(1, 4), net.input(1, 4)
    net.tensors[a], net.tensors[b] = replace(net.tensors[a], name="left:0"), replace(net.tensors[b], name="right:0")
    model = net.model(net.two("ADD", a, b))
    signature = {**model.signatures[0], "inputs": {"left": a, "right": b}}
    return model.but(signatures=(signature, {**signature, "key": "other", "graph": 1})), (a, b)


PAIR = np.arange(12, dtype=np.float32).reshape(3, 4), -np.arange(12, dtype=np.float32).reshape(3, 4)


def test_inputs_go_by_every_name_they_have(tmp_path):
    model, (a, b) = two_inputs()
    assert set(named_ports(ports(model))) == {"left", "right", "left:0", "right:0", f"t{a}", f"t{b}"}
    for names in (("left", "right"), ("left:0", "right:0"), (f"t{a}", f"t{b}"), ("left", f"t{b}")):
        batch = dict(zip(reversed(names), reversed(PAIR), strict=True))
        np.savez(tmp_path / "d.npz", **{k.replace(":", "_"): v for k, v in batch.items()})
        for form in (batch, [batch], {"serving_default": iter([batch])}, Grain([{k: v[i] for k, v in batch.items()} for i in range(3)])):
            assert all(np.array_equal(x[:, 0], y) for x, y in zip(fed(model, form), PAIR, strict=True))
        if ":0" not in names[0]:
            assert np.array_equal(fed(model, open_data(tmp_path / "d.npz", model))[1][:, 0], PAIR[1])


def test_data_of_another_signature_are_refused():
    model, _ = two_inputs()
    with pytest.raises(BadData, match="model.select"):
        fed(model, {"other": [PAIR]})
    with pytest.raises(BadData, match="left:0, right:0"):
        fed(model, {"wrong": PAIR[0]})


# ---------------------------------------------------------------- data that can be read once


def test_what_can_be_read_once_is_kept_up_to_a_bound():
    assert len(kept(iter([X, X]), 2 * X.nbytes)) == 2
    for batches in (iter([X, {"image": X}]), iter([[X], [X]])):
        with pytest.raises(BadData, match="Give a function"):
            kept(batches, 2 * X.nbytes - 1)


def test_a_function_that_gives_the_same_used_generator_again_is_an_error():
    once = iter([images(40)])
    with pytest.raises(BadData, match="make a new one|another number"):
        choose(MODEL, lambda: once)


# ---------------------------------------------------------------- tables


def table(path, rows, heading="", separator=",", end="\n"):
    lines = [heading] * bool(heading) + [separator.join(str(v) for v in r) for r in rows]
    path.write_bytes((end.join(lines) + end).encode())
    return path


ROWS = X[:5].reshape(5, -1) / 7 - 3.25
NAMES = [f"p{k}" for k in range(64)]


@pytest.mark.parametrize("separator, end", [(",", "\n"), (";", "\r\n"), ("\t", "\n\n")])
def test_a_table_is_a_sample_a_row(tmp_path, separator, end):
    bare = open_data(table(tmp_path / "a.csv", ROWS, "", separator, end), MODEL)
    assert len(bare) == 5 and bare.labels is None and np.array_equal(fed(MODEL, bare)[0].reshape(5, 64), ROWS.astype(np.float32))
    rows = [[k % 3, *r] for k, r in enumerate(ROWS)]
    named = open_data(table(tmp_path / "b.csv", rows, separator.join(["Label", *NAMES]), separator, end), MODEL)
    assert named.labels.tolist() == [0, 1, 2, 0, 1] and named.labels.dtype.kind == "i"
    assert np.array_equal(fed(MODEL, named.take([4, 0]))[0].reshape(2, 64), ROWS[[4, 0]].astype(np.float32))


def test_a_table_has_labels_and_groups_by_name(tmp_path):
    rows = [[f"take {k // 2}", *r, k + 0.5] for k, r in enumerate(ROWS)]
    path = table(tmp_path / "a.csv", rows, ",".join(["recording", *NAMES, "target"]))
    data = open_data(path, MODEL, groups="recording", label="target")
    assert data.labels.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5] and data.groups.tolist() == ["take 0", "take 0", "take 1", "take 1", "take 2"]
    assert three_way(MODEL, data).words.startswith("5 samples in 3 groups")


def test_integer_inputs_take_integers_from_a_table(tmp_path):
    net = Net()
    tokens = net.tensor((1, 3), "tokens", "int32")
    net.inputs.append(tokens)
    model = net.model(net.op("ADD", [tokens, net.constant([1, 2, 3], "int32")], (1, 3), kind="int32"))
    assert open_data(table(tmp_path / "a.csv", [[1, 2, 3]]), model).part(0, 1)[0].tolist() == [[[1, 2, 3]]]
    with pytest.raises(BadData, match="not an integer.*1.5"):
        open_data(table(tmp_path / "b.csv", [[1, 2, 1.5]]), model).part(0, 1)


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "no rows"),
        (b"a,b\n", "heading and no rows"),
        (b"1,2\n", "columns do not fill.*found 2; expected 64"),
        (b",".join([b"1"] * 65), "Name the label column"),
        (b",".join([b"1"] * 64) + b"\n1,2\n", "row 1.*different lengths"),
        (b",".join([b"1"] * 64) + b"\n" + b",".join([b"1"] * 63 + [b"x"]), "row 1, column 63: not a number; found 'x'"),
        (b",".join([b"1"] * 64) + b"\n" + b",".join([b"1"] * 63 + [b""]), "not a number"),
        (b"\xff\xfe1,2\n", "not a table"),
    ],
)
def test_tables_that_do_not_fit_are_named(tmp_path, content, text):
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(BadData, match=text) as caught:
        fed(MODEL, open_data(tmp_path / "d.csv", MODEL))
    assert "d.csv" in str(caught.value)
    with pytest.raises(BadData, match="absent.csv"):
        open_data(tmp_path / "absent.csv", MODEL)


# ---------------------------------------------------------------- folders of arrays, groups, picks


def test_a_folder_of_arrays_is_their_samples_and_each_file_a_group(tmp_path):
    np.save(tmp_path / "b.npy", X[3:9])
    np.save(tmp_path / "a.npy", X[:3])
    np.savez(tmp_path / "c.npz", x=X[9:])
    data = open_data(tmp_path, MODEL)
    assert len(data) == 20 and data.groups.tolist() == [0] * 3 + [1] * 6 + [2] * 11
    assert all(np.array_equal(data.part(i, j)[0], X[i:j]) for i, j in [(0, 20), (2, 10), (9, 9), (3, 9), (19, 20)])
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    with pytest.raises(BadData, match="some files have labels"):
        open_data(tmp_path, MODEL)


def test_groups_are_an_array_or_samples_in_a_row(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y, take=Y * 10)
    assert open_data(tmp_path / "d.npz", MODEL, groups="take").groups.tolist() == (Y * 10).tolist()
    assert open_data(tmp_path / "d.npz", MODEL, groups=3, limit=7).groups.tolist() == [0, 0, 0, 1, 1, 1, 2]
    for key in ("takes", "x"):
        with pytest.raises(BadData, match=f"no array '{key}'|no array for"):
            open_data(tmp_path / "d.npz", MODEL, groups=key)


def test_a_seed_says_which_samples_the_limit_takes(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(20))
    first, again, other = (open_data(tmp_path / "d.npz", MODEL, limit=6, shuffle=s, groups=2) for s in (0, 0, 1))
    assert first.labels.tolist() == again.labels.tolist() != other.labels.tolist() and len(set(first.labels.tolist())) == 6
    assert np.array_equal(fed(MODEL, first)[0][:, 0], X[first.labels]) and np.array_equal(first.groups, first.labels // 2)
    assert sorted(open_data(tmp_path / "d.npz", MODEL, shuffle=3).labels.tolist()) == list(range(20))
    assert observe(MODEL, open_data(tmp_path / "d.npz", MODEL, shuffle=3)) == observe(MODEL, X)


@pytest.mark.parametrize("batches", [X, [X[:7], X[7:]], (x[None] for x in X), {"image": X}, lambda: iter([X]), [[X]]])
def test_any_data_can_be_read_in_parts(batches):
    data = as_data(MODEL, batches, labels=Y, groups=Y)
    assert np.array_equal(fed(MODEL, data)[0][:, 0], X) and as_data(MODEL, data) is data
    assert len(three_way(MODEL, data, (1, 1, 2)).test.groups) == 10
    with pytest.raises(BadData, match="one a sample"):
        as_data(MODEL, X, labels=Y[:3])
