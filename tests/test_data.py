"""Data on disk: what comes out is what went in, mapped or decoded; what cannot be used is named."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from small import float_net, images

from calibrate import open_data
from calibrate.arrayfiles import read_arrays
from calibrate.feeding import Port, Scaling, admit, declared, feed, finite, ports
from calibrate.images import decode
from qsim.errors import BadData, BadRange

MODEL = float_net()
X = images(20)
Y = np.arange(20) % 4


def read_all(data):
    return np.concatenate([arrays[0] for arrays in data])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
@pytest.mark.parametrize("key", ["x", "image", "t0", "pictures"])
def test_npz_gives_samples_and_labels(tmp_path, save, key):
    save(tmp_path / "d.npz", **{key: X, "y": Y})
    data = open_data(tmp_path / "d.npz", MODEL)
    assert len(data) == 20 and np.array_equal(read_all(data), X) and np.array_equal(read_all(data), X)
    assert np.array_equal(data.labels, Y)


def test_uncompressed_arrays_are_mapped_not_read(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    np.save(tmp_path / "d.npy", X)
    for array in (read_arrays(tmp_path / "d.npz")["x"], read_arrays(tmp_path / "d.npy")["x"]):
        assert isinstance(array, np.memmap) and np.array_equal(array, X)


def test_fortran_order_and_zero_dimensions_survive(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.asfortranarray(X), scale=np.float32(2))
    found = read_arrays(tmp_path / "d.npz")
    assert np.array_equal(found["x"], X) and found["scale"].shape == () and found["scale"] == 2


def test_limit_takes_the_first(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    data = open_data(tmp_path / "d.npz", MODEL, limit=3)
    assert np.array_equal(read_all(data), X[:3]) and np.array_equal(data.labels, Y[:3])
    with pytest.raises(BadData, match="limit"):
        open_data(tmp_path / "d.npz", MODEL, limit=0)


def test_pairs_are_scaled_in_float32(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    (inputs, labels), *rest = open_data(tmp_path / "d.npz", MODEL, input_scale=1 / 255, input_offset=-0.5).pairs()
    wanted = np.float32(1 / 255) * X.astype(np.float32) + np.float32(-0.5)
    assert not rest and np.array_equal(labels, Y) and np.array_equal(inputs[0], wanted.reshape(20, 1, 8, 8, 1))


@pytest.mark.parametrize(
    "arrays, text",
    [
        ({"a": X, "b": X}, "no array for image"),
        ({"x": X[:0]}, "no samples"),
        ({"x": X, "y": Y[:3]}, "fewer labels"),
        ({"x": X[:, :4]}, "wrong shape"),
        ({"x": X[..., 0]}, r"x\[..., None\]"),
        ({"x": X[0]}, "wrong shape"),
        ({"x": X.astype(str)}, "not numbers|wrong type"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, arrays, text):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(BadData, match=text) as caught:
        open_data(tmp_path / "d.npz", MODEL)
    assert "d.npz" in str(caught.value)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{}, 1], object))
    np.save(tmp_path / "d.npy", np.array([{}, 1], object))
    for name in ("d.npz", "d.npy"):
        with pytest.raises(BadData):
            open_data(tmp_path / name, MODEL)


def header(shape, dtype="|u1"):
    f = io.BytesIO()
    np.lib.format.write_array_header_1_0(f, {"descr": dtype, "fortran_order": False, "shape": shape})
    return f.getvalue()


@pytest.mark.parametrize(
    "shape, text", [((1 << 40, 8, 8, 1), "too large"), ((1 << 27, 8, 8, 1), "too large.*uncompressed"), ((50, 8, 8, 1), "does not match")]
)
def test_sizes_are_checked_before_anything_is_unpacked(tmp_path, shape, text):
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x.npy", header(shape) + bytes(100))
    with pytest.raises(BadData, match=text):
        open_data(tmp_path / "d.npz", MODEL)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"not a zip", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("name", ["d.npz", "d.npy"])
def test_damaged_files_are_one_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData):
        open_data(tmp_path / name, MODEL)
    with pytest.raises(BadData, match="absent"):
        open_data(tmp_path / "absent.npz", MODEL)


# ---------------------------------------------------------------- images


@pytest.fixture
def folder(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    for k in range(5):
        image.fromarray(X[k, ..., 0]).save(tmp_path / f"{'edcba'[k]}.png")
    return tmp_path


def test_a_folder_is_sorted_by_name(folder):
    data = open_data(folder, MODEL)
    assert np.array_equal(read_all(data), X[:5][::-1]) and data.labels is None


def test_labels_follow_the_names(folder):
    (folder / "labels.csv").write_text("file,class\n" + "".join(f"{'edcba'[k]}.png,{k}\n" for k in range(5)))
    data = open_data(folder, MODEL, limit=4)
    assert data.labels.tolist() == [4, 3, 2, 1] and data.labels.dtype.kind == "i"


@pytest.mark.parametrize(
    "table, text", [("a.png,1\n", "without label: b.png"), ("x.png,1\n", "without image: x.png"), ("a.png,1\nb.png,two\n", "row 2")]
)
def test_labels_that_do_not_match_are_named(folder, table, text):
    (folder / "labels.csv").write_text(table)
    with pytest.raises(BadData, match=text):
        open_data(folder, MODEL)


def test_other_files_are_refused_or_skipped_and_listed(folder):
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(BadData, match="notes.txt"):
        open_data(folder, MODEL)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    data = open_data(folder, MODEL, skip_bad=True)
    assert len(data) == 5 and set(data.skipped) == {"notes.txt", "broken.png"}


def test_broken_images_are_named(folder):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    with pytest.raises(BadData, match="broken.png"):
        read_all(open_data(folder, MODEL))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1"])
def test_every_common_mode_converts(tmp_path, mode):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    source = image.fromarray(np.repeat(X[0], 3, axis=2)).convert(mode)
    source.save(tmp_path / f"i.{'tif' if mode == 'CMYK' else 'png'}")
    path = next(tmp_path.iterdir())
    assert np.array_equal(decode(path, 8, 8, 3), np.asarray(source.convert("RGB")))
    assert decode(path, 4, 6, 1).shape == (4, 6, 1)


def test_sixteen_bits_are_refused(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "i.png")
    with pytest.raises(BadData, match="8 bits"):
        decode(tmp_path / "i.png", 8, 8, 1)


# ---------------------------------------------------------------- feeding


@pytest.mark.parametrize(
    "batches",
    [
        X, [X], [X[:7], X[7:]], {"image": X}, {"t0": X}, [{"image": X}], [[X]], (X[k : k + 1] for k in range(20)),
        [X[:, None]], lambda: ([x[None]] for x in X), [np.asarray(X.tolist())],
    ],
)  # fmt: skip
def test_all_forms_of_data_are_the_same_samples(batches):
    fed = list(feed(MODEL, batches))
    x = np.concatenate([b.arrays[0] for b in fed])
    assert x.dtype == np.float32 and np.array_equal(x, X.reshape(20, 1, 8, 8, 1))


@pytest.mark.parametrize(
    "batches, text",
    [
        ([], "no samples"), (iter([]), "no samples"), ("x.npz", "open_data"), (5, "not data"), ([(X, X)], "number of arrays"),
        ({"img": X}, "names do not match"), ([X.astype(complex)], "not numbers"), ([X[:, :, :, [0, 0]]], "wrong shape"),
        ([X[0]], "batch dimension"),
        ([np.full((1, 8, 8, 1), 2**24 + 1)], "float32 cannot hold"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused(batches, text):
    with pytest.raises(BadData, match=text):
        list(feed(MODEL, batches))


def test_a_used_generator_is_an_error_not_an_empty_set():
    batches = iter([X])
    list(feed(MODEL, batches))
    with pytest.raises(BadData, match="used before"):
        list(feed(MODEL, batches))


def test_integer_inputs_take_only_integers_that_fit():
    port = Port(0, "tokens", (1, 3), np.dtype(np.int32))
    assert admit(port, np.array([[1, 2, 3]], np.int64), Scaling(), "").dtype == np.int32
    for bad in (np.array([[1, 2, 2**40]]), np.array([[1.0, 2, 3]])):
        with pytest.raises(BadData):
            admit(port, bad, Scaling(), "")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_sample_and_input_or_are_left_out(value):
    x = X.astype(np.float32)
    x[13, 2, 2] = value
    (batch,) = feed(MODEL, x)
    with pytest.raises(BadData, match="sample 113, input 'image'"):
        finite(batch, ports(MODEL), 100, "raise")
    rest, left_out = finite(batch, ports(MODEL), 0, "skip")
    assert left_out == 1 and np.array_equal(rest.arrays[0][:, 0], np.delete(x, 13, axis=0))


def test_domains_of_integer_data():
    assert Scaling().domain(np.dtype(np.uint8)).low == 0 and Scaling().domain(np.dtype(np.uint8)).high == 255
    d = Scaling(-1 / 128, 0.5).domain(np.dtype(np.int8))
    assert (d.low, d.high) == (0.5 - 127 / 128, 1.5) and "int8" in d.words
    assert Scaling().domain(np.dtype(np.int32)) is None and Scaling().domain(np.dtype(np.float32)) is None


def test_declared_ranges_are_checked():
    assert declared(MODEL, (0, 1)) == declared(MODEL, {"image": (0, 1)}) == {0: (0.0, 1.0)}
    for bad in ((1, 0), (0, np.nan), (0, 0), {"hidden": (0, 1)}, {"imag": (0, 1)}):
        with pytest.raises(BadRange):
            declared(MODEL, bad)
