"""The recipes of configs/cifar100: every method has one, and each says what is published."""

import importlib.util
import pathlib

import pytest

import distiller
from benchmarks import published
from configs.cifar100 import base
from registry import UserError
from training import config as configs

FOLDER = pathlib.Path(base.__file__).parent
STEMS = {name: entry.partition(":")[0].split(".")[-1] for name, entry in distiller.registry.entries.items()}
PAIRS = [f"{published.SAME} {published.OTHER}".split(), f"{published.LSKD_SAME} {published.LSKD_OTHER}".split()]
PAIRS = list(dict.fromkeys(PAIRS[0] + PAIRS[1]))


def load(stem):
    spec = importlib.util.spec_from_file_location(f"recipe_{stem}", FOLDER / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checked(recipe):
    config = configs.merge(recipe)
    configs.check(config)
    return config


@pytest.mark.parametrize("name", distiller.names())
def test_every_method_has_a_recipe_with_the_benchmarks_setting(name):
    assert (FOLDER / f"{STEMS[name]}.py").exists(), f"add configs/cifar100/{STEMS[name]}.py (docs/add_a_method.md)"
    module = load(STEMS[name])
    config = checked(module.get_config())
    assert config.distiller == name
    assert (config.dataset, config.teacher_arch, config.student_arch) == ("CIFAR100", "ResNet56", "ResNet20")
    assert (config.train_epoch, config.batch_size, config.momentum, config.weight_decay) == (240, 64, 0.9, 5e-4)
    assert (config.optimizer, config.nesterov, config.decay_kernels_only) == ("sgd", False, False)
    assert [share * 240 for share in config.milestones] == [150, 180, 210]
    assert (config.schedule, config.decay_factor) == ("step", 0.1)
    assert (config.crop_pad, config.crop_mode, config.flip) == (-1, "zero", "auto")  # CIFAR's own: 4 pixels, flip
    assert config.learning_rate == (0.025 if name == "MLKD" else 0.05)


@pytest.mark.parametrize("name", [*distiller.names(), "DOT"])
def test_the_docstring_says_what_is_published_and_how_to_run(name):
    stem = STEMS.get(name, "dot")
    said = " ".join(load(stem).__doc__.split())
    for sentence in published.text(name):
        assert sentence in said
    assert said.count("Published") == len(published.text(name))
    assert "Paper: " in said
    assert "Measured here: " in said
    assert f"python train_w_kd.py --config configs/cifar100/{stem}.py --teacher_param" in said


def test_every_recipe_is_of_a_method_or_dot():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*STEMS.values(), "dot", "base", "__init__"}
    assert set(published.PUBLISHED) <= {*distiller.names(), "DOT"}


def test_dot_is_soft_logits_under_dot():
    config = checked(load("dot").get_config("VGG13,VGG8"))
    assert (config.distiller, config.optimizer, config.dot_delta) == ("SoftLogits", "dot", 0.075)


@pytest.mark.parametrize("name", distiller.names())
def test_every_pair_of_the_tables_loads(name):
    module = load(STEMS[name])
    for pair in PAIRS:
        config = checked(module.get_config(pair))
        assert f"{config.teacher_arch},{config.student_arch}" == pair


def test_small_networks_get_the_small_rate():
    rates = {pair: base.recipe("AT", pair).learning_rate for pair in PAIRS}
    slow = {pair for pair, rate in rates.items() if rate == 0.01}
    assert slow == {pair for pair in PAIRS if "Shuffle" in pair or "Mobile" in pair}
    assert {rates[pair] for pair in PAIRS if pair not in slow} == {0.05}


@pytest.mark.parametrize(
    ("stem", "option", "expected"),
    [
        ("dkd", "beta", {"ResNet56,ResNet20": 2, "ResNet32x4,ResNet8x4": 8, "VGG13,MobileNetV2": 6}),
        ("sdd", "beta", {"ResNet110,ResNet32": 2, "WRN_40_2,WRN_16_2": 6, "ResNet50,MobileNetV2": 8}),
        ("sdd", "scales", {"ResNet56,ResNet20": (1, 2), "WRN_40_2,VGG8": (1, 2, 4)}),
        ("reviewkd", "weight", {"ResNet56,ResNet20": 0.6, "ResNet32x4,ShuffleNetV2": 8, "VGG13,VGG8": 1}),
    ],
)
def test_weights_follow_the_pair(stem, option, expected):
    for pair, value in expected.items():
        assert load(stem).get_config(pair).distiller_options[option] == value


def test_mlkd_trains_small_networks_longer_and_falls_at_the_same_epochs():
    for student, rate in (("MobileNetV2", 0.0025), ("ShuffleNetV2", 0.01)):
        config = load("mlkd").get_config(f"ResNet50,{student}")
        assert config.learning_rate == rate
        assert [share * config.train_epoch for share in config.milestones] == [150, 180, 210]


@pytest.mark.parametrize("pair", ["ResNet56", "ResNet56,", "a,b,c", ""])
def test_what_is_no_pair_is_told(pair):
    with pytest.raises(UserError, match="A pair is TEACHER,STUDENT, such as ResNet56,ResNet20; got"):
        base.recipe("AT", pair)
