from __future__ import annotations

import json
import math
import platform

import pytest
import torch
from problems import normal, problem, ragged

from landscape import GGNOperator, HessianOperator, Objective, trace
from landscape.manifest import differences, hash_of_settings, hash_of_tensor, protocol, require_comparable, versions


def test_the_hash_of_a_tensor_is_that_of_its_values_whatever_their_layout():
    x = normal(4, 6)
    assert hash_of_tensor(x) == hash_of_tensor(x.clone().requires_grad_()) == hash_of_tensor(x.T.contiguous().T)


@pytest.mark.parametrize(
    "other",
    [normal(4, 6) + 1e-15, normal(6, 4), normal(4, 6).float(), normal(4, 6).flatten(), normal(4, 6, seed=1)],
    ids=["last digit", "shape", "dtype", "flat", "values"],
)
def test_the_hash_of_a_tensor_sees_every_difference(other):
    assert hash_of_tensor(other) != hash_of_tensor(normal(4, 6))


def test_the_hash_of_a_tensor_takes_scalars_and_half_precision():
    assert len({hash_of_tensor(torch.tensor(1.0).to(kind)) for kind in (torch.float32, torch.bfloat16)}) == 2


def test_the_hash_of_settings_ignores_their_order():
    assert hash_of_settings({"a": 1, "b": [2, {"c": 3}]}) == hash_of_settings({"b": [2, {"c": 3}], "a": 1})
    assert hash_of_settings({"a": 1}) != hash_of_settings({"a": 2})


def test_versions_name_what_decides_the_last_digits():
    found = versions()
    assert found["torch"].startswith(torch.__version__.split("+")[0])
    assert found["python"] == platform.python_version()
    assert set(found) == {"python", "msam-landscape", "torch", "numpy", "scipy"}


def test_the_protocol_is_all_but_subject_and_machine():
    manifest = {
        "objective": {"loss": "a"},
        "subject": {"weights": "x"},
        "machine": {"device": "cpu"},
        "measurement": {},
    }
    assert protocol(manifest) == {"objective": {"loss": "a"}, "measurement": {}}


def test_differences_name_each_entry_with_both_values():
    first = {"objective": {"split": "train", "loss": "a"}, "measurement": {"k": 1}}
    second = {"objective": {"split": "test", "loss": "a"}, "operator": {"name": "GGN"}}
    assert differences(first, second) == [
        "measurement.k: 1 or None",
        "objective.split: 'train' or 'test'",
        "operator.name: None or 'GGN'",
    ]


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ([-1.0, 0.0, 1.0], [0.0], "[-1.0, 0.0, 1.0] or [0.0]"),
        ([i / 25 - 1 for i in range(51)], [i / 3 - 1 for i in range(7)], "51 values from -1 to 1 or "),
        ([i / 25 - 1 for i in range(51)], None, "51 values from -1 to 1 or None"),
        (list(range(30)), [*range(29), math.nan], "30 values from 0 to 29 or 30 values"),
        (["a"] * 30, list(range(40)), "30 values or 40 values from 0 to 39"),
        (
            [*range(30)],
            [*range(7), 7.5, *range(8, 30)],
            "30 values from 0 to 29, of which number 8 is 7 or 7.5",
        ),
        ("a" * 100, "b", "'" + "a" * 56 + "... or 'b'"),
    ],
)
def test_long_values_that_differ_are_shortened(first, second, sentence):
    (found,) = differences({"measurement": {"x": first}}, {"measurement": {"x": second}})
    assert found.startswith(f"measurement.x: {sentence}")


def test_manifests_that_cannot_be_put_side_by_side_are_refused_by_name_with_all_they_differ_in():
    first = {"objective": {"split": "train"}, "measurement": {"k": 1}, "subject": {"weights": "x"}}
    same = first | {"subject": {"weights": "y"}}
    other = {"objective": {"split": "test"}, "measurement": {"k": 2}}
    require_comparable({"a": first, "b": same})
    require_comparable({"a": first})
    require_comparable({})
    sentence = "a and c cannot be put side by side; they differ in measurement.k: 1 or 2; objective.split: 'train' or"
    with pytest.raises(ValueError, match=sentence):
        require_comparable({"a": first, "b": same, "c": other})


def test_two_models_measured_in_one_way_can_be_compared():
    given, other = problem("tanh_mlp"), problem("tanh_mlp")
    torch.nn.init.ones_(other.model[0].bias)
    first, second = (trace(HessianOperator(p.objective()), 2).manifest for p in (given, other))
    assert differences(first, second) == []
    assert first["subject"] != second["subject"]


def test_the_order_of_the_data_makes_no_difference_where_it_has_no_effect():
    given = problem("tanh_mlp")
    backwards = Objective(given.model, given.loss, ragged(given.x.flip(0), given.y.flip(0)))
    assert differences(given.objective().manifest(), backwards.manifest()) == []


def test_every_choice_that_changes_the_number_is_a_difference():
    given = problem("tanh_mlp")
    plain = trace(HessianOperator(given.objective()), 2).manifest
    fewer = Objective(given.model, given.loss, ragged(given.x, given.y)[:-1])
    assert differences(plain, trace(HessianOperator(given.objective()), 3).manifest) == [
        "measurement.num_probes: 2 or 3"
    ]
    assert differences(plain, trace(HessianOperator(given.objective()), 2, seed=1).manifest) == [
        "measurement.seed: 0 or 1"
    ]
    operators = differences(plain, trace(GGNOperator(given.objective()), 2).manifest)
    assert operators == ["operator.name: 'HessianOperator' or 'GGNOperator'"]
    data = differences(plain, trace(HessianOperator(fewer), 2).manifest)
    assert [entry.split(":")[0] for entry in data] == ["objective.data", "objective.num_examples"]


@pytest.mark.parametrize("name", ["tanh_mlp", "attention"])
def test_a_manifest_is_plain_json(name):
    manifest = trace(HessianOperator(problem(name).objective()), 2).manifest
    assert json.loads(json.dumps(manifest)) == manifest
