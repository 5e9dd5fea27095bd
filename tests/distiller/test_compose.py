import jax
import numpy as np
import pytest

import distiller
from models import Outputs
from registry import UserError


@pytest.fixture(scope="module")
def outputs(tiny):
    student = tiny.evaluate(tiny.variables, tiny.images)
    teacher = tiny.evaluate(tiny.teacher_variables, tiny.images)
    return [Outputs(x.logits, x.features) for x in (student, teacher)]


def loss(method, outputs, batch):
    return jax.jit(lambda s, t, b: method.apply({}, s, t, b))(*outputs, batch)


def test_a_sum_is_the_sum_of_its_parts(outputs, batch):
    found, terms = loss(distiller.create("SoftLogits+AT+Logits"), outputs, batch)
    parts = {name: loss(distiller.create(name), outputs, batch)[0] for name in ("SoftLogits", "AT", "Logits")}
    np.testing.assert_allclose(found, sum(parts.values()), rtol=1e-6)
    assert set(terms) == set(parts)
    for name, value in parts.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-6)


def test_the_order_of_the_parts_does_not_matter(outputs, batch):
    one, _ = loss(distiller.create("SoftLogits+AT"), outputs, batch)
    np.testing.assert_allclose(loss(distiller.create(" AT + SoftLogits "), outputs, batch)[0], one, rtol=1e-6)


def test_options_are_given_by_part(outputs, batch):
    method = distiller.create("SoftLogits+AT", AT={"weight": 500.0, "p": 1}, SoftLogits={"temperature": 2.0})
    assert (method.parts[1].weight, method.parts[1].p, method.parts[0].temperature) == (500.0, 1, 2.0)
    _, terms = loss(method, outputs, batch)
    alone, _ = loss(distiller.create("AT", weight=500.0, p=1), outputs, batch)
    np.testing.assert_allclose(terms["AT"], alone, rtol=1e-6)


def test_a_single_methods_options_may_stand_under_its_name():
    assert distiller.create("AT", AT={"weight": 5.0}).weight == 5.0
    assert distiller.create("AT", weight=5.0) == distiller.create("AT", AT={"weight": 5.0})


def test_the_label_weight_of_a_sum_is_the_smallest_of_its_parts_unless_given():
    assert distiller.create("SoftLogits").ce_weight == 0.1
    assert distiller.create("AT").ce_weight == 1.0
    assert distiller.create("AT+SoftLogits").ce_weight == 0.1
    assert distiller.create("AT+Logits").ce_weight == 1.0
    assert distiller.create("AT+SoftLogits", ce_weight=0.7).ce_weight == 0.7
    assert distiller.create("AT+SoftLogits", SoftLogits={"ce_weight": 0.3}).ce_weight == 0.3


def test_a_sum_asks_for_every_parts_gradient_taps_once():
    class One(distiller.Distiller):
        gradient_taps = ("input", "stage3")

    class Two(distiller.Distiller):
        gradient_taps = ("stage3", "stage2")

    assert distiller.Composition(parts=(One(), Two())).gradient_taps == ("input", "stage3", "stage2")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SoftLogit", {}, "Unknown distiller 'SoftLogit'. Did you mean 'SoftLogits'"),
        ("softlogits", {}, "Did you mean 'SoftLogits'"),
        ("AT+SoftLogitz", {}, "Did you mean 'SoftLogits'"),
        ("", {}, "Unknown distiller ''"),
        ("AT+AT", {}, "names a method twice"),
        ("AT+", {}, "nothing on one side of a +"),
        ("AT", {"wieght": 3.0}, "Unknown option of AT 'wieght'. Did you mean 'weight'"),
        ("AT", {"parent": None}, "Unknown option of AT 'parent'"),
        ("AT+Logits", {"weight": 3.0}, "no option 'weight'.*AT={'weight'"),
        ("AT+Logits", {"AT": {"q": 3}}, "Unknown option of AT 'q'"),
        ("AT+Logits", {"SoftLogits": {"weight": 3.0}}, "no option 'SoftLogits'"),
        ("AT", {"weight": "1000"}, r"'weight' must be a number \(default 1000.0\); got '1000'"),
        ("AT", {"weight": True}, "'weight' must be a number"),
        ("AT", {"weight": None}, "'weight' must be a number"),
        ("AT", {"p": 2.5}, "'p' must be a whole number"),
        ("AT+Logits", {"ce_weight": "1"}, "'ce_weight' must be a number"),
        ("AT+Logits", {"AT": {"p": "2"}}, "'p' must be a whole number"),
    ],
)
def test_mistakes_are_refused_with_the_fix(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        distiller.create(name, **options)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("name", "options"), [("AT", {"AT": 5.0}), ("AT+Logits", {"AT": 5.0}), ("AT", {"weight": [1.0]})]
)
def test_options_of_the_wrong_kind_are_a_users_mistake(name, options):
    with pytest.raises(UserError):
        distiller.create(name, **options)


def test_a_whole_number_does_where_a_number_is_meant():
    assert distiller.create("AT", weight=10).weight == 10
