import json

import pytest
from training.run import _augmentation

import data
from configs import funmatch
from registry import UserError
from training import config as configs


def checked(**changes):
    config = configs.merge({"distiller": "SoftLogits", **changes})
    configs.check(config)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resized_crop": 1.5}, "'resized_crop' is a share"),
        ({"resized_crop": -0.1}, "'resized_crop' must not be negative"),
        ({"resized_crop": 0.5, "crop_pad": 2}, "takes the place of 'crop_pad'"),
        ({"randaugment": -1}, "'randaugment' must not be negative"),
        ({"magnitude": 31}, "'magnitude' is at most 30"),
        ({"mixup": -1.0}, "'mixup' must not be negative"),
        ({"cutmix": float("nan")}, "'cutmix' must be a finite number"),
        ({"strong_view": "fixmach"}, "Did you mean 'fixmatch'"),
        ({"optimizer": "adam"}, "Did you mean 'adamw'"),
        ({"optimizer": "adamw", "nesterov": True}, "'nesterov' belongs to optimizer 'sgd'"),
        ({"clip_norm": -1.0}, "'clip_norm' must not be negative"),
        ({"ramp_epochs": 31.0}, "more than 'train_epoch' 30"),
    ],
    ids=str,
)
def test_impossible_augmentations_and_optimizers_are_told(changes, message):
    with pytest.raises(UserError, match=message):
        checked(**changes)


def test_the_defaults_change_nothing_of_the_datasets_own():
    dataset = data.load("Digits")
    assert _augmentation(checked(), dataset) == dataset.augmentation


def test_every_key_of_the_augmentation_arrives():
    changes = {"resized_crop": 0.5, "randaugment": 2, "magnitude": 7, "mixup": 0.2, "cutmix": 1.0}
    found = _augmentation(checked(**changes, flip="yes", strong_view="fixmatch"), data.load("Digits"))
    assert found == data.Augmentation(flip=True, strong="fixmatch", **changes)


def test_funmatch_is_kl_alone_on_images_mixed_by_uniform_shares():
    config = checked(**funmatch.get_config())
    assert dict(config.distiller_options) == {"weight": 1.0, "ce_weight": 0.0, "temperature": 1.0}
    assert config.mixup == 1.0
    assert config.weight_decay * config.learning_rate == pytest.approx(3e-4)  # the paper's decay


def test_a_run_from_before_a_key_existed_goes_on_unless_it_now_has_another_value():
    now = json.loads(json.dumps(configs.merge({"mixup": 0.2}).to_dict()))
    for key in now.keys() - {"distiller"}:  # as old as the project; its default depends on the strategy
        before = {name: value for name, value in now.items() if name != key}
        expected = ["mixup: 0.0 there, 0.2 now"] if key == "mixup" else []
        assert configs.differences(before, now) == expected
