"""What a dataset without labels excludes, and what it sets."""

import re

import pages
import pytest
from PIL import Image

import distiller
from configs.resolve import dataset_of, resolve
from registry import UserError


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(6):
        Image.new("L", (8, 8), i).save(folder / f"{i}.png")
    own = {"dataset": "Images", "data_dir": str(folder), "image_size": 8, "channels": 1, "batch_size": 2}
    return {**own, "student_arch": "CNN", "teacher_param": "tests/teacher"}


def test_the_classes_are_the_teachers(recipe):
    config, _ = resolve(recipe)
    assert dataset_of(config).class_names == tuple("0123456789")
    with pytest.raises(UserError, match="'teacher_bank_top_k' 10 must be below the 10 classes"):
        resolve({**recipe, "teacher_views": 1, "teacher_bank_top_k": 10})


@pytest.mark.parametrize(
    ("method", "given", "note"),
    [
        ("SoftLogits", {}, "not 0.1"),
        ("SoftLogits", {"ce_weight": 0.0}, ""),
        ("SoftLogits", {"ce_weight": 0.5}, "not 0.5"),
        ("SoftLogits+AT", {"AT": {"weight": 2.0, "ce_weight": 0.7}}, "not 0.1"),
        ("SoftLogits", {"SoftLogits": {"ce_weight": 0.25}}, "not 0.25"),
    ],
    ids=str,
)
def test_the_weight_of_the_label_loss_becomes_0_and_a_note_says_so(method, given, note, recipe):
    config, notes = resolve({**recipe, "distiller": method, "distiller_options": given})
    assert distiller.create(method, **config.distiller_options.to_dict()).ce_weight == 0
    assert [line for line in notes if "ce_weight" in line and note in line] == (notes if note else [])
    assert bool(note) == bool(notes)
    if "AT" in given:
        assert config.distiller_options.AT.weight == 2.0


@pytest.mark.parametrize("given", [{"ce_weight": 0.5}, {"SoftLogits": {"ce_weight": 0.5}}], ids=str)
def test_a_typed_weight_of_the_label_loss_is_refused(given, recipe):
    with pytest.raises(UserError, match=r"no labels, so the weight of the label loss, ce_weight, is 0; got 0\.5\.\n"):
        resolve({**recipe, "distiller": "SoftLogits", "distiller_options": given}, ("distiller_options",))
    for zero in ({"ce_weight": 0.0}, {"temperature": 2.0}):
        config, _ = resolve({**recipe, "distiller": "SoftLogits", "distiller_options": zero}, ("distiller_options",))
        assert config.distiller_options.ce_weight == 0


@pytest.mark.parametrize("transfer", ["Labels", "Online", "Mutual", "BornAgain", "EMA", "CSKD", "TfKD"])
def test_a_strategy_without_a_frozen_teacher_is_refused(transfer, recipe):
    with pytest.raises(UserError) as raised:
        resolve({**recipe, "transfer": transfer})
    first, second = str(raised.value).split("\n")
    assert first == f"Images has no labels, and --transfer {transfer} learns from labels."
    command = "python train_w_kd.py --transfer Offline --teacher_param P --dataset Images --data_dir "
    assert second == f"Distil a teacher: {command}{recipe['data_dir']}"


def test_no_teacher_is_told_and_the_hint_to_train_one_has_labels(recipe):
    with pytest.raises(UserError, match="Images has no labels, and no --teacher_param names a trained teacher"):
        resolve({**recipe, "teacher_param": ""})
    with pytest.raises(UserError, match=r"train_teacher\.py --arch .* --dataset ImageFolder --data_dir LABELLED "):
        resolve({**recipe, "teacher_param": "nowhere"})


@pytest.mark.parametrize(
    ("method", "named", "instead"),
    [
        ("DKD", "DKD", "Take SoftLogits,"),
        ("SoftLogits+NKD+AT", "NKD", "Take SoftLogits,"),
        ("FSP", "FSP", "Take SoftLogits,"),
        ("AB+FSP", "AB+FSP", "Take SoftLogits,"),
        ("AB+DKD+AT", "DKD", "Take SoftLogits,"),
        ("LwM", "LwM", "Take --config.distiller_options.classes=teacher,"),
        ("AT+LwM", "LwM", "Take --config.distiller_options.LwM.classes=teacher,"),
    ],
)
def test_a_method_that_teaches_by_labels_alone_is_refused(method, named, instead, recipe):
    message = re.escape(f"Images has no labels, and --distiller {named} needs them.\n{instead}")
    with pytest.raises(UserError, match=message):
        resolve({**recipe, "distiller": method})


def test_a_method_that_can_do_without_labels_is_taken(recipe):
    for method, options in (("LwM", {"classes": "teacher"}), ("SoftLogits+CRD", {}), ("AB+SoftLogits", {})):
        assert resolve({**recipe, "distiller": method, "distiller_options": options})[0].distiller == method


def test_the_page_names_the_methods_that_need_labels():
    page = " ".join(pages.PAGES["your_data.md"].split())
    always, by_option = re.search(
        r"no label\. ([\w, ]+) need labels and are refused\. ([\w ]+) read labels", page
    ).groups()
    needing = [name for name in distiller.names() if distiller.create(name).needs_labels]
    assert sorted(re.split(r", | and ", always)) == sorted(set(needing) - {"LwM"})
    for name in by_option.split(" and "):
        found = [distiller.create(name, classes=classes).needs_labels for classes in ("label", "teacher")]
        assert found == [True, False]
