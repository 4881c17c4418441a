"""Calibrate, select, test: no sample in two of them, whole groups, the same whatever the order; leaks stop the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small import float_net, images

from calibrate import observe, open_data
from calibrate.splits import PARTS, contents, deal, given_splits, require_disjoint, split, three_way, units
from qsim.errors import BadData

MODEL = float_net()
X, Y = images(100), np.arange(100) % 4
HASHES = contents(MODEL, X)


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    return open_data(tmp_path / "d.npz", MODEL)


def read_all(data):
    return np.concatenate([arrays[0] for arrays in data])


@pytest.mark.parametrize("parts, sizes", [((0.6, 0.2, 0.2), (60, 20, 20)), ((8, 1, 1), (80, 10, 10)), ((1, 0, 1), (50, 0, 50))])
def test_parts_have_their_shares(parts, sizes):
    assert tuple(np.bincount(split(HASHES, parts=parts), minlength=3)) == sizes


@pytest.mark.parametrize("seed", [0, 1])
def test_the_split_follows_the_content_not_the_order(seed):
    order = np.random.default_rng(0).permutation(100)
    assert np.array_equal(split([HASHES[k] for k in order], seed=seed), split(HASHES, seed=seed)[order])


def test_another_seed_is_another_split():
    assert len({split(HASHES, seed=s).tobytes() for s in range(20)}) == 20


@pytest.mark.parametrize("size", [1, 3, 10])
def test_groups_stay_whole(size):
    groups = np.arange(100) // size
    part = split(HASHES, groups)
    assert all(len(set(part[groups == g])) == 1 for g in groups)
    assert np.abs(np.bincount(part) - [60, 20, 20]).max() <= size


def test_equal_samples_and_all_that_is_grouped_with_them_stay_together():
    hashes = [1, 2, 3, 1, 4, 5, 6, 7]
    assert sorted(map(sorted, units(hashes, np.array([0, 0, 1, 2, 2, 3, 4, 5])))) == [[0, 1, 3, 4], [2], [5], [6], [7]]
    part = split(hashes * 3)
    assert np.array_equal(part[:8], part[8:16]) and np.array_equal(part[:8], part[16:]) and part[0] == part[3]


@pytest.mark.parametrize("hashes, groups", [([5] * 10, None), ([1, 2], None), (range(9), [0] * 9), ([], None)])
def test_too_few_groups_are_an_error(hashes, groups):
    with pytest.raises(BadData, match="too few groups to split: nothing is left for .*test"):
        split(hashes, groups)


@pytest.mark.parametrize("parts", [(0, 0, 0), (0.5, 0.5), (1, -1, 1), (np.nan, 1, 1)])
def test_shares_that_mean_nothing_are_refused(parts):
    with pytest.raises(BadData, match="three numbers"):
        split(HASHES, parts=parts)


def test_dealing_keeps_to_the_shares_at_every_prefix():
    part = deal([[k] for k in range(1000)], (0.6, 0.2, 0.2))
    for n in range(10, 1000, 7):
        assert np.abs(np.bincount(part[:n]) / n - [0.6, 0.2, 0.2]).max() <= 2 / n


# ---------------------------------------------------------------- data


def test_three_way_gives_data_with_their_labels(data):
    found = three_way(MODEL, data)
    whole = np.zeros(100, int)
    for k, name in enumerate(PARTS):
        part, rows = getattr(found, name), np.flatnonzero(found.part == k)
        assert np.array_equal(read_all(part), X[rows]) and np.array_equal(part.labels, Y[rows]) and name in part.where
        whole[rows] += 1
    assert (whole == 1).all() and found.words == "100 samples: 60 to calibrate, 20 to select, 20 to test (seed 0)"
    assert observe(MODEL, found.calibrate) == observe(MODEL, X[found.part == 0])
    (inputs, labels), *_ = found.test.pairs()
    assert np.array_equal(inputs[0][:, 0], X[found.part == 2]) and np.array_equal(labels, Y[found.part == 2])


@pytest.mark.parametrize("how", [{"blocks": 5}, {"groups": np.repeat([f"f{k}" for k in range(20)], 5)}])
def test_files_and_blocks_are_units(data, how):
    found = three_way(MODEL, data, **how)
    files = np.arange(100) // 5
    assert "20 groups" in found.words and all(len(set(found.part[files == f])) == 1 for f in files)
    for k, name in enumerate(PARTS):
        assert len(set(getattr(found, name).groups)) == {0: 12, 1: 4, 2: 4}[k]


@pytest.mark.parametrize(
    "how, text",
    [({"groups": [1]}, "one id"), ({"groups": range(100), "blocks": 2}, "or blocks")],
)
def test_bad_groups_are_refused(data, how, text):
    with pytest.raises(BadData, match=text):
        three_way(MODEL, data, **how)


def test_nothing_is_read_before_it_is_asked_for(data):
    asked = []

    def part(start, stop):
        asked.append((start, stop))
        return (X[start:stop],)

    lazy = replace(data, part=part).take([7, 8, 9, 3, 50])
    assert not asked and len(lazy) == 5
    assert np.array_equal(read_all(lazy), X[[7, 8, 9, 3, 50]]) and asked == [(7, 10), (3, 4), (50, 51)]


# ---------------------------------------------------------------- leaks


def opened(folder, name, x):
    np.savez(folder / f"{name}.npz", x=x)
    return open_data(folder / f"{name}.npz", MODEL)


def test_data_given_for_each_part_are_taken_as_they_are(tmp_path):
    sets = [opened(tmp_path, str(k), X[20 * k : 20 * k + 20]) for k in range(3)]
    found = given_splits(MODEL, *sets)
    assert (found.calibrate, found.select, found.test) == tuple(sets) and found.part is None and "20 to test" in found.words


@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_test_sample_in_another_part_stops_the_run(tmp_path, other, kind):
    parts = [X[20 * k : 20 * k + 20] for k in range(3)]
    parts[2] = np.concatenate([parts[2][:4], parts[other][7:8]]).astype(kind)  # whatever type it is stored in
    sets = [opened(tmp_path, str(k), x) for k, x in enumerate(parts)]
    with pytest.raises(BadData, match=f"sample 4: 1 samples of the test split .*sample 7 of {PARTS[other]}"):
        given_splits(MODEL, *sets)


def test_calibrate_and_select_must_differ_too():
    require_disjoint([1, 2, 2], [3], [4, 4])
    with pytest.raises(BadData, match="of the select split"):
        require_disjoint([1, 2], [3, 2], [4])
