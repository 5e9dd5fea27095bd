import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import models
import pretrained
from pretrained import convert, naming
from pretrained.foreign_names import translate
from registry import DamagedFileError, UserError


@pytest.fixture(scope="module")
def state():
    """ResNet8's weights under the benchmarks' names."""
    return weights("ResNet8", 10, 8)


def weights(arch, classes, size, channels=3, **options):
    model = models.create(arch, classes, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, channels)))
    random = np.random.RandomState(0)
    variables = jax.tree.map(lambda x: random.uniform(0.1, 0.3, x.shape).astype(np.float32), dict(shapes))
    return pretrained.to_torch(model, variables)


def behind(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])


def taken(tensors, **choice):
    return naming.select("FILE", tensors, **choice)


def refused(tensors, **choice):
    with pytest.raises(UserError) as caught:
        taken(tensors, **choice)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


WRAPPERS = ["module.", "_orig_mod.", "module.student.", "model.", "state_dict."]


@pytest.mark.parametrize("prefix", ["", *WRAPPERS, *map("".join, itertools.permutations(WRAPPERS, 2)), "my_net."])
def test_any_pile_of_prefixes_is_found_and_said(prefix, state):
    chosen = taken(behind(prefix, state | {"bn1.num_batches_tracked": np.array(3)}))
    same(chosen.tensors, state)
    assert chosen.prefix == prefix
    assert chosen.notes == ([f"Names: '{prefix}' is left off the names of 47 tensors."] if prefix else [])


def test_a_backbone_and_a_head_beside_it_are_one_network(state):
    split = {n if n.startswith("fc") else f"backbone.{n}": x for n, x in state.items()}
    chosen = taken(behind("model.", split))
    same(chosen.tensors, state)
    assert chosen.notes == ["Names: 'model.backbone.' is left off the names of 47 tensors."]


@pytest.mark.parametrize(
    "prefixes", [("state_dict.", "state_dict_ema."), ("", "ema."), ("model.", "model_ema.module.")]
)
def test_raw_and_ema_weights_are_told_apart(prefixes, state):
    raw, ema = prefixes
    averaged = {name: value + 1 for name, value in state.items()}
    both = behind(raw, state) | behind(ema, averaged)
    chosen = taken(both)
    same(chosen.tensors, state)
    assert f"Weights: the raw ones are taken; --weights ema takes those under '{ema}'." in chosen.notes
    same(taken(both, weights="raw").tensors, state)
    chosen = taken(both, weights="ema")
    same(chosen.tensors, averaged)
    assert any("the EMA ones are taken; --weights raw" in note for note in chosen.notes)
    same(taken(both, prefix=ema).tensors, averaged)
    same(taken(both, prefix=ema.rstrip(".")).tensors, averaged)


def test_ema_weights_alone_are_taken_and_said(state):
    chosen = taken(behind("model_ema.", state))
    same(chosen.tensors, state)
    assert "Weights: the EMA ones are taken; the file has no others here." in chosen.notes
    assert "has EMA weights alone: 'model_ema.'. Leave out --weights raw" in refused(
        behind("model_ema.", state), weights="raw"
    )
    assert "has raw weights alone" in refused(state, weights="ema")


def test_of_two_networks_the_user_chooses_one(state):
    teacher = {name: value + 1 for name, value in state.items()}
    both = behind("module.student.", state) | behind("module.teacher.", teacher)
    message = refused(both)
    assert "holds 2 networks, under the prefixes 'module.student.', 'module.teacher.'" in message
    assert "--prefix module.student." in message
    same(taken(both, prefix="module.teacher").tensors, teacher)
    same(taken(both, prefix="student").tensors, state)  # the wrapper before it is found
    message = refused(both, prefix="assistant")
    assert "no name begins with 'assistant.'" in message
    assert "'module.student.' (47)" in message


def test_some_tensors_beside_a_network_are_left_out_and_said(state):
    chosen = taken(behind("state_dict.model.", state) | {"state_dict.criterion.weight": np.ones(3)})
    same(chosen.tensors, state)
    assert chosen.notes[-1] == "Left out: 1 tensors, such as 'state_dict.criterion.weight'."


def test_values_that_are_not_finite_are_named_in_the_files_own_words(state):
    bad = state | {"fc.weight": np.full_like(state["fc.weight"], np.nan)}
    with pytest.raises(DamagedFileError, match=r"FILE: 'model\.fc\.weight' has values that are not finite \(1 of 47"):
        taken(behind("model.", bad))
    same(taken(behind("raw.", state) | behind("ema.", bad), weights="raw").tensors, state)  # others do not matter


def fitted(arch, classes, shape, tensors, **options):
    model = models.create(arch, classes, **options)
    chosen = taken(tensors)
    return pretrained.to_torch(model, naming.variables_of(model, chosen, shape, arch)), chosen.notes


def misfit(arch, classes, shape, tensors, **options):
    with pytest.raises(UserError) as caught:
        fitted(arch, classes, shape, tensors, **options)
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


@pytest.mark.parametrize("head", ["linear", "classifier", "head.fc", "output"])
def test_a_head_of_another_name_is_renamed(head, state):
    theirs = {name.replace("fc.", f"{head}.").replace("downsample", "shortcut"): x for name, x in state.items()}
    found, notes = fitted("ResNet8", 10, (8, 8, 3), behind("module.", theirs))
    same(found, state)
    assert f"Names: '{head}' is taken for the last layer, 'fc'." in notes


def test_the_small_stems_own_names_are_renamed_too():
    ours = weights("ResNet18", 10, 8, stem="cifar")
    theirs = {n.replace("linear.", "fc.").replace("shortcut", "downsample"): x for n, x in ours.items()}
    assert theirs.keys() != ours.keys()
    found, _ = fitted("ResNet18", 10, (8, 8, 3), theirs, stem="cifar")
    same(found, ours)


VIT = {"width": 16, "heads": 2, "depth": 2, "stages": 2, "patch_size": 8, "image_size": 16}


def transformers_vit(state, model):
    """timm's names -> transformers', spelled out by hand; query, key and value apart."""
    top = {
        "cls_token": f"{model}.embeddings.cls_token",
        "dist_token": f"{model}.embeddings.distillation_token",
        "pos_embed": f"{model}.embeddings.position_embeddings",
        "patch_embed.proj": f"{model}.embeddings.patch_embeddings.projection",
        "norm": f"{model}.layernorm",
        "head": "classifier" if model == "vit" else "cls_classifier",
        "head_dist": "distillation_classifier",
    }
    inner = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    inner |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    result = {}
    for name, value in state.items():
        stem, _, leaf = name.rpartition(".")
        if name in top:
            result[top[name]] = value
        elif stem in top:
            result[f"{top[stem]}.{leaf}"] = value
        else:
            _, number, part = stem.split(".", 2)
            layer = f"{model}.encoder.layer.{number}"
            if part == "attn.qkv":
                for third, piece in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                    result[f"{layer}.attention.attention.{third}.{leaf}"] = piece
            else:
                result[f"{layer}.{inner[part]}.{leaf}"] = value
    return result


@pytest.mark.parametrize(("model", "distilled"), [("vit", False), ("deit", True)])
def test_transformers_vit_is_renamed(model, distilled):
    options = VIT | {"distilled": distilled}
    state = weights("ViT_Ti", 5, 16, **options)
    theirs = transformers_vit(state, model)
    assert theirs.keys().isdisjoint(state.keys())
    found, _ = fitted("ViT_Ti", 5, (16, 16, 3), behind("model.", theirs), **options)
    same(found, state)
    guessed = {"patch_size": 8, "image_size": 16} | ({"distilled": True} if distilled else {})
    assert naming.guess_options("ViT_Ti", theirs) == guessed


def test_one_output_becomes_two_logits():
    two = weights("ResNet8", 2, 8)
    one = two | {"fc.weight": two["fc.weight"][1:], "fc.bias": two["fc.bias"][1:]}
    found, notes = fitted("ResNet8", 2, (8, 8, 3), one)
    assert "sigmoid(z)" in notes[-1]
    same({n: x for n, x in found.items() if not n.startswith("fc.")}, {n: x for n, x in one.items() if n[:3] != "fc."})
    embedding = np.random.RandomState(1).standard_normal((5, 64)).astype(np.float32)
    z = embedding @ one["fc.weight"].T + one["fc.bias"]
    logits = embedding @ found["fc.weight"].T + found["fc.bias"]
    np.testing.assert_allclose(logits, np.concatenate([np.zeros_like(z), z], axis=1), rtol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(logits)[:, 1], jax.nn.sigmoid(z[:, 0]), rtol=1e-6)
    message = misfit("ResNet8", 4, (8, 8, 3), one)
    assert "'fc.bias' has shape (1,), needed (4,)" in message
    assert "--num_classes 2 makes two logits of it, 0 and z" in message


@pytest.mark.parametrize("given", ["1", "2"])
def test_the_command_takes_one_output_as_two_classes(given, tmp_path, capsys):
    two = weights("ResNet8", 2, 8)
    one = two | {"fc.weight": two["fc.weight"][1:], "fc.bias": two["fc.bias"][1:]}
    safetensors.numpy.save_file(one, tmp_path / "sigmoid")
    flags = ["--arch", "ResNet8", "--dataset", "ImageFolder", "--num_classes", given, "--image_size", "8"]
    assert convert.main([str(tmp_path / "sigmoid"), *flags, "--out", str(tmp_path / "ours")]) == 0
    assert "two logits, 0 and z" in capsys.readouterr().out
    assert pretrained.load(tmp_path / "ours").info["class_names"] == ["0", "1"]


def bottlenecks(state):
    """Names of a bottleneck ResNet with squeeze-and-excitation."""
    return state | {"layer1.0.conv3.weight": np.ones((64, 16, 1, 1)), "layer1.0.se.fc1.weight": np.ones((4, 16, 1, 1))}


LOOKS = {
    "shortcut A": (
        lambda state: {n: x for n, x in state.items() if "downsample" not in n},
        "a ResNet of depth 8 (1 + 1 + 1 basic blocks), with shortcut A",
    ),
    "another depth": (
        lambda state: state | {n.replace("layer1.0", "layer1.1"): x for n, x in state.items() if "layer1.0" in n},
        "a ResNet of depth 10 (2 + 1 + 1 basic blocks)",
    ),
    "VGG": (
        lambda _: {f"{n}.weight": np.ones(1) for n in ("features.0", "classifier.0", "classifier.3", "classifier.6")},
        "torchvision's VGG with its three-layer classifier; this project's is the benchmarks' form",
    ),
    "transformers": (
        lambda _: {"resnet.embedder.embedder.convolution.weight": np.ones(1), "classifier.1.weight": np.ones(1)},
        "transformers' names",
    ),
    "squeeze": (bottlenecks, "a ResNet with squeeze-and-excitation"),
    "unknown": (
        lambda _: {"stem.a": np.ones(1), "trunk.b": np.ones(1)},
        "no network that is known here; its modules are stem, trunk",
    ),
}


@pytest.mark.parametrize("case", LOOKS)
def test_a_misfit_says_what_the_file_looks_like(case, state):
    change, phrase = LOOKS[case]
    assert f"The file looks like {phrase}" in misfit("ResNet8", 10, (8, 8, 3), change(state))


def test_a_misfit_speaks_in_the_names_of_the_file(state):
    less = behind("module.student.", {n: x for n, x in state.items() if n != "bn1.bias"})
    assert "does not fit ResNet8: missing module.student.bn1.bias (1)." in misfit("ResNet8", 10, (8, 8, 3), less)
    more = behind("module.student.", state | {"connector.weight": np.ones(3)})
    assert "unexpected module.student.connector.weight (1)" in misfit("ResNet8", 10, (8, 8, 3), more)
    theirs = transformers_vit(weights("ViT_Ti", 5, 16, **VIT), "vit")
    del theirs["vit.encoder.layer.1.layernorm_after.bias"]
    theirs["vit.layernorm.bias"] = np.ones(3, np.float32)
    message = misfit("ViT_Ti", 5, (16, 16, 3), theirs, **VIT)
    assert "missing vit.encoder.layer.1.layernorm_after.bias (1)" in message
    assert "'vit.layernorm.bias' has shape (3,), needed (16,)" in message


def test_another_number_of_classes_is_said_with_the_flag(state):
    message = misfit("ResNet8", 4, (8, 8, 3), state)
    assert "'fc.bias' has shape (10,), needed (4,)" in message
    assert "last layer has 10 outputs; is that the number of classes (--num_classes)?" in message


def timm_mobilenet(name):
    """torchvision's name -> timm's, spelled out by hand from the table of stages."""
    counts = (1, 2, 3, 4, 3, 3, 1)
    places = [(stage, block) for stage, count in enumerate(counts) for block in range(count)]
    parts = name.split(".")
    if parts[0] == "classifier":
        return f"classifier.{parts[2]}"
    index = int(parts[1])
    if index in (0, 18):
        return f"{[['conv_stem', 'bn1'], ['conv_head', 'bn2']][index == 18][int(parts[2])]}.{parts[3]}"
    stage, block = places[index - 1]
    inner = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
    if index == 1:
        inner = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    return f"blocks.{stage}.{block}.{inner['.'.join(parts[3:-1])]}.{parts[-1]}"


def test_timms_mobilenet_becomes_torchvisions():
    model = models.create("MobileNetV2", 10, stem="imagenet")
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    names = [model.torch_name(path) for path in traverse_util.flatten_dict(dict(variables))]
    theirs = {timm_mobilenet(name): np.asarray(i) for i, name in enumerate(names)}
    assert len(theirs) == len(names) == 262
    assert naming.guess_options("MobileNetV2", theirs) == {"stem": "imagenet"}
    assert list(translate("MobileNetV2", theirs)[0]) == names


def test_a_resnets_stem_follows_from_its_first_kernel():
    for size, stem in ((7, "imagenet"), (3, "cifar")):
        state = {"conv1.weight": np.zeros((64, 3, size, size))}
        assert naming.guess_options("ResNet18", state) == {"stem": stem}
        assert naming.guess_options("ResNet20", state) == {}
