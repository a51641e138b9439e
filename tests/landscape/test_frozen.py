from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest

from landscape import Result, Sharpness, TraceEstimate
from landscape.frozen import frozen

MANIFEST = {"objective": {"loss": "a"}, "measurement": {"coordinates": [1.0, [2.0]]}}
CHANGES = {
    "an entry": lambda m: m.__setitem__("objective", {}),
    "an inner entry": lambda m: m["objective"].__setitem__("loss", "lie"),
    "a deletion": lambda m: m.__delitem__("objective"),
    "update": lambda m: m["objective"].update(loss="lie"),
    "setdefault": lambda m: m.setdefault("new", 1),
    "pop": lambda m: m.pop("objective"),
    "popitem": lambda m: m.popitem(),
    "clear": lambda m: m["objective"].clear(),
    "in place": lambda m: m.__ior__({"objective": 1}),
    "an item of a list": lambda m: m["measurement"]["coordinates"].__setitem__(0, 9.0),
    "append": lambda m: m["measurement"]["coordinates"].append(9.0),
    "extend": lambda m: m["measurement"]["coordinates"].__iadd__([9.0]),
    "sort": lambda m: m["measurement"]["coordinates"][1].sort(),
    "remove": lambda m: m["measurement"]["coordinates"][1].pop(),
}


def result(**changes):
    return TraceEstimate(**{"estimate": 1.5, "stderr": 0.5, "samples": np.arange(4.0), "manifest": MANIFEST} | changes)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_manifest_cannot_be_changed_however_it_came_about(change, tmp_path):
    made = result()
    loaded = Result.load(made.save(tmp_path / "a.npz"))
    for each in (made, loaded, copy.deepcopy(made), copy.copy(made), pickle.loads(pickle.dumps(made))):
        with pytest.raises(TypeError, match="a manifest cannot be changed; change a copy of it"):
            change(each.manifest)
        assert each.manifest == MANIFEST
        assert each == made


def test_a_result_does_not_follow_the_manifest_it_was_made_from():
    given = copy.deepcopy(MANIFEST)
    made = result(manifest=given)
    given["objective"]["loss"] = "lie"
    assert made.manifest == MANIFEST


def test_a_frozen_value_is_equal_to_and_written_like_the_plain_one():
    assert frozen(MANIFEST) == MANIFEST == frozen(frozen(MANIFEST))
    assert json.loads(json.dumps(frozen(MANIFEST))) == MANIFEST
    assert type(frozen(MANIFEST) | {"a": 1}) is dict


def test_results_are_equal_when_all_they_hold_is():
    assert result() == result()
    assert hash(result()) == hash(result())
    assert len({result(), result(), result(estimate=2.0)}) == 2
    nan = {"value": 1.0, "stderr": float("nan"), "per_shard": np.array([np.nan]), "microbatch_size": 2}
    one, two = (Sharpness(shard_sizes=np.array([2]), **copy.deepcopy(nan)) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)


@pytest.mark.parametrize(
    "change",
    [
        {"estimate": 2.0},
        {"samples": np.arange(5.0)},
        {"samples": np.arange(4)},
        {"samples": -np.arange(4.0)},
        {"manifest": {}},
    ],
)
def test_results_differ_when_anything_they_hold_does(change):
    assert result() != result(**change)
    assert result() != dataclasses.asdict(result())
