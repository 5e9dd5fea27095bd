import json
import pathlib
import sys
import types
import zipfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization, traverse_util

import data
import models
import pretrained
from data import tfds_source, tiny_imagenet
from pretrained import convert, naming
from pretrained.foreign_names import translate
from registry import DamagedFileError

ROOT = pathlib.Path(__file__).parent.parent.parent
RESNET8 = ["--arch", "ResNet8", "--dataset", "Digits"]


@pytest.fixture
def state(tiny):
    """ResNet8's variables as a state_dict of NumPy arrays."""
    return pretrained.to_torch(tiny.model, tiny.variables)


@pytest.fixture
def source(tmp_path, state):
    """The same as a .safetensors."""
    safetensors.numpy.save_file(state, tmp_path / "theirs.safetensors")
    return tmp_path / "theirs.safetensors"


def run(*arguments):
    return convert.main([str(a) for a in arguments])


def same(folder, tiny):
    found = traverse_util.flatten_dict(pretrained.load(folder).variables)
    expected = traverse_util.flatten_dict(dict(tiny.variables))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])


def test_safetensors_need_no_pytorch(source, tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(source, *RESNET8, "--out", tmp_path / "new" / "ours") == 0
    same(tmp_path / "new" / "ours", tiny)
    info = pretrained.load(tmp_path / "new" / "ours").info
    assert info["arch"] == "ResNet8"
    assert info["test_top1"] is None
    assert info["image_shape"] == [8, 8, 1]
    assert info["mean"] == [0.3058]
    assert info["command"].startswith("python -m pretrained.convert ")
    assert "stem_conv/kernel" in capsys.readouterr().out  # the parameter overview


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".tar"])
@pytest.mark.parametrize("wrapped", ["bare", "model", "state_dict", "module"])
def test_pytorch_files_in_the_wrappers_of_the_field(wrapped, suffix, state, tmp_path, tiny):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    content = {name: torch.tensor(value) for name, value in state.items()}
    content["bn1.num_batches_tracked"] = torch.tensor(3)
    if wrapped == "module":
        content = {"epoch": 240, "model": {f"module.{name}": value for name, value in content.items()}}
    elif wrapped != "bare":
        content = {"epoch": 240, wrapped: content, "best_acc": torch.tensor(72.3), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / f"theirs{suffix}")
    assert run(tmp_path / f"theirs{suffix}", *RESNET8, "--out", tmp_path / "ours") == 0
    same(tmp_path / "ours", tiny)


def test_a_pytorch_file_without_the_extra_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with zipfile.ZipFile(tmp_path / "theirs.pth", "w") as archive:
        archive.writestr("theirs/data.pkl", b"\x80\x02}.")
    assert run(tmp_path / "theirs.pth", *RESNET8, "--out", tmp_path / "ours") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "pip install 'kd-cookbook[torch]'" in lines[0]


class Payload:
    """What a malicious checkpoint carries."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("executed"),)


def test_code_in_a_file_is_not_executed(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, "theirs.pth")
    assert run("theirs.pth", *RESNET8, "--out", "ours") == 3
    error = capsys.readouterr().err
    assert "cannot be read as tensors only" in error
    assert len(error.splitlines()) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["theirs.pth"]


@pytest.mark.slow
def test_accuracy_is_measured_where_there_is_data(tmp_path, capsys):
    shipped = pretrained.load(ROOT / "pretrained" / "resnet20_digits")
    state = pretrained.to_torch(models.create("ResNet20", 10), shipped.variables)
    safetensors.numpy.save_file(state, tmp_path / "theirs.safetensors")
    arguments = ["--arch", "ResNet20", "--dataset", "Digits", "--data_dir", ""]
    assert run(tmp_path / "theirs.safetensors", *arguments, "--out", tmp_path / "ours") == 0
    found = pretrained.load(tmp_path / "ours")
    assert found.info["test_top1"] == pytest.approx(shipped.info["test_top1"], abs=0.2)
    assert found.info["class_names"] == shipped.info["class_names"]
    assert f"{found.info['test_top1']:.2f} %" in capsys.readouterr().out


def cookbook_names(variables):
    """Our ResNet's variables under the older Flax cookbook's names, spelled out by hand."""
    parts = {"conv1": "conv0", "conv2": "conv1", "bn1": "bn0", "bn2": "bn1"}
    parts |= {"shortcut_conv": "conv_proj", "shortcut_bn": "bn_proj"}
    result = {}
    for (kind, module, *rest), value in traverse_util.flatten_dict(dict(variables)).items():
        if module.startswith("stage"):
            stage, block = module.removeprefix("stage").split("_block")
            module = f"block_{int(stage) - 1}_{block}"
            rest = [module, parts[rest[0]], *rest[1:]]
        module = {"stem_conv": "conv_init", "stem_bn": "bn_init"}.get(module, module)
        result[(kind, module, *rest)] = np.asarray(value)
    return traverse_util.unflatten_dict(result)


def test_the_older_cookbooks_msgpack_brings_its_padding_and_its_statistics(tmp_path):
    model = models.create("ResNet8", 10, padding="SAME")
    shapes = jax.eval_shape(model.init, jax.random.key(1), jnp.zeros((1, 32, 32, 3)))
    random = np.random.RandomState(0)
    variables = jax.tree.map(lambda x: random.standard_normal(x.shape).astype(np.float32), shapes)
    content = {"step": np.asarray(7), **cookbook_names(variables), "opt_state": {"0": {}}}
    (tmp_path / "res8").write_bytes(serialization.msgpack_serialize(content))
    assert run(tmp_path / "res8", "--arch", "ResNet8", "--dataset", "CIFAR10", "--out", tmp_path / "ours") == 0
    found = pretrained.load(tmp_path / "ours")
    assert found.info["options"] == {"padding": "SAME"}
    np.testing.assert_allclose(np.multiply(found.info["mean"], 255), [113.9, 123.0, 125.3])
    np.testing.assert_allclose(np.multiply(found.info["std"], 255), [66.7, 62.1, 63.0])
    player, back = convert.player_of(found, "teacher")
    assert player.model == model
    jax.tree.map(np.testing.assert_array_equal, back, {name: dict(variables[name]) for name in back})


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 5)])
def test_padding_same_is_xlas(size):
    x = np.random.RandomState(0).standard_normal((2, *size, 3)).astype(np.float32)
    same = nn.Conv(4, (3, 3), strides=2, padding="SAME", use_bias=False)
    variables = same.init(jax.random.key(0), x)
    found = models.layers.Conv(4, 3, 2, padding="SAME").apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(found, same.apply(variables, x), rtol=1e-5, atol=1e-5)
    if size == (8, 8):
        assert np.abs(models.layers.Conv(4, 3, 2).apply(variables, x) - found).max() > 0.1


def test_wrong_names_are_listed_and_nothing_is_written(source, tmp_path, capsys):
    assert run(source, "--arch", "ResNet14", "--dataset", "Digits", "--out", tmp_path / "ours") == 2
    assert "missing layer1.1.bn1.bias" in capsys.readouterr().err
    assert run(source, *RESNET8, "--num_classes", "100", "--out", tmp_path / "ours") == 2
    assert "(10,), needed (100,)" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["theirs.safetensors"]


def test_what_is_there_is_replaced_only_if_it_is_weights_and_asked_for(source, tmp_path, tiny, capsys):
    ours, other = tmp_path / "ours", tmp_path / "other"
    assert run(source, *RESNET8, "--out", ours) == 0
    assert run(source, *RESNET8, "--out", ours) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(source, *RESNET8, "--out", ours, "--force", "--mean", "0.5", "--std", "0.25") == 0
    assert pretrained.load(ours).info["mean"] == [0.5]
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    (tmp_path / "link").symlink_to(ours)
    for out in (other, tmp_path / "link", source, tmp_path / "..", "/"):
        assert run(source, *RESNET8, "--out", out, "--force") == 2
    assert (other / "precious.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "other", "ours", "theirs.safetensors"]


MISTAKES = {
    "arch": (["--arch", "ResNet-8", "--dataset", "Digits"], "Did you mean 'ResNet8'"),
    "dataset": (["--arch", "ResNet8", "--dataset", "Digit"], "Did you mean 'Digits'"),
    "option": ([*RESNET8, "--option", "depth=3"], "Cannot build ResNet8"),
    "options of ours": ([*RESNET8, "--option", "dtype=float32"], "without 'num_classes' and 'dtype'"),
    "std": ([*RESNET8, "--std", "0"], "'std' must be above 0"),
    "classes": (["--arch", "ResNet8", "--dataset", "ImageFolder"], "--num_classes is needed"),
    "no source": (RESNET8, "no file 'nowhere.pth'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_two_lines(mistake, source, tmp_path, capsys):
    arguments, message = MISTAKES[mistake]
    file = "nowhere.pth" if mistake == "no source" else source
    assert run(file, *arguments, "--out", tmp_path / "ours") == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 2
    assert not (tmp_path / "ours").exists()


def fake_hub(monkeypatch, files):
    """huggingface_hub with one repository, "timm/net"; returns what was asked for."""
    asked = []

    def hf_hub_download(repo_id, filename):
        asked.append((repo_id, filename))
        if repo_id != "timm/net" or filename not in files:
            raise OSError(f"404: no {filename} in {repo_id}")
        return str(files[filename])

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    return asked


def test_the_hubs_file_comes_with_the_hubs_statistics(source, tmp_path, tiny, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5], "std": [0.25], "tag": "x"}}))
    asked = fake_hub(monkeypatch, {"model.safetensors": source, "config.json": tmp_path / "config.json"})
    assert run("--hub", "timm/net", *RESNET8, "--out", tmp_path / "ours") == 0
    same(tmp_path / "ours", tiny)
    info = pretrained.load(tmp_path / "ours").info
    assert (info["mean"], info["std"]) == ([0.5], [0.25])
    assert info["source"].startswith("timm/net")
    assert asked == [("timm/net", "model.safetensors"), ("timm/net", "config.json")]
    assert run("--hub", "timm/other", *RESNET8, "--out", tmp_path / "more") == 2
    assert "404" in capsys.readouterr().err
    fake_hub(monkeypatch, {"a/b.safetensors": source})  # no description there
    assert run("a/b.safetensors", "--hub", "timm/net", *RESNET8, "--out", tmp_path / "more") == 0


def test_without_the_hubs_extra_the_message_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run("--hub", "timm/net", *RESNET8, "--out", tmp_path / "ours") == 2
    assert "pip install 'kd-cookbook[hub]'" in capsys.readouterr().err


def test_what_is_known_of_the_datasets_is_what_they_say(monkeypatch):
    monkeypatch.setattr(tfds_source, "_load", lambda name, builder, folder, mean, std, augmentation: (mean, std))
    loaders = {
        "MNIST": tfds_source.load_mnist,
        "FashionMNIST": tfds_source.load_fashion_mnist,
        "CIFAR10": tfds_source.load_cifar10,
        "CIFAR100": tfds_source.load_cifar100,
    }
    for name, load in loaders.items():
        assert convert.DATASETS[name][2:] == load(), name
    digits = data.load("Digits")
    known = (digits.num_classes, digits.image_shape, digits.mean, digits.std)
    assert convert.DATASETS["Digits"] == known
    assert convert.DATASETS["TinyImageNet"][2:] == (tiny_imagenet.MEAN, tiny_imagenet.STD)
    nobodys = {"Shapes", "Scenes", "Images"}  # drawn by this library; without classes: nobody has weights for them
    assert set(convert.DATASETS) == {*data.names(), "ImageNet"} - nobodys


def torchvision_vit(state):
    """timm's names -> torchvision's, spelled out by hand."""
    swap = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj": "conv_proj",
        "norm": "encoder.ln",
        "head": "heads.head",
    }
    inner = {"norm1": "ln_1", "attn.qkv": "self_attention.in_proj", "attn.proj": "self_attention.out_proj"}
    inner |= {"norm2": "ln_2", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"}
    result = {}
    for name, value in state.items():
        stem, _, leaf = name.rpartition(".")
        if stem.startswith("blocks."):
            _, number, part = stem.split(".", 2)
            joint = "_" if part == "attn.qkv" else "."
            result[f"encoder.layers.encoder_layer_{number}.{inner[part]}{joint}{leaf}"] = value
        else:
            result[swap[name] if name in swap else f"{swap[stem]}.{leaf}"] = value
    return result


def test_a_vision_transformers_shapes_tell_its_options(tmp_path):
    options = {"width": 16, "heads": 2, "depth": 2, "stages": 2, "patch_size": 8}
    model = models.create("ViT_Ti", 5, **options)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 24, 24, 3)))
    state = pretrained.to_torch(model, variables)
    theirs = torchvision_vit(state)
    assert translate("ViT", theirs)[0].keys() == state.keys()
    safetensors.numpy.save_file(theirs, tmp_path / "theirs.safetensors")
    given = [f"--option={name}={options[name]}" for name in ("width", "heads", "depth", "stages")]
    arguments = ["--arch", "ViT_Ti", "--dataset", "ImageNet", "--num_classes", "5", *given]
    assert run(tmp_path / "theirs.safetensors", *arguments, "--out", tmp_path / "ours") == 0
    found = pretrained.load(tmp_path / "ours")
    assert found.info["options"] == {**options, "image_size": 24}
    assert found.info["image_shape"] == [24, 24, 3]
    jax.tree.map(np.testing.assert_array_equal, found.variables["params"], dict(variables["params"]))
    distilled = {**state, "dist_token": np.zeros((1, 1, 16)), "pos_embed": np.zeros((1, 11, 16))}
    assert naming.guess_options("ViT_Ti", distilled) == {"patch_size": 8, "image_size": 24, "distilled": True}


def test_weights_that_are_not_finite_leave_the_good_ones(source, state, tmp_path, tiny, capsys):
    bad = state | {"fc.bias": np.full_like(state["fc.bias"], np.nan)}
    safetensors.numpy.save_file(bad, tmp_path / "nan")
    assert run(source, *RESNET8, "--out", tmp_path / "ours") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    assert run(tmp_path / "nan", *RESNET8, "--out", tmp_path / "ours", "--force") == 3
    error = capsys.readouterr().err
    assert "'fc.bias' has values that are not finite (1 of 47 tensors have some)" in error
    assert len(error.splitlines()) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()} == before
    same(tmp_path / "ours", tiny)
    variables = pretrained.from_torch(tiny.model, bad, (8, 8, 1))
    with pytest.raises(DamagedFileError, match="is not finite float32"):
        pretrained.save(tmp_path / "ours", variables, pretrained.load(tmp_path / "ours").info)
    same(tmp_path / "ours", tiny)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nan", "ours", "theirs.safetensors"]


def test_a_config_beside_the_file_is_compared_with_the_network(source, tmp_path, tiny, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetaa8"}))
    assert run(source, *RESNET8, "--out", tmp_path / "ours") == 2
    error = capsys.readouterr().err
    assert "says that the weights are of 'resnetaa8'; --arch is ResNet8" in error
    assert len(error.splitlines()) == 2
    card = {"architecture": "resnet8", "pretrained_cfg": {"mean": [0.5], "std": [0.25]}}
    (tmp_path / "config.json").write_text(json.dumps(card | {"label_names": list("abcdefghij")}))
    assert run(source, *RESNET8, "--out", tmp_path / "ours") == 0
    assert "Input: mean [0.5] and std [0.25], by" in capsys.readouterr().out
    info = pretrained.load(tmp_path / "ours").info
    assert (info["mean"], info["std"], info["class_names"]) == ([0.5], [0.25], list("abcdefghij"))


def test_the_hubs_shards_are_fetched_one_by_one(state, tmp_path, tiny, monkeypatch):
    names = sorted(state)
    shards = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for shard, inside in shards.items():
        safetensors.numpy.save_file({name: state[name] for name in inside}, tmp_path / shard)
    where = {name: shard for shard, inside in shards.items() for name in inside}
    (tmp_path / "index").write_text(json.dumps({"weight_map": where}))
    files = {"model.safetensors.index.json": tmp_path / "index"} | {shard: tmp_path / shard for shard in shards}
    asked = fake_hub(monkeypatch, files)
    assert run("--hub", "timm/net", *RESNET8, "--out", tmp_path / "ours") == 0
    same(tmp_path / "ours", tiny)
    assert {name for _, name in asked} >= set(shards)


def test_weights_of_enlarged_images_are_measured_on_enlarged_images(state, tmp_path, monkeypatch):
    """The size and the filter are recorded, and the dataset is the one that networks see at this size."""
    from studies import evaluation

    safetensors.numpy.save_file(state, tmp_path / "file")
    seen, flags = [], ["--image_size", "16", "--interpolation", "bicubic", "--data_dir", ""]

    def logits_of(player, variables, dataset):
        seen.append((player.image_size, player.interpolation, dataset.image_size))
        return np.eye(10, dtype=np.float32)[dataset.test.labels]

    monkeypatch.setattr(evaluation, "logits_of", logits_of)
    assert run(tmp_path / "file", *RESNET8, "--out", tmp_path / "ours", *flags) == 0
    info = pretrained.load(tmp_path / "ours").info
    assert (info["image_shape"], info["interpolation"], info["test_top1"]) == ([16, 16, 1], "bicubic", 100)
    assert seen == [(16, "bicubic", 16)]


def test_the_flags_choose_among_the_networks_of_a_file(state, tmp_path, tiny, capsys):
    both = {f"module.student.{name}": value for name, value in state.items()}
    both |= {f"module.ema.{name}": value + 1 for name, value in state.items()}
    safetensors.numpy.save_file(both, tmp_path / "best")
    assert run(tmp_path / "best", *RESNET8, "--out", tmp_path / "ours") == 0
    same(tmp_path / "ours", tiny)
    out = capsys.readouterr().out
    assert "Names: 'module.student.' is left off" in out
    assert "--weights ema takes those under 'module.ema.'" in out
    assert pretrained.load(tmp_path / "ours").info["source"] == "best (module.student)"
    for flags in (["--weights", "ema"], ["--prefix", "module.ema"]):
        assert run(tmp_path / "best", *RESNET8, "--out", tmp_path / "ours", "--force", *flags) == 0
        found = pretrained.load(tmp_path / "ours").variables["params"]["classifier"]["bias"]
        np.testing.assert_array_equal(found, state["fc.bias"] + 1)
