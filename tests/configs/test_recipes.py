"""Recipes: every method has the benchmarks' setting on CIFAR-100, and every recipe has keys of the defaults."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest

import distiller
import models
from configs import cifar100, default, deit, digits, imagenet, published, teacher_assistant, tiny_imagenet
from registry import UserError
from studies import methods_table

FILES = sorted(path.stem for path in pathlib.Path(cifar100.__file__).parent.glob("*.py"))
OTHERS = [
    name
    for name in FILES
    if name not in ("__init__", "command", "conditions", "environment", "published", "unlabelled", "boxes")
]


def method_of(recipe):
    return distiller.create(recipe.distiller, **recipe.distiller_options.to_dict())


def student_of(recipe):
    """The student, or the backbone of a student with a projector."""
    return recipe.student_options.backbone if recipe.student_arch == "Projected" else recipe.student_arch


@pytest.mark.parametrize("name", OTHERS)
def test_a_recipe_has_keys_and_types_of_the_defaults(name):
    known, recipe = default.get_config(), importlib.import_module(f"configs.{name}").get_config()
    assert set(recipe) <= set(known)
    for key, value in recipe.items():
        assert isinstance(value, (dict, type(known[key]))), key


@pytest.mark.parametrize("name", distiller.names())
def test_every_method_has_the_benchmarks_setting(name):
    c = cifar100.get_config(name)
    assert (c.dataset, c.distiller, c.teacher_arch, student_of(c)) == ("CIFAR100", name, "ResNet56", "ResNet20")
    assert (c.train_epoch, c.batch_size, c.schedule, c.decay_factor) == (240, 64, "step", 0.1)
    assert [share * 240 for share in c.milestones] == [150, 180, 210]
    assert c.learning_rate == (0.025 if name == "MLKD" else 0.05)
    for key in ("optimizer", "nesterov", "momentum", "weight_decay", "decay_kernels_only", "crop_pad", "crop_mode"):
        assert key not in c  # the default is the benchmarks'
    method_of(c)


@pytest.fixture(scope="module")
def shapes():
    return methods_table.answers()


@pytest.mark.parametrize("name", published.OPTIONS)
def test_options_of_a_recipe_fit_its_networks(name, shapes):
    """By a trace. Methods without options in the table are traced for docs/methods.md (tests/studies)."""
    method = method_of(cifar100.get_config(name))
    assert methods_table.facts(method, *shapes).teacher


def test_the_defaults_that_the_benchmarks_rest_on():
    c = default.get_config()
    assert (c.optimizer, c.momentum, c.nesterov) == ("sgd", 0.9, False)
    assert (c.weight_decay, c.decay_kernels_only) == (5e-4, False)
    assert (c.crop_pad, c.crop_mode, c.flip) == (-1, "zero", "auto")  # CIFAR's own: 4 pixels, flip


@pytest.mark.parametrize("name", [*distiller.names(), "DOT"])
def test_every_pair_of_the_tables_has_a_recipe(name):
    for pair in published.PAIRS:
        c = cifar100.get_config(f"{name},{pair}")
        assert f"{c.teacher_arch},{student_of(c)}" == pair
        assert all(models.registry.check(arch) for arch in (c.teacher_arch, c.student_arch, student_of(c)))
        method_of(c)


def test_without_an_argument_it_is_the_recipe_of_teachers():
    assert cifar100.get_config() == cifar100.get_config("SoftLogits")
    assert cifar100.get_config().distiller_options.to_dict() == {}


def test_dot_is_soft_logits_or_another_method_under_dot():
    for argument, method in (("DOT,VGG13,VGG8", "SoftLogits"), ("DOT+DKD,VGG13,VGG8", "DKD")):
        c = cifar100.get_config(argument)
        assert (c.distiller, c.optimizer, c.dot_delta) == (method, "dot", 0.075)
    assert "optimizer" not in cifar100.get_config("SoftLogits")


def test_a_sum_has_the_options_of_its_parts():
    c = cifar100.get_config("DKD + AT+CC, VGG13,VGG8")
    assert c.distiller == "DKD+AT+CC"
    assert c.distiller_options.to_dict() == {"DKD": {"beta": 6.0}, "CC": {"project_to": 128}}
    assert [type(part).__name__ for part in method_of(c).parts] == ["DKD", "AT", "CC"]
    assert cifar100.get_config("AT+MLKD").learning_rate == 0.025


def test_small_networks_get_the_small_rate():
    rates = {pair: cifar100.get_config(f"AT,{pair}").learning_rate for pair in published.PAIRS}
    slow = {pair for pair, rate in rates.items() if rate == 0.01}
    assert slow == {pair for pair in published.PAIRS if "Shuffle" in pair or "Mobile" in pair}
    assert {rates[pair] for pair in published.PAIRS if pair not in slow} == {0.05}


@pytest.mark.parametrize(
    ("method", "option", "expected"),
    [
        ("DKD", "beta", {"ResNet56,ResNet20": 2, "ResNet32x4,ResNet8x4": 8, "VGG13,MobileNetV2": 6}),
        ("SDD", "beta", {"ResNet110,ResNet32": 2, "WRN_40_2,WRN_16_2": 6, "ResNet50,MobileNetV2": 8}),
        ("SDD", "scales", {"ResNet56,ResNet20": (1, 2), "WRN_40_2,VGG8": (1, 2, 4), "VGG13,MobileNetV2": (1, 2, 4)}),
        ("ReviewKD", "weight", {"ResNet56,ResNet20": 0.6, "ResNet32x4,ShuffleNetV2": 8, "VGG13,VGG8": 1}),
        ("ReviewKD", "weight", {"WRN_40_2,WRN_16_2": 5, "ResNet110,ResNet32": 1}),
        ("CATKD", "weight", {"ResNet56,ResNet20": 0.7, "ResNet32x4,ResNet8x4": 400}),
    ],
)
def test_options_follow_the_pair(method, option, expected):
    for pair, value in expected.items():
        assert getattr(method_of(cifar100.get_config(f"{method},{pair}")), option) == value


@pytest.mark.slow
def test_simkds_student_projects_to_the_teachers_last_map_and_keeps_its_classifier():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert {pair.partition(",")[0] for pair in published.PAIRS} <= set(published.WIDTHS)
    for teacher, width in published.WIDTHS.items():
        model = models.create(teacher, 100)
        outputs, _ = jax.eval_shape(lambda x, model=model: model.init_with_output(jax.random.key(0), x), image)
        assert outputs.features["final"].shape[3] == width
    for argument in ("SimKD,ResNet50,MobileNetV2", "SoftLogits+SimKD,ResNet50,MobileNetV2"):
        c = cifar100.get_config(argument)
        assert (c.student_arch, c.init_head, c.freeze) == ("Projected", "teacher", "classifier")
        assert c.student_options.to_dict() == {"backbone": "MobileNetV2", "width": 2048}
        assert c.learning_rate == 0.01
    with pytest.raises(
        UserError, match=r"SimKD knows the last map of ResNet56, .*; got 'ViT_Ti'(?s:.*)student_options.width"
    ):
        cifar100.get_config("SimKD,ViT_Ti,ResNet8")


def test_mlkd_trains_small_networks_longer_and_falls_at_the_same_epochs():
    for student, rate in (("MobileNetV2", 0.0025), ("ShuffleNetV2", 0.01)):
        c = cifar100.get_config(f"MLKD,ResNet50,{student}")
        assert c.learning_rate == rate
        assert [share * c.train_epoch for share in c.milestones] == [150, 180, 210]


@pytest.mark.parametrize("argument", ["ResNet56,ResNet20", "DKD,ResNet56,", "DKD,a,b,c", ",a,b", " "])
def test_an_argument_of_another_form_raises(argument):
    with pytest.raises(UserError, match="is METHOD or METHOD,TEACHER,STUDENT; got"):
        cifar100.get_config(argument)


def test_published_numbers_are_of_methods_and_networks():
    for table in published.TABLES:
        for name, numbers in table.rows.items():
            assert name.partition(",")[0] in (*distiller.names(), "DOT")
            assert len(numbers) == len(table.pairs)
    assert set(published.OPTIONS) <= set(distiller.names())
    assert {arch for pair in published.PAIRS for arch in pair.split(",")} == set(published.LABELS)


def test_published_numbers_are_those_of_the_methods_own_options():
    assert published.top1("SoftLogits")["ResNet56,ResNet20"] == 70.66  # RepDistiller's, not LSKD's 71.43
    assert published.top1("DKD")["ResNet32x4,ResNet8x4"] == 76.32
    assert "WRN_40_2,WRN_40_1" not in published.top1("FSP")
    assert published.top1("NKD") == {}


def test_a_teacher_assistant_leaves_the_networks_to_the_command():
    c = teacher_assistant.get_config()
    assert not {"teacher_arch", "student_arch"} & set(c)
    assert (c.dataset, c.train_epoch, c.distiller) == ("CIFAR100", 240, "SoftLogits")


def test_deit_teaches_the_classes_of_a_convolutional_teacher_to_a_vit_with_two_heads():
    c = deit.get_config()
    student = models.create(c.student_arch, 1000, **c.student_options.to_dict())
    assert (student.extra_tokens, student.stochastic_depth) == (2, 0.1)
    method = method_of(c)
    assert (type(method).__name__, method.hard, method.weight, method.ce_weight) == ("DeiT", True, 0.5, 0.5)
    assert c.learning_rate == pytest.approx(0.0005 * c.batch_size / 512, rel=0.03)  # the paper's rule
    assert not hasattr(models.create(c.teacher_arch, 1000), "extra_tokens")


def test_imagenet_has_the_benchmarks_setting():
    c = imagenet.get_config("DKD,ResNet50,MobileNetV1")
    assert (c.batch_size, c.learning_rate, c.train_epoch, c.weight_decay) == (512, 0.2, 100, 1e-4)
    assert [share * 100 for share in c.milestones] == [30, 60, 90]
    assert (c.image_size, c.resize, c.interpolation, c.resized_crop) == (224, 256, "bilinear", 0.08)
    assert c.distiller_options.to_dict() == {"temperature": 1.0, "warmup_epochs": 1, "beta": 2.0}
    assert imagenet.get_config("DKD").distiller_options.beta == 0.5
    small = imagenet.get_config("ReviewKD,ResNet50,MobileNetV1")
    assert (small.batch_size, small.learning_rate, small.distiller_options.weight) == (256, 0.1, 8.0)
    dot = imagenet.get_config("DOT")
    assert (dot.optimizer, dot.dot_delta, dot.distiller, dot.distiller_options.ce_weight) == (
        "dot",
        0.09,
        "SoftLogits",
        0.5,
    )
    for pair, results in imagenet.PUBLISHED.items():
        for method in results.keys() - {"teacher", "labels"}:
            method_of(imagenet.get_config(f"{method},{pair}"))
    with pytest.raises(UserError, match=r"argument of configs/imagenet\.py is METHOD or METHOD,TEACHER,STUDENT"):
        imagenet.get_config("DKD,ResNet50")


def test_tiny_imagenet_has_the_benchmarks_setting_and_networks():
    c = tiny_imagenet.get_config("DOT")
    assert (c.batch_size, c.learning_rate, c.train_epoch, c.weight_decay) == (256, 0.2, 200, 5e-4)
    assert [share * 200 for share in c.milestones] == [60, 120, 160]
    assert (c.optimizer, c.dot_delta, c.distiller) == ("dot", 0.075, "SoftLogits")
    for pair in tiny_imagenet.PUBLISHED:
        c = tiny_imagenet.get_config(f"SoftLogits,{pair}")
        models.create(c.student_arch, 200, **c.get("student_options", {}))
    teacher = tiny_imagenet.get_config("ResNet18")
    assert (teacher.teacher_arch, teacher.student_options.stem, "distiller" in teacher) == ("ResNet18", "cifar", False)


def test_digits_has_options_of_its_own_for_methods_and_their_sums():
    for name, options in digits.TUNED.items():
        assert digits.tuned(name) == options
        distiller.create(name, **digits.tuned(name))
    assert digits.tuned("SoftLogits") == digits.tuned("") == {}
    assert digits.tuned("SoftLogits + AT") == {"AT": digits.TUNED["AT"]}
    distiller.create("SoftLogits+AT", **digits.tuned("SoftLogits+AT"))
    digits.tuned("AT")["weight"] = 0.0
    assert digits.tuned("AT")["weight"]
