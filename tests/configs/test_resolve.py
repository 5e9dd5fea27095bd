"""`resolve`: a recipe becomes a complete config, or a mistake is found before anything compiles."""

import json

import pytest
from ml_collections import FrozenConfigDict
from PIL import Image

import data
from configs import funmatch
from configs.default import KEYS, get_config
from configs.resolve import differences, merge, plain, resolve
from registry import UserError
from training.builder import Builder


def resolved(**changes):
    return resolve({"distiller": "SoftLogits", "teacher_param": "tests/teacher", **changes}, tuple(changes))[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resized_crop": 1.5}, "'resized_crop' must be from 0 to 1"),
        ({"resized_crop": -0.1}, "'resized_crop' must be from 0 to 1"),
        ({"resized_crop": 0.5, "crop_pad": 2}, "takes the place of 'crop_pad'"),
        ({"randaugment": -1}, "'randaugment' must not be negative"),
        ({"magnitude": 31}, "'magnitude' must be from 0 to 30"),
        ({"mixup": -1.0}, "'mixup' must not be negative"),
        ({"cutmix": float("nan")}, "'cutmix' must be a finite number"),
        ({"strong_view": "fixmach"}, "'strong_view' must be 'randaugment' or 'fixmatch'"),
        ({"optimizer": "adam"}, "'optimizer' must be 'sgd', 'adamw', 'dot', 'muon' or 'lamb'"),
        ({"optimizer": "adamw", "nesterov": True}, "--nesterov True has no effect: 'optimizer' is 'adamw', not 'sgd'"),
        (
            {"optimizer": "muon", "momentum": 0.5},
            "--momentum 0.5 has no effect: 'optimizer' is 'muon'",
        ),
        ({"label_smoothing": 1.1}, "'label_smoothing' must be from 0 to 1"),
        ({"random_erasing": -0.1}, "'random_erasing' must be from 0 to 1"),
        ({"ema_weights": 1.0}, "'ema_weights' must be at least 0 and below 1"),
        ({"accumulate": 0}, "'accumulate' must be above 0"),
        ({"accumulate": 5}, r"--batch_size 64 in 5 parts \('accumulate'\) has parts of unequal size"),
        ({"accumulate": 2, "transfer": "DLB"}, "--transfer DLB compares each with the one before"),
        (
            {"accumulate": 32, "distiller": "RKD"},
            r"examples of a part, and below 3 of them.*\n.*size of 96",
        ),
        ({"clip_norm": -1.0}, "'clip_norm' must not be negative"),
        ({"ramp_epochs": 31.0}, "more than 'train_epoch' 30"),
        ({"milestones": (0.6, 0.3)}, "'milestones' must be rising shares"),
        ({"milestones": (0.6, 1.0)}, "'milestones' must be above 0 and below 1"),
        ({"seed": 2**31 - 1, "seeds": 2}, r"must be below 2\*\*31"),
        ({"optimizer": "dot", "clip_norm": 1.0}, "'clip_norm' 1.0 clips"),
        ({"crop_mode": "reflect", "crop_pad": 8}, "too large to reflect"),
        ({"distiller_options": 3}, "must be a dict"),
    ],
    ids=str,
)
def test_impossible_values_raise(changes, message):
    with pytest.raises(UserError, match=message):
        resolved(**changes)


def test_a_config_is_complete_and_cannot_be_written_to():
    config = resolved(distiller_options={"temperature": 2.0})
    assert isinstance(config, FrozenConfigDict)
    assert set(config) == set(KEYS)
    assert config.teacher_arch == "CNN"  # of the weights
    assert (config.crop_pad, config.flip) == (0, "no")  # the dataset's
    assert config.train_path == "runs/digits-resnet8-offline-softlogits-s0"
    for write in (
        lambda: setattr(config, "seed", 1),
        lambda: setattr(config, "new", 1),
        lambda: setattr(config.distiller_options, "temperature", 3.0),
        lambda: config.__setitem__("seed", 1),
        lambda: config.__delitem__("seed"),
    ):
        with pytest.raises((AttributeError, TypeError)):
            write()
    assert (config.seed, config.distiller_options.temperature) == (0, 2.0)


def test_a_recipe_stays_as_it_was_and_gives_the_same_config_twice():
    recipe = {"distiller": "AT", "distiller_options": {"p": 4}, "student_options": {"widths": [8, 8, 8, 12]}}
    recipe |= {"student_arch": "CNN"}
    before = json.dumps(recipe)
    assert resolve(recipe) == resolve(recipe)
    assert json.dumps(recipe) == before


ALL = {"resized_crop": 0.5, "randaugment": 2, "magnitude": 7, "random_erasing": 0.2, "mixup": 0.2, "cutmix": 1.0}


# Key -> a value, and one recipe for each of the key's conditions, in which the key has no effect.
UNLABELLED = {"dataset": "Images", "data_dir": "{images}", "batch_size": 2, "teacher_param": "tests/teacher"}
WITHOUT = {
    "student_quantize": ("int8", [{"dtype": "bfloat16"}]),
    "teacher_logits": ("x.npy", [{"transfer": "PCL"}, {"transfer": "Online", "teacher_param": "tests/teacher"}]),
    "teacher_arch": ("CNN", [{"transfer": "PCL"}, {"teacher_logits": "x.npy"}]),
    "teacher_param": ("tests/teacher", [{"transfer": "PCL"}, {"transfer": "Mutual"}, {"teacher_logits": "x.npy"}]),
    "init_head": ("teacher", [{"transfer": "PCL"}, {"transfer": "Mutual"}, {"transfer": "Online"}]),
    "freeze": ("stem", [{}]),
    "head_learning_rate": (0.5, [{}]),
    "teacher_dtype": ("bfloat16", [{"transfer": "PCL"}, {"transfer": "Mutual"}, {"transfer": "Online"}]),
    "teacher_taps": ("a", [{"transfer": "PCL"}, {"transfer": "Online", "teacher_param": "tests/teacher"}, {}]),
    "teacher_input": ("data", [{"transfer": "PCL"}, {"transfer": "Online", "teacher_param": "tests/teacher"}, {}]),
    "teacher_image_size": (16, [{"transfer": "PCL"}, {"transfer": "Mutual"}, {"transfer": "Online"}]),
    "teacher_views": (2, [{"transfer": "PCL"}, {"transfer": "Online", "teacher_param": "tests/teacher"}]),
    "teacher_bank_dtype": ("float32", [{}]),
    "teacher_bank_top_k": (2, [{}]),
    "distiller": ("AT", [{"transfer": "KDCL"}]),
    "distiller_options": ({"weight": 2.0}, [{"transfer": "KDCL"}]),
    "channels": (1, [{}]),
    "skip_damaged": (True, [{}]),
    "resize": (9, [{}]),
    "interpolation": ("bicubic", [{}]),
    "loading_threads": (3, [{}]),
    "check_files": (True, [{}]),
    "steps_per_call": ("3", [{"loading": "stream"}]),
    "num_labels": (100, [UNLABELLED]),
    "sampling": ("balanced", [UNLABELLED, {"num_labels": 100}]),
    "class_weights": ("balanced", [UNLABELLED, {"num_labels": 100}]),
    "crop_pad": (2, [{"resized_crop": 0.5}]),
    "crop_mode": ("reflect", [{"resized_crop": 0.5}, {}]),
    "magnitude": (3, [{}]),
    "trivialaugment": (True, [{"randaugment": 2}]),
    "strong_view": ("fixmatch", [{}]),
    "batch_norm_chips": (1, [{}]),
    "momentum": (0.5, [{"optimizer": "adamw"}]),
    "ema_weights": (0.9, [{"transfer": "BornAgain"}]),
    "dot_delta": (0.01, [{}]),
    "nesterov": (True, [{"optimizer": "dot"}]),
    "decay_kernels_only": (True, [{"weight_decay": 0.0}]),
    "milestones": ((0.5,), [{"schedule": "cosine"}]),
    "decay_factor": (0.5, [{"schedule": "constant"}]),
    "stack_seeds": ("yes", [{}]),
    "keep_epochs": (31, [{}]),
}
WITH = {  # what the default recipe lacks for the key to have an effect
    "freeze": {"init_param": "tests/teacher"},
    "head_learning_rate": {"init_param": "tests/teacher"},
    "teacher_bank_dtype": {"teacher_views": 1},
    "teacher_bank_top_k": {"teacher_views": 1},
    "loading_threads": {"loading": "stream"},
    "crop_mode": {"crop_pad": 1},
    "magnitude": {"randaugment": 1},
    "strong_view": {"distiller": "MLKD"},
    "stack_seeds": {"seeds": 2},
    "keep_epochs": {"distiller": "FSP"},  # 30 epochs of its own come first
    "dot_delta": {"optimizer": "dot"},
}
CASES = [(key, number) for key, (_, recipes) in WITHOUT.items() for number in range(len(recipes))]


def test_the_table_has_every_condition_of_every_key():
    conditions = {name: len(key.metadata["needs"]) for name, key in KEYS.items() if key.metadata["needs"]}
    assert {key: len(recipes) for key, (_, recipes) in WITHOUT.items()} == conditions


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of pictures without labels."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize(("key", "number"), CASES)
def test_a_typed_key_without_effect_raises_and_one_of_a_recipe_file_is_noted(key, number, images):
    value, recipes = WITHOUT[key]
    recipe = {"student_arch": "CNN", **recipes[number], key: value}
    recipe |= {"data_dir": images} if recipes[number] is UNLABELLED else {}
    shown = f"config.{key}.weight" if isinstance(value, dict) else f"{key} {value}"
    with pytest.raises(UserError) as raised:
        resolve(recipe, (key,))
    assert str(raised.value).startswith(f"--{shown} has no effect: ")
    assert str(raised.value).endswith(". Leave it out.")
    config, notes = resolve(recipe, ("student_arch",))
    assert [note for note in notes if note.startswith(f"{shown} has no effect: ")]
    assert plain(config)[key] in (plain(get_config())[key], "CNN", 0)  # the default, or what follows from other keys
    assert resolve({name: x for name, x in recipe.items() if name != key})[0] == config


TORCH = ("teacher_taps", "teacher_input")


@pytest.mark.parametrize("key", [key for key in WITHOUT if key not in (*data.KEYS, *TORCH)])
def test_a_typed_key_with_effect_is_taken(key):
    """The dataset's own keys need a folder of images; tests/test_command_lines.py has one. `TORCH` needs PyTorch."""
    value, _ = WITHOUT[key]
    recipe = {"student_arch": "CNN", "teacher_param": "tests/teacher", **WITH.get(key, {}), key: value}
    if key == "teacher_logits":  # in the place of a network
        del recipe["teacher_param"]
    config, notes = resolve(recipe, tuple(recipe), devices=2)
    assert plain(config)[key] == value
    assert not notes


@pytest.mark.parametrize(
    ("method", "chosen", "path"),
    [
        ("CC", {"gamma": 1.0}, "gamma"),
        ("CC", {"kernel": True, "project_to": 8}, "project_to"),
        ("SoftLogits+CC", {"CC": {"order": 3}}, "CC.order"),
        ("CTKD", {"hidden": 8}, "hidden"),
        ("ExplanationMatch", {"temperature": 2.0}, "temperature"),
        ("ExplanationMatch", {"classes": "label", "top_k": 2}, "top_k"),
    ],
    ids=str,
)
def test_an_option_of_a_method_without_effect_raises_or_is_noted(method, chosen, path):
    recipe = {"distiller": method, "distiller_options": chosen, "student_arch": "CNN", "teacher_param": "tests/teacher"}
    with pytest.raises(UserError, match=f"--config.distiller_options.{path} has no effect: '.*Leave it out"):
        resolve(recipe, tuple(recipe))
    assert [note for note in resolve(recipe)[1] if note.startswith(f"distiller_options.{path} has no effect")]


def test_an_option_of_a_method_with_effect_is_taken():
    chosen = {"kernel": True, "gamma": 1.0, "order": 3}
    recipe = {"distiller": "CC", "distiller_options": chosen, "student_arch": "CNN", "teacher_param": "tests/teacher"}
    assert resolve(recipe, tuple(recipe))[1] == []


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"distiller_options": {"temperature": 1e6}}, "distiller_options.temperature"),
        (
            {"distiller": "AT+DKD", "distiller_options": {"DKD": {"temperature": 1e6}}},
            "distiller_options.DKD.temperature",
        ),
        (
            {"transfer": "TfKD", "distiller": "", "transfer_options": {"temperature": 1e6}},
            "transfer_options.temperature",
        ),
    ],
    ids=str,
)
def test_a_temperature_that_leaves_only_rounding_is_noted(changes, path):
    notes = resolve({"student_arch": "CNN", "distiller": "SoftLogits", **changes})[1]
    assert [note for note in notes if note.startswith(f"{path} 1e+06 leaves little of the logits")]
    assert not resolve({"student_arch": "CNN", "distiller": "SoftLogits"})[1]


def test_the_hint_to_train_a_teacher_has_the_data(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "x.png")
    own = {"dataset": "ImageFolder", "data_dir": str(tmp_path), "image_size": 8, "batch_size": 2}
    for changes in ({}, {"teacher_param": str(tmp_path / "none")}):
        with pytest.raises(UserError, match=f"--dataset ImageFolder --data_dir {tmp_path} --image_size 8 --train_path"):
            Builder(resolve({**own, **changes, "distiller": "SoftLogits", "student_arch": "CNN"})[0])


def test_under_the_baseline_a_typed_method_is_noted_and_a_wrong_name_raises():
    """`Labels` stands in tables beside the others, so the same command with another `--transfer` is allowed."""
    _, notes = resolve({"transfer": "Labels", "distiller": "AT"}, ("transfer", "distiller"))
    assert notes[0].startswith("distiller AT has no effect")
    with pytest.raises(UserError, match=r"Unknown distiller 'ATT'\. Did you mean 'AT'"):
        resolve({"transfer": "Labels", "distiller": "ATT"})


def test_the_digits_have_a_teacher_and_a_weight_of_their_own():
    config = resolve({"distiller": "AT"})[0]
    assert (config.teacher_param, config.teacher_arch) == ("pretrained/resnet20_digits", "ResNet20")
    assert config.distiller_options.weight == 100.0
    assert resolve({"distiller": "AT", "distiller_options": {"weight": 5.0}})[0].distiller_options.weight == 5.0
    assert merge({"distiller": "AT", "dataset": "CIFAR10"})["distiller_options"] == {}
    assert merge({"transfer": "Online"})["teacher_param"] == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, data.load("Digits").augmentation),
        (
            {**ALL, "flip": "yes", "strong_view": "fixmatch", "distiller": "MLKD"},
            data.Augmentation(flip=True, strong="fixmatch", erase_with=data.load("Digits").mean, **ALL),
        ),
        ({"crop_pad": 2, "crop_mode": "reflect"}, data.Augmentation(pad=2, mode="reflect", flip=False)),
        ({"trivialaugment": True}, data.Augmentation(trivialaugment=True)),
    ],
    ids=["the dataset's own", "every key", "crop", "trivialaugment"],
)
def test_the_keys_of_the_augmentation_arrive(changes, expected, monkeypatch):
    monkeypatch.setattr(Builder, "_cast", lambda self: None)  # no networks
    assert Builder(resolved(**changes)).augmentation == expected


def test_funmatch_is_kl_alone_on_images_mixed_by_uniform_shares():
    config = merge(funmatch.get_config())
    assert config["distiller_options"] == {"weight": 1.0, "ce_weight": 0.0, "temperature": 1.0}
    assert config["mixup"] == 1.0
    assert config["weight_decay"] * config["learning_rate"] == pytest.approx(3e-4)  # the paper's decay


def test_a_run_from_before_a_key_existed_goes_on_unless_it_now_has_another_value():
    now = json.loads(json.dumps(merge({"mixup": 0.2})))
    own = {"distiller", "teacher_param", "distiller_options"}  # defaults that depend on strategy and dataset
    for key in now.keys() - own:
        before = {name: value for name, value in now.items() if name != key}
        expected = ["mixup: 0.0 there, 0.2 now"] if key == "mixup" else []
        assert differences(before, now) == expected


def test_keys_that_change_no_number_may_differ():
    now = merge({})
    for name, key in KEYS.items():
        changed = differences(now, {**now, name: "another"})
        assert bool(changed) != key.metadata["free"], name
