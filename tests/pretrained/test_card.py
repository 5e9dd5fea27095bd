import json

import pytest

from pretrained import card
from registry import UserError


def written(folder, **content):
    (folder / "config.json").write_text(json.dumps(content))
    return card.read(folder / "config.json")


SAME = [
    ("ResNet50", {"architecture": "resnet50"}),
    ("ResNet50", {"architecture": "resnet50", "model_args": {"num_classes": 10, "in_chans": 3, "global_pool": "avg"}}),
    ("ResNet56", {"architecture": "cifar100_resnet56"}),
    ("ViT_Ti", {"architecture": "vit_tiny_patch16_224"}),
    ("ViT_Ti", {"architecture": "deit_tiny_distilled_patch16_224"}),
    ("ViT_B", {"architectures": ["ViTForImageClassification"], "hidden_act": "gelu"}),
    ("ViT_S", {"architectures": ["DeiTForImageClassificationWithTeacher"], "hidden_act": "gelu"}),
    ("ConvNeXt_T", {"architecture": "convnext_tiny"}),
    ("MobileNetV2", {"architecture": "mobilenetv2_100"}),
    ("mine:Network", {"architecture": "resnet50"}),
    ("ResNet50", {"pretrained_cfg": {"mean": [0.5]}}),  # names no network
]


@pytest.mark.parametrize(("arch", "content"), SAME)
def test_a_card_of_the_same_network_is_accepted(arch, content, tmp_path):
    card.check(written(tmp_path, **content), arch)


OTHERS = [
    ("ResNet50", {"architecture": "resnetaa50"}, "'resnetaa50'; --arch is ResNet50"),
    ("ResNet50", {"architecture": "resnet50d"}, "'resnet50d'"),
    ("ResNet50", {"architecture": "resnet50_gn"}, "'resnet50_gn'"),
    ("ResNet50", {"pretrained_cfg": {"architecture": "resnetaa50"}}, "'resnetaa50'"),
    ("ResNet18", {"architecture": "resnet34"}, "'resnet34'"),
    ("ViT_S", {"architecture": "vit_tiny_patch16_224"}, "'vit_tiny_patch16_224'"),
    ("ViT_B", {"architecture": "vit_base_patch16_clip_224"}, "'vit_base_patch16_clip_224'"),
    ("VGG16", {"architecture": "vgg16_bn"}, "'vgg16_bn'"),
    ("ConvNeXt_T", {"architecture": "convnextv2_tiny"}, "'convnextv2_tiny'"),
    ("ViT_B", {"architectures": ["ViTForImageClassification"], "hidden_act": "relu"}, "hidden_act relu"),
    ("ResNet50", {"architecture": "resnet50", "model_args": {"act_layer": "silu"}}, "model_args act_layer=silu"),
    ("ViT_B", {"architecture": "vit_base_patch16_224", "model_args": {"global_pool": "avg"}}, "global_pool=avg"),
]


@pytest.mark.parametrize(("arch", "content", "message"), OTHERS)
def test_a_card_of_another_network_is_refused(arch, content, message, tmp_path):
    with pytest.raises(UserError) as caught:
        card.check(written(tmp_path, **content), arch)
    assert message in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_card_has_the_input_and_the_classes(tmp_path):
    timm = written(tmp_path, pretrained_cfg={"mean": [0.5], "std": [0.25]}, label_names=["ant", "bee"])
    assert (timm.mean, timm.std, timm.class_names) == ((0.5,), (0.25,), ("ant", "bee"))
    assert written(tmp_path, id2label={"10": "k", "9": "j"}).class_names == ("j", "k")
    assert written(tmp_path, id2label={"0": "LABEL_0", "1": "LABEL_1"}).class_names == ()


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"architectures": 3, "pretrained_cfg": [], "id2label": {"a": 1}}']
)
def test_a_card_of_another_program_says_nothing(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    found = card.read(path)
    card.check(found, "ResNet50")
    assert (found.mean, found.std, found.class_names, found.architectures) == ((), (), (), ())
    assert card.read(tmp_path / "nowhere.json") == card.Card()
