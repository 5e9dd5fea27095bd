import re
import sys

import pytest

import data
import distiller
import models
import transfer
from registry import DamagedFileError, NonFiniteError, Registry, UserError, summary, unknown


class Documented:
    """One line. And its end.

    Paper: Somebody, Somebody Else, A Title that goes
    on, arXiv:0000.00000

    Attributes:
        x: nothing.
    """


class Undocumented:
    pass


def sourced():
    """A function.

    Source: the web: a page
    """


HERE = Registry(
    "thing",
    {
        "ResNet20": f"{__name__}:Documented",
        "SoftLogits": f"{__name__}:sourced",
        "Broken": "no_such_module_anywhere:Thing",
    },
)


def test_names_are_in_the_order_of_the_registry():
    assert HERE.names() == ["ResNet20", "SoftLogits", "Broken"]


def test_get_imports_and_check_does_not():
    assert HERE.get("ResNet20") is sys.modules[__name__].Documented
    assert HERE.check("Broken") == "Broken"
    with pytest.raises(ModuleNotFoundError):
        HERE.get("Broken")


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet20", "ResNet20"), ("ResNet-20", "ResNet20"), ("softlogit", "SoftLogits"), ("brokn", "Broken")],
)
def test_an_unknown_name_gives_the_nearest(name, near):
    for refuse in (HERE.check, HERE.get):
        with pytest.raises(UserError) as caught:
            refuse(name)
        assert str(caught.value) == (
            f"Unknown thing '{name}'. Did you mean '{near}'?\nKnown: ResNet20, SoftLogits, Broken."
        )


def test_a_name_like_none_gets_no_guess():
    with pytest.raises(UserError) as caught:
        HERE.check("zzz")
    assert "Did you mean" not in str(caught.value)
    assert "Known: ResNet20" in str(caught.value)
    assert "Known: none." in str(unknown("thing", "x", []))


@pytest.mark.parametrize(
    ("room", "name", "meant"),
    [(distiller, "KD", "'SoftLogits'"), (distiller, "DML", "--transfer Mutual"), (transfer, "dml", "'Mutual'")],
)
def test_a_name_that_others_use_is_translated(room, name, meant):
    with pytest.raises(UserError) as caught:
        room.registry.check(name)
    assert str(caught.value).splitlines()[0].endswith(f"'{name}'. Did you mean {meant}?")


@pytest.mark.parametrize("room", [distiller, transfer])
def test_translations_lead_to_names_that_there_are(room):
    known = {name.lower() for name in room.names()}
    for name, meant in room.registry.elsewhere.items():
        assert name not in known
        assert name == name.lower()
        for there in re.findall(r"'(\w+)'", meant) + re.findall(r"--transfer (\w+)", meant):
            assert there in (transfer if "--transfer" in meant else room).names()
        assert "'" in meant or "--transfer" in meant


def test_summaries_are_the_first_line_and_the_paper_on_one_line():
    assert summary(Documented) == (
        "One line. And its end.",
        "Somebody, Somebody Else, A Title that goes on, arXiv:0000.00000",
    )
    assert summary(sourced) == ("A function.", "the web: a page")
    assert summary(Undocumented) == ("", "")


def test_exit_codes_are_the_conventions():
    assert (UserError.exit_code, DamagedFileError.exit_code, NonFiniteError.exit_code) == (2, 3, 4)
    assert issubclass(DamagedFileError, UserError)
    assert issubclass(NonFiniteError, UserError)


@pytest.mark.parametrize("registry", [models.registry, data.registry, distiller.registry, transfer.registry])
def test_everything_registered_says_what_it_is_and_where_from(registry):
    described = registry.describe()
    assert [name for name, _, _ in described] == registry.names()
    for name, line, source in described:
        assert len(line) > 20, name
        assert source, name


def test_the_papers_names_are_there():
    assert {"ResNet8", "ResNet20", "ResNet56", "ResNet110", "ResNet8x4", "ResNet32x4"} <= set(models.names())
    assert {"SoftLogits", "Logits", "AT"} <= set(distiller.names())
    assert {"Offline", "Labels"} <= set(transfer.names())
    assert {"Digits", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "ImageFolder"} <= set(data.names())


def test_models_give_the_nearest_name():
    with pytest.raises(UserError, match=r"Unknown model 'resnet-20'. Did you mean 'ResNet20'"):
        models.create("resnet-20", 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AT", {"weight": -1.0}, "'weight' must not be negative"),
        ("SoftLogits", {"ce_weight": -0.1}, "'ce_weight' must not be negative"),
        ("RKD", {"angle_weight": -50.0}, "'angle_weight' must not be negative"),
        ("DKD", {"warmup_epochs": -1}, "'warmup_epochs' must not be negative"),
        ("SoftLogits+AT", {"ce_weight": -1.0}, "'ce_weight' must not be negative"),
        ("SoftLogits+AT", {"AT": {"weight": -1.0}}, "'weight' must not be negative"),
        ("SoftLogits", {"temperature": 0.0}, "'temperature' must be above 0"),
        ("KDSVD", {"top_k": 0}, "'top_k' must be above 0"),
        ("CRD", {"momentum": 1.5}, "'momentum' must be from 0.0 to 1.0"),
        ("CTKD", {"schedule": "step"}, "'schedule' must be 'cosine' or 'linear' .*; got 'step'"),
        ("MLKD", {"temperatures": ()}, "'temperatures' must be a list of one or more numbers"),
        ("SDD", {"scales": (1, 0)}, "'scales' must be above 0"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_told(name, options, message):
    with pytest.raises(UserError, match=message):
        distiller.create(name, **options)


def test_a_weight_or_a_ramp_may_be_zero():
    assert distiller.create("DKD", weight=0.0, ce_weight=0.0, warmup_epochs=0).weight == 0
