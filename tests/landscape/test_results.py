from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from problems import N, problem

import landscape
from landscape import (
    Eigenpairs,
    GradientAscent,
    HessianOperator,
    LineSlice,
    PlaneSlice,
    Result,
    Sharpness,
    SpectralDensity,
    TraceEstimate,
    filter_normalized,
    line_slice,
    m_sharpness,
    plane_slice,
    pyhessian_eigenvalues,
    random_direction,
    spectral_density,
    top_eigenvalues,
    trace,
)
from landscape.results import require_one_kind

MEASURES = {
    "eigenvalues": lambda o: top_eigenvalues(HessianOperator(o), 3),
    "trace": lambda o: trace(HessianOperator(o), 4),
    "density": lambda o: spectral_density(HessianOperator(o), 5, num_probes=2),
    "sharpness": lambda o: m_sharpness(o, GradientAscent(0.1), microbatch_size=4),
    "one shard": lambda o: m_sharpness(o, GradientAscent(0.1), microbatch_size=N),  # its stderr is NaN
    "line": lambda o: line_slice(o, filter_normalized(o, seed=0), coordinates=[0.0, 1.0, 1e200]),
    "plane": lambda o: plane_slice(
        o, (random_direction(o, seed=0), random_direction(o, seed=1)), x=[0, 1], y=[0, 1, 2]
    ),
    "pyhessian": lambda o: pyhessian_eigenvalues(o),
}


@pytest.fixture(scope="module")
def objective():
    return problem("tanh_mlp_mse").objective()


@pytest.fixture
def saved(tmp_path):
    manifest = {"objective": {"split": "train"}}
    result = TraceEstimate(estimate=1.5, stderr=0.5, samples=np.arange(300.0), manifest=manifest)
    return result.save(tmp_path / "trace.npz")


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
def test_saving_and_loading_gives_back_every_field_and_the_manifest(measure, objective, tmp_path):
    result = measure(objective)
    path = result.save(tmp_path / "deep" / "result.npz")
    for loaded in (Result.load(path), type(result).load(str(path))):
        assert type(loaded) is type(result)
        assert loaded.manifest == result.manifest != {}
        for entry in dataclasses.fields(result):
            before, after = getattr(result, entry.name), getattr(loaded, entry.name)
            assert type(after) is type(before)
            if isinstance(before, np.ndarray):
                assert after.dtype == before.dtype
            if entry.name != "manifest":
                np.testing.assert_array_equal(after, before)
        assert repr(loaded.summary()) == repr(result.summary())
        assert loaded.to_frame().equals(result.to_frame())
    assert [entry.name for entry in path.parent.iterdir()] == ["result.npz"]


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
def test_results_are_frozen_with_their_arrays_fresh_and_loaded(measure, objective, tmp_path):
    result = measure(objective)
    for given in (result, Result.load(result.save(tmp_path / "result.npz"))):
        arrays = [e.name for e in dataclasses.fields(given) if isinstance(getattr(given, e.name), np.ndarray)]
        assert arrays
        for name in arrays:
            with pytest.raises(ValueError, match="read-only"):
                getattr(given, name)[...] = 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            given.manifest = {}


def test_a_result_does_not_follow_the_array_it_was_made_from():
    samples = np.ones(3)
    result = TraceEstimate(estimate=1.0, stderr=0.0, samples=samples)
    samples[0] = 9
    assert result.samples.tolist() == [1, 1, 1]
    assert samples.flags.writeable


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
def test_summaries_are_plain_json_and_frames_hold_the_numbers(measure, objective):
    result = measure(objective)
    assert isinstance(json.dumps(result.summary()), str)
    assert len(result.to_frame()) > 0
    assert not result.to_frame().isna().any().any() or isinstance(result, LineSlice)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
def test_lines_say_the_numbers_of_the_summary(measure, objective):
    result = measure(objective)
    headline = np.hstack([np.array(value, dtype=object) for value in result.summary().values()])  # words too
    assert len(result.lines()) > 0
    assert all(line.value in headline for line in result.lines())


def test_lines_say_what_is_not_certain():
    pairs = Eigenpairs(
        eigenvalues=np.array([2.0, 1.0]),
        eigenvectors=np.eye(2),
        residuals=np.array([0.0, 0.5]),
        converged=np.array([True, False]),
        num_products=2,
    )
    assert [tuple(line) for line in pairs.lines()] == [
        ("eigenvalue 1", 2.0, 0.0, ""),
        ("eigenvalue 2", 1.0, 0.5, "NOT CONVERGED"),
    ]
    late = dataclasses.replace(pairs, stopped="out of time")
    assert [line.remark for line in late.lines()] == [
        "an eigenvalue, but others before it may be missing (out of time)",
        "NOT CONVERGED (out of time)",
    ]
    line = LineSlice(coordinates=np.arange(3.0), losses=np.array([1.0, 2.0, np.inf]), length=1.0)
    assert line.lines()[1] == ("highest loss", 2.0, None, "1 of 3 points are not finite")
    single = {"shard_sizes": np.array([7]), "per_shard": np.array([0.5]), "microbatch_size": 7}
    sharpness = Sharpness(value=0.5, stderr=float("nan"), **single)
    assert sharpness.lines()[0].remark == "a single shard gives no standard error"


def test_the_frame_of_a_plane_pairs_each_loss_with_its_coordinates():
    losses = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    plane = PlaneSlice(x=np.arange(3.0), y=np.array([10.0, 20.0]), losses=losses, lengths=np.ones(2), cosine=0.0)
    rows = plane.to_frame().itertuples(index=False, name=None)
    assert list(rows) == [(0, 10, 1), (1, 10, 2), (2, 10, 3), (0, 20, 4), (1, 20, 5), (2, 20, 6)]


def test_a_slice_that_is_nowhere_finite_has_no_range():
    result = LineSlice(coordinates=np.arange(2.0), losses=np.array([np.nan, np.inf]), length=1.0)
    assert repr(result.summary()) == repr(
        {"lowest_loss": float("nan"), "highest_loss": float("nan"), "num_not_finite": 2, "num_points": 2}
    )


def test_all_kinds_are_known_by_name():
    ours = {Eigenpairs, TraceEstimate, SpectralDensity, Sharpness, LineSlice, PlaneSlice}
    assert ours <= set(Result.kinds.values())
    assert all(Result.kinds[kind.__name__] is kind for kind in ours)


def test_a_full_disk_leaves_what_stood_there_and_nothing_half_written(saved, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = saved.read_bytes()
    result = Result.load(saved)
    monkeypatch.setattr(os, "fsync", full)
    for path in (saved, saved.with_name("new.npz")):
        with pytest.raises(OSError, match="No space left on device"):
            result.save(path)
    assert saved.read_bytes() == before
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no result at .*none\.npz"):
        Result.load(tmp_path / "none.npz")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(saved, part):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match=r"trace\.npz is not a whole result file .*Measure again to replace it"):
        Result.load(saved)


def test_a_damaged_file_is_refused_wherever_the_damage_or_reads_the_same(saved):
    whole, refused = saved.read_bytes(), 0
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= int(random.integers(1, 256))
        saved.write_bytes(damaged)
        try:
            assert Result.load(saved).samples.tolist() == list(range(300))
        except ValueError:
            refused += 1
    assert refused > 200


def write_header(path, header):
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))


WHOLE = {"format": 1, "kind": "TraceEstimate", "manifest": {}, "scalars": {"estimate": 1.0, "stderr": 1.0}}
FOREIGN = {
    "no header": lambda path: np.savez(path, a=np.ones(3)),
    "an array": lambda path: np.save(path, np.ones(3)),
    "text": lambda path: path.write_text("a,b\n1,2\n"),
    "a header that is no JSON": lambda path: np.savez(path, header=np.frombuffer(b"{", dtype=np.uint8)),
    "a header that is no mapping": lambda path: write_header(path, 3),
    "no format": lambda path: write_header(path, {k: v for k, v in WHOLE.items() if k != "format"}),
    "a format that is no number": lambda path: write_header(path, WHOLE | {"format": "x"}),
    "a manifest that is no mapping": lambda path: write_header(path, WHOLE | {"manifest": 3}),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_file_of_another_kind_is_refused(tmp_path, write):
    path = tmp_path / "foreign.npz"
    write(path.with_suffix(".npy") if write is FOREIGN["an array"] else path)
    if write is FOREIGN["an array"]:
        path.with_suffix(".npy").rename(path)
    with pytest.raises(ValueError, match=r"foreign\.npz is not a whole result file") as caught:
        Result.load(path)
    assert "unsafely" not in str(caught.value)


def test_a_folder_is_not_a_result_and_says_so(tmp_path):
    with pytest.raises(ValueError, match="is a folder and not a result; name a file"):
        Result.load(tmp_path)


def test_results_of_several_kinds_are_refused_by_name(saved):
    one = Result.load(saved)
    one_by_one = np.ones((1, 1))
    other = Eigenpairs(
        eigenvalues=np.ones(1), eigenvectors=one_by_one, residuals=np.ones(1), converged=np.ones(1), num_products=1
    )
    require_one_kind({"a": one, "b": one})
    require_one_kind({"a": one})
    with pytest.raises(
        ValueError, match=r"^a is of kind 'trace' and c of kind 'eigenvalues'; name results of one kind$"
    ):
        require_one_kind({"a": one, "b": one, "c": other})


class Bomb:
    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


def test_a_pickled_array_is_refused_and_not_executed(tmp_path):
    path = tmp_path / "pickled.npz"
    header = np.frombuffer(json.dumps(WHOLE).encode(), dtype=np.uint8)
    np.savez(path, header=header, samples=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match=r"is not a whole result file .*allow_pickle=False"):
        Result.load(path)
    assert not Bomb.exploded


def test_another_kind_of_result_is_refused_with_both_names(saved):
    with pytest.raises(ValueError, match="holds a TraceEstimate; expected Eigenpairs"):
        Eigenpairs.load(saved)


def test_an_unknown_kind_a_newer_format_and_missing_fields_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    for change, sentence in [
        ({"kind": "Unheard"}, "holds a Unheard; expected Result"),
        ({"format": 2, "kind": "Unheard"}, r"was written by a newer version \(format 2\)"),
        ({"scalars": {"estimate": 1.0}}, "does not have the fields of a TraceEstimate"),
        ({"scalars": {"surplus": 1.0}}, "does not have the fields of a TraceEstimate"),
    ]:
        write_header(path, WHOLE | change)
        with pytest.raises(ValueError, match=sentence):
            Result.load(path)


def test_results_are_read_without_torch(saved):
    code = (
        f"import sys; from landscape import Result; print(Result.load({str(saved)!r}));"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "TraceEstimate(estimate=1.5, stderr=0.5)\n"


def test_the_package_lists_its_names_and_has_no_others():
    assert all(getattr(landscape, name) is not None for name in landscape.__all__)
    assert dir(landscape) == sorted(landscape.__all__)
    with pytest.raises(AttributeError, match="module 'landscape' has no attribute 'nothing'"):
        _ = landscape.nothing
