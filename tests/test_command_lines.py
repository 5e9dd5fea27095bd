"""The command lines as a user types them: results, lists, help, and every mistake with its two lines."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
TEACHER = "pretrained/resnet20_digits"
SMALL = ["--teacher_param", "tests/teacher", "--student_arch", "CNN"]  # quicker to compile than the defaults


def command(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def image_folder(root, classes=("cat", "dog"), damaged=False, odd=False):
    for split in ("train", "test"):
        for shade, name in enumerate(classes):
            folder = root / split / (name + "x" if odd and split == "test" and shade else name)
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (20, 12), (60 * shade, 20 * i, 200)).save(folder / f"{i}.png")
    if damaged:
        (root / "train" / "cat" / "2.png").write_bytes(b"no image")
    return root


MISTAKES = {
    "distiller": (["--distiller", "SoftLogit"], ["'SoftLogit'", "Did you mean 'SoftLogits'"]),
    "part": (["--distiller", "SoftLogits+ATT"], ["'ATT'", "Did you mean 'AT'"]),
    "transfer": (["--transfer", "ofline"], ["'ofline'", "Did you mean 'Offline'"]),
    "student": (["--student_arch", "Resnet9"], ["'Resnet9'", "Did you mean 'ResNet"]),
    "dataset": (["--dataset", "CIFAR-10"], ["'CIFAR-10'", "Did you mean 'CIFAR10'"]),
    "flag": (["--lerning_rate", "1"], ["--lerning_rate", "Did you mean '--learning_rate'"]),
    "config key": (["--config.batch_sise=3"], ["'batch_sise'", "Did you mean 'batch_size'"]),
    "method option": (["--config.distiller_options.temperatur=3"], ["'temperatur'", "Did you mean 'temperature'"]),
    "type of flag": (["--batch_size", "abc"], ["batch_size", "abc"]),
    "key of a number": (["--config.momentum.x=1"], ["momentum.x"]),
    "temperature": (["--config.distiller_options.temperature=0"], ["temperature", "above 0"]),
    "not finite": (["--learning_rate", "inf"], ["learning_rate", "finite"]),
    "method under Labels": (["--transfer", "Labels", "--distiller", "Bogus"], ["'Bogus'"]),
    "teacher of other data": (["--dataset", "MNIST", "--data_dir", "{tmp}"], ["MNIST"]),
    "type of key": (["--config.momentum=abc"], ["momentum", "abc"]),
    "type of option": (["--config.distiller_options.temperature=abc"], ["temperature", "abc"]),
    "dtype": (["--dtype", "float16"], ["'float16'", "bfloat16"]),
    "recipe file": (["--config", "nowhere.py"], ["nowhere.py"]),
    "no recipe": (["--config", "LICENSE"], ["Error: IndentationError", "LICENSE, line 2", "(recipe: LICENSE)"]),
    "half a sum": (["--distiller", "SoftLogits+"], ["'SoftLogits+'", "SoftLogits+AT"]),
    "no pair": (["--config", "configs/cifar100.py:DKD,ResNet56"], ["Error: The argument", "'DKD,ResNet56'"]),
    "method of a recipe": (["--config", "configs/cifar100.py:DKDD"], ["'DKDD'", "Did you mean 'DKD'"]),
    "pair of a recipe": (
        ["--config", "configs/cifar100.py:DKD,ResNet32x4,VGG8", "--dataset", "Digits"],
        ["--teacher_arch is ResNet32x4", "are of ResNet20"],
    ),
    "network of a pair": (["--config", "configs/cifar100.py:DKD,ResNet56,resnet20"], ["Did you mean 'ResNet20'"]),
    "dot without distillation": (["--transfer", "Labels", "--config.optimizer=dot"], ["'dot'", "no distillation loss"]),
    "negative": (["--train_epoch", "-1"], ["train_epoch", "-1"]),
    "teacher type": (["--teacher_dtype", "float61"], ["teacher_dtype", "'float61'", "float32"]),
    "views of a teacher whose features are read": (
        ["--teacher_views", "2", "--distiller", "AT"],
        ["--teacher_views 2", "AT needs more of the teacher than its logits", "Leave --teacher_views out"],
    ),
    "negative views": (["--teacher_views", "-1"], ["teacher_views", "-1"]),
    "bank type": (["--config.teacher_bank_dtype=float61"], ["teacher_bank_dtype", "Did you mean 'float16'"]),
    "top k": (["--teacher_views", "1", "--config.teacher_bank_top_k=10"], ["teacher_bank_top_k", "10 classes"]),
    "views of peers": (["--transfer", "Mutual", "--teacher_views", "2"], ["--teacher_views", "no teacher is trained"]),
    "type of no teacher": (["--transfer", "BYOT", "--config.teacher_dtype=bfloat16"], ["--teacher_dtype bfloat16"]),
    "teacher by its key": (["--transfer", "BYOT", "--config.teacher_param=nowhere"], ["--teacher_param nowhere"]),
    "distiller by its key": (["--transfer", "KDCL", "--config.distiller=AT"], ["'AT'", "a loss of its own"]),
    "size of a dataset that has one": (["--image_size", "16"], ["--image_size 16", "ImageFolder"]),
    "steps": (["--steps_per_call", "²"], ["steps_per_call"]),
    "share": (["--transfer", "BYOT", "--config.transfer_options.alpha=3"], ["alpha", "from 0 to 1"]),
    "ramp": (["--transfer", "ONE", "--config.transfer_options.ramp=-1"], ["'ramp' must not be negative"]),
    "no teacher": (["--teacher_param", "nowhere"], ["nowhere", "python train_teacher.py"]),
    "no teacher named": (["--teacher_param", ""], ["--teacher_param", "python train_teacher.py"]),
    "teacher arch": (["--teacher_arch", "ResNet56"], ["ResNet56", "ResNet20"]),
    "batch": (["--batch_size", "1201"], ["1201", "1200"]),
    "labels": (["--num_labels", "5"], ["5", "10"]),
    "no data": (["--dataset", "CIFAR10", "--data_dir", "{tmp}"], ["CIFAR10", "pip install", "build cifar10"]),
    "no folder": (["--dataset", "ImageFolder", "--data_dir", "{tmp}/x"], ["{tmp}/x"]),
    "damaged image": (["--dataset", "ImageFolder", "--data_dir", "{damaged}"], ["{damaged}/train/cat/2.png"]),
    "odd classes": (["--dataset", "ImageFolder", "--data_dir", "{odd}"], ["dog", "{odd}"]),
    "classes": (
        ["--dataset", "ImageFolder", "--data_dir", "{good}", "--teacher_param", "{teacher}", "--batch_size", "4"],
        ["10", "2", "classes"],
    ),
    "unwritable": (["--train_path", "/proc/nowhere"], ["/proc/nowhere"]),
    "not a run": (["--train_path", "{good}"], ["{good}"]),
    "gpu": (["--gpu_id", "first"], ["first"]),
    "argument": (["SoftLogits"], ["SoftLogits"]),
    "method of a strategy with a loss of its own": (
        ["--transfer", "ONE", "--distiller", "AT"],
        ["--distiller 'AT'", "--transfer ONE has a loss of its own"],
    ),
    "method's option where there is no method": (
        ["--transfer", "KDCL", "--config.distiller_options.temperature=2"],
        ["--config.distiller_options.temperature", "KDCL"],
    ),
    "teacher of a strategy without one": (
        ["--transfer", "PCL", "--teacher_arch", "ResNet20"],
        ["--teacher_arch ResNet20", "--transfer PCL has no other network"],
    ),
    "weights of peers that start untrained": (
        ["--transfer", "Mutual", "--teacher_param", TEACHER],
        ["--teacher_param", "--transfer Mutual all start untrained"],
    ),
    "list": (["--list", "distilers"], ["'distilers'", "Did you mean 'distillers'"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_told_in_three_lines_at_once_and_nothing_is_written(mistake, tmp_path):
    places = {
        "tmp": str(tmp_path / "empty"),
        "damaged": str(image_folder(tmp_path / "damaged", damaged=True)),
        "odd": str(image_folder(tmp_path / "odd", odd=True)),
        "good": str(image_folder(tmp_path / "good")),
        "teacher": str(ROOT / TEACHER),
    }
    flags, expected = MISTAKES[mistake]
    if "--train_path" not in flags:
        flags = [*flags, "--train_path", str(tmp_path / "run")]
    before = sorted(tmp_path.rglob("*"))
    start = time.monotonic()
    result = command("train_w_kd.py", *(flag.format(**places) for flag in flags), PYTHONWARNINGS="ignore")
    seconds = time.monotonic() - start
    assert result.returncode == (3 if mistake == "damaged image" else 2), result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) <= 3, result.stderr
    for text in expected:
        assert text.format(**places) in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert seconds < 30  # 5 on a machine with nothing else to do


@pytest.mark.parametrize("script", ["train_teacher.py", "train_w_kd.py", "evaluate.py"])
def test_help_is_one_screen_and_names_its_flags(script):
    result = command(script, "--help")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) <= 45
    assert "--dataset" in result.stdout
    assert ("--config" in result.stdout) == (script != "evaluate.py")
    assert "absl" not in result.stdout


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("distillers", ["SoftLogits", "AT"]),
        ("transfers", ["Offline"]),
        ("models", ["ResNet56"]),
        ("datasets", ["Digits"]),
    ],
)
def test_list_gives_name_line_and_source(what, names):
    result = command("train_w_kd.py", "--list", what)
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert result.returncode == 0
    for name in names:
        assert len(rows[name].split()) > 4
    assert all("[" in row for row in rows.values())


def test_readme_commands_train_distil_evaluate_and_repeat(tmp_path):
    short = ["--train_epoch", "2", "--batch_size", "100"]
    teacher = command("train_teacher.py", "--arch", "ResNet8", "--train_path", tmp_path / "teacher", *short)
    assert teacher.returncode == 0, teacher.stderr
    distil = ["train_w_kd.py", "--gpu_id", "2", "--student_arch", "ResNet8", "--teacher_arch", "ResNet8"]
    distil += ["--teacher_param", tmp_path / "teacher", "--distiller", "SoftLogits", "--transfer", "Offline"]
    distil += ["--dataset", "Digits", "--train_path", tmp_path / "soft", *short]
    result = command(*distil)
    assert result.returncode == 0, result.stderr
    assert "JAX sees no GPU" in result.stderr or "cuda" in result.stdout.lower()
    summary = json.loads((tmp_path / "soft" / "summary.json").read_text())
    assert f"{summary['last']['top1']:.2f}" in result.stdout
    again = command(*distil)
    assert again.returncode == 0
    assert "finished already" in again.stdout
    assert json.loads((tmp_path / "soft" / "summary.json").read_text()) == summary
    other = command(*distil, "--learning_rate", "0.3")
    assert other.returncode == 2
    assert "learning_rate: 0.05 there, 0.3 now" in other.stderr
    measured = command("evaluate.py", "--param", tmp_path / "soft", "--teacher_param", tmp_path / "teacher")
    assert measured.returncode == 0, measured.stderr
    (path,) = (tmp_path / "soft" / "last").glob("evaluation-Digits-against-ResNet8-????????.json")
    written = json.loads(path.read_text())
    for key in ("top1", "top5", "nll", "ece", "agreement", "kl"):
        assert written[key] == pytest.approx(summary["last"][key], abs=1e-6)
        assert f"{written[key]:.3f}" in measured.stdout


def test_shipped_teacher_distils_without_any_path(tmp_path):
    result = command(
        *["train_w_kd.py", "--distiller", "AT", "--transfer", "Offline", "--train_epoch", "1"],
        *["--train_path", tmp_path / "run"],
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    recorded = json.loads((ROOT / TEACHER / "model.json").read_text())["test_top1"]
    assert f"test top-1 {recorded:.2f} %" in result.stdout


def test_explicit_flag_beats_override_beats_recipe(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        "    return ConfigDict({'learning_rate': 0.5, 'momentum': 0.5, 'weight_decay': 0.5, 'train_epoch': 1})\n"
    )
    result = command(
        *["train_w_kd.py", "--config", recipe, "--config.learning_rate=0.25", "--config.momentum=0.25"],
        *["--learning_rate", "0.125", "--train_path", tmp_path / "run", *SMALL],
    )
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["learning_rate"], config["momentum"], config["weight_decay"]) == (0.125, 0.25, 0.5)
    assert config["train_epoch"] == 1


def test_own_folder_of_images_trains_and_distils(tmp_path):
    images = image_folder(tmp_path / "images", classes=("a", "b", "c"))
    shared = ["--dataset", "ImageFolder", "--data_dir", images, "--image_size", "16", "--batch_size", "4"]
    shared += ["--train_epoch", "1"]
    teacher = command("train_teacher.py", "--arch", "CNN", "--train_path", tmp_path / "t", *shared)
    assert teacher.returncode == 0, teacher.stderr
    info = json.loads((tmp_path / "t" / "last" / "model.json").read_text())
    assert info["class_names"] == ["a", "b", "c"]
    assert info["image_shape"] == [16, 16, 3]
    student = command(
        *["train_w_kd.py", "--distiller", "SoftLogits+AT", "--teacher_param", tmp_path / "t"],
        *["--student_arch", "CNN", "--train_path", tmp_path / "s", *shared],
    )
    assert student.returncode == 0, student.stderr
    assert command("evaluate.py", "--param", tmp_path / "s", "--data_dir", images).returncode == 0


def test_option_of_one_part_reaches_it(tmp_path):
    flags = ["--distiller", "SoftLogits+AT", "--config.distiller_options.AT.weight=500", "--train_epoch", "1", *SMALL]
    result = command("train_w_kd.py", *flags, "--train_path", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["distiller_options"] == {"AT": {"weight": 500}}
    wrong = command(
        "train_w_kd.py", *flags, "--config.distiller_options.Logits.weight=1", "--train_path", tmp_path / "r"
    )
    assert wrong.returncode == 2
    assert "has no option 'Logits'" in wrong.stderr


@pytest.mark.parametrize(("module", "others_do"), [("tensorflow", False), ("torch", True)])
def test_training_never_imports(module, others_do, tmp_path):
    trap = tmp_path / "path" / module
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nraise ImportError('trap')\n")
    path = f"{trap.parent}{os.pathsep}{ROOT}"
    caught = command("-c", f"import {module}", PYTHONPATH=path)
    assert caught.returncode == 1
    assert (tmp_path / "imported").exists()  # the trap works
    (tmp_path / "imported").unlink()
    flags = ["--train_epoch", "1", "--train_path", tmp_path / "run", *SMALL]
    result = command("train_w_kd.py", *flags, PYTHONPATH=path)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "imported").exists()
    reading = "import data.tfds_source, tensorflow_datasets, clu.metrics, tensorboardX, orbax.checkpoint"
    assert command("-c", reading, PYTHONPATH=path).returncode == 0
    assert (tmp_path / "imported").exists() == others_do
