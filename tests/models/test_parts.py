"""Which part of a network a variable belongs to."""

import flax.linen as nn
import pytest

import models
from models.parts import members, parts
from registry import UserError

SHAPES = {"ResNet8": (8, 8, 3), "WRN_16_1": (8, 8, 3), "VGG8": (32, 32, 3), "ViT_Ti": (16, 16, 3)}
SHAPES |= {"MobileNetV2": (8, 8, 3), "ShuffleNetV2": (32, 32, 3), "ConvNeXt_T": (32, 32, 3), "CNN": (8, 8, 3)}


@pytest.mark.parametrize("name", SHAPES)
def test_every_variable_has_one_part_and_each_part_comes_after_the_one_before(name):
    found = parts(models.create(name, 5), SHAPES[name])
    named = list(dict.fromkeys(found.values()))
    stages = [part for part in named if part.startswith("stage")]
    assert stages == sorted(stages)
    assert named[-1] == "classifier"
    assert {path[-1] for path, part in found.items() if part == "classifier"} == {"kernel", "bias"}


def test_parts_of_a_resnet_are_those_of_its_modules():
    for path, part in parts(models.create("ResNet8", 5), (8, 8, 3)).items():
        assert path[1].split("_")[0] == part


def test_a_network_without_taps_is_one_part():
    class Bare(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(3)(nn.Dense(4)(x.reshape(len(x), -1)))

    assert set(parts(Bare(), (2, 2, 1)).values()) == {"classifier"}


def test_an_unknown_part_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"'stage4'\. Did you mean 'stage"):
        members(models.create("ResNet8", 5), (8, 8, 3), ("stage4",))
