"""The command lines as a user types them: results, lists, help, and every mistake with its lines.

Each command is called in this process; a few run in processes of their own, for exit codes and for what is printed.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest
from PIL import Image

import evaluate
import train_teacher
import train_w_kd
from configs import command
from configs.command import Command
from files import write_whole
from registry import DamagedFileError, NonFiniteError, UserError
from signals import Interrupted

ROOT = pathlib.Path(__file__).parent.parent
TEACHER = "pretrained/resnet20_digits"
SMALL = ["--teacher_param", "tests/teacher", "--student_arch", "CNN", "--batch_size", "400", "--train_epoch", "1"]


def process(*arguments, **environment):
    """Runs Python with these arguments."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def typed(monkeypatch, capsys):
    """(module, argv) -> what `python MODULE.py ARGV` prints, as (stdout, stderr); nothing of the process is changed."""
    monkeypatch.setattr(command, "prepare", lambda given: None)
    monkeypatch.chdir(ROOT)

    def run(module, *argv):
        capsys.readouterr()
        module.main([str(word) for word in argv])
        return capsys.readouterr()

    return run


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
    "no recipe": (["--config", "LICENSE"], ["IndentationError", "LICENSE, line 2", "(recipe: LICENSE)"]),
    "half a sum": (["--distiller", "SoftLogits+"], ["'SoftLogits+'", "SoftLogits+AT"]),
    "no pair": (["--config", "configs/cifar100.py:DKD,ResNet56"], ["METHOD,TEACHER,STUDENT", "'DKD,ResNet56'"]),
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
    "bank type": (["--config.teacher_bank_dtype=float61"], ["teacher_bank_dtype", "must be 'float16' or 'float32'"]),
    "top k": (["--teacher_views", "1", "--config.teacher_bank_top_k=10"], ["teacher_bank_top_k", "10 classes"]),
    "views of peers": (["--transfer", "Mutual", "--teacher_views", "2"], ["--teacher_views 2", "no frozen teacher"]),
    "type of no teacher": (["--transfer", "BYOT", "--config.teacher_dtype=bfloat16"], ["--teacher_dtype bfloat16"]),
    "teacher by its key": (["--transfer", "BYOT", "--config.teacher_param=nowhere"], ["--teacher_param nowhere"]),
    "distiller by its key": (["--transfer", "KDCL", "--config.distiller=AT"], ["--distiller AT", "a loss of its own"]),
    "resizing without a size": (["--resize", "16"], ["--resize 16", "--image_size resizes them"]),
    "steps": (["--steps_per_call", "²"], ["steps_per_call"]),
    "share": (["--transfer", "BYOT", "--config.transfer_options.alpha=3"], ["alpha", "from 0 to 1"]),
    "ramp": (["--transfer", "ONE", "--config.transfer_options.ramp=-1"], ["'ramp' must not be negative"]),
    "no teacher": (["--teacher_param", "nowhere"], ["nowhere", "python train_teacher.py"]),
    "logits and a teacher": (
        ["--teacher_logits", "x.npy", "--teacher_param", TEACHER],
        ["--teacher_param", "has no effect", "'teacher_logits' x.npy are the teacher's answers"],
    ),
    "no logits": (["--teacher_logits", "nowhere.npy"], ["--teacher_logits nowhere.npy", "No such file"]),
    "logits of peers": (["--transfer", "Mutual", "--teacher_logits", "x.npy"], ["no frozen teacher"]),
    "taps of a teacher of this library": (["--teacher_taps", "layer1"], ["names no network of PyTorch"]),
    "file without a network": (["--teacher_param", "LICENSE"], ["--teacher_arch timm:NAME", "pretrained.convert"]),
    "PyTorch student": (["--student_arch", "timm:resnet18"], ["teaches and does not learn", "--transfer Offline"]),
    "no teacher named": (["--dataset", "Shapes"], ["--teacher_param", "python train_teacher.py"]),
    "teacher arch": (["--teacher_arch", "ResNet56"], ["ResNet56", "ResNet20"]),
    "batch": (["--batch_size", "1201"], ["1201", "1200"]),
    "labels": (["--num_labels", "5"], ["5", "10"]),
    "no data": (["--dataset", "CIFAR10", "--data_dir", "{tmp}"], ["CIFAR10", "pip install", "build cifar10"]),
    "no folder": (["--dataset", "ImageFolder", "--data_dir", "{tmp}/x"], ["{tmp}/x"]),
    "damaged image": (["--dataset", "ImageFolder", "--data_dir", "{damaged}"], ["{damaged}/train/cat/2.png"]),
    "odd classes": (["--dataset", "ImageFolder", "--data_dir", "{odd}"], ["dog", "{odd}"]),
    "classes": (
        [
            *("--dataset", "ImageFolder", "--data_dir", "{good}", "--teacher_param", "{teacher}"),
            *("--batch_size", "4", "--channels", "1"),
        ],
        ["10", "2", "classes"],
    ),
    "channels": (
        ["--dataset", "ImageFolder", "--data_dir", "{good}", "--teacher_param", "{teacher}", "--batch_size", "4"],
        ["1 channels", "Read grey images with --channels 1"],
    ),
    "unwritable": (["--train_path", "/proc/nowhere"], ["/proc/nowhere"]),
    "not a run": (["--train_path", "{good}"], ["{good}"]),
    "argument": (["SoftLogits"], ["SoftLogits"]),
    "method of a strategy with a loss of its own": (
        ["--transfer", "ONE", "--distiller", "AT"],
        ["--distiller AT has no effect", "--transfer ONE has a loss of its own"],
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
        ["--teacher_param", "--transfer Mutual starts all networks untrained"],
    ),
    "list": (["--list", "distilers"], ["'distilers'", "Did you mean 'distillers'"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_raises_three_lines_at_once_and_nothing_is_written(mistake, typed, tmp_path):
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
    with pytest.raises(UserError) as raised:
        typed(train_w_kd, *(flag.format(**places) for flag in flags))
    message = str(raised.value)
    assert raised.value.exit_code == (3 if mistake == "damaged image" else 2)
    assert len(message.splitlines()) <= 3, message
    for text in expected:
        assert text.format(**places) in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "text"), [({"gpu_id": "first"}, "'first'"), ({"hosts": "node0"}, "got 'node0'")], ids=str
)
def test_a_mistake_about_the_machine_raises_too(flags, text, monkeypatch):
    monkeypatch.setattr("models.xla_cpu.process.tune", lambda: None)
    with pytest.raises(UserError, match=text):
        command.prepare(Command({}, (), flags))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("wrong"), 2, "Error: wrong\n"),
        (DamagedFileError("cut"), 3, "Error: cut\n"),
        (NonFiniteError("nan"), 4, "Error: nan\n"),
        (Interrupted("saved"), 75, "Error: saved\n"),
        (OSError(28, "No space left on device", "/x"), 2, "Error: No space left on device: /x.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=str,
)
def test_errors_become_exit_codes(error, code, said, capsys):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as ended:
        command.run(main)
    assert ended.value.code == code
    assert capsys.readouterr().err == said


def test_an_error_of_the_programs_own_keeps_its_traceback():
    def main(argv):
        raise OSError(2, "No such file", "/x")

    with pytest.raises(OSError, match="No such file"):
        command.run(main)


@pytest.mark.parametrize("module", [train_teacher, train_w_kd, evaluate], ids=lambda module: module.__name__)
def test_help_has_a_line_for_every_flag(module, capsys):
    with pytest.raises(SystemExit) as ended:
        module.parse(["--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    flags = [line.split()[0] for line in printed.splitlines() if line.startswith("  --")]
    assert len(flags) == len(set(flags))
    assert "--dataset" in flags
    assert ("--config" in flags) == (module is not evaluate)
    assert ("--student_arch" in flags) == (module is train_w_kd)


def test_flags_of_true_and_false_may_stand_alone():
    for argv, value in ((["--nesterov"], True), (["--nesterov=true"], True), (["--nesterov", "False"], False)):
        assert train_w_kd.parse(argv).recipe == {"nesterov": value}


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("distillers", ["SoftLogits", "AT"]),
        ("transfers", ["Offline"]),
        ("models", ["ResNet56"]),
        ("datasets", ["Digits"]),
    ],
)
def test_list_gives_name_line_and_source(what, names, typed):
    rows = {line.split()[0]: line for line in typed(train_w_kd, "--list", what).out.splitlines()}
    for name in names:
        assert len(rows[name].split()) > 4
    assert all("[" in row for row in rows.values())


@pytest.mark.slow
def test_readme_commands_train_distil_evaluate_and_repeat(typed, tmp_path):
    short = ["--train_epoch", "2", "--batch_size", "400"]
    typed(train_teacher, "--arch", "CNN", "--train_path", tmp_path / "teacher", *short)
    distil = ["--student_arch", "CNN", "--teacher_arch", "CNN", "--dataset", "Digits", *short]
    distil += ["--teacher_param", tmp_path / "teacher", "--distiller", "SoftLogits", "--transfer", "Offline"]
    distil += ["--train_path", tmp_path / "soft"]
    printed = typed(train_w_kd, *distil)
    summary = json.loads((tmp_path / "soft" / "summary.json").read_text())
    assert f"{summary['last']['top1']:.2f}" in printed.out
    assert "finished already" in typed(train_w_kd, *distil).out
    assert json.loads((tmp_path / "soft" / "summary.json").read_text()) == summary
    with pytest.raises(UserError, match=r"learning_rate: 0\.05 there, 0\.3 now"):
        typed(train_w_kd, *distil, "--learning_rate", "0.3")
    measured = typed(evaluate, "--param", tmp_path / "soft", "--teacher_param", tmp_path / "teacher")
    (path,) = (tmp_path / "soft" / "last").glob("evaluation-Digits-against-CNN-????????.json")
    written = json.loads(path.read_text())
    for key in ("top1", "top5", "nll", "ece", "agreement", "kl"):
        assert written[key] == pytest.approx(summary["last"][key], abs=1e-6)
        assert f"{written[key]:.3f}" in measured.out


@pytest.mark.slow
def test_shipped_teacher_distils_without_any_path(typed, tmp_path):
    flags = ["--student_arch", "CNN", "--batch_size", "600", "--train_epoch", "1", "--train_path", tmp_path / "run"]
    printed = typed(train_w_kd, *flags)
    assert printed.err == ""
    recorded = json.loads((ROOT / TEACHER / "model.json").read_text())["test_top1"]
    assert f"test top-1 {recorded:.2f} %\n" in printed.out


@pytest.mark.slow
def test_what_is_recorded_makes_the_run_again(typed, tmp_path, monkeypatch):
    """The command of `env.json`, typed with another folder, writes the same bits; every model has the command too."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as where a script is started

    def typing(argv):
        monkeypatch.setattr(sys, "argv", ["somewhere/train_w_kd.py", *argv])
        typed(train_w_kd, *argv)

    argv = ["--transfer", "Online", "--student_arch", "CNN", "--teacher_arch", "CNN", "--distiller", "SoftLogits"]
    argv += ["--batch_size", "400", "--train_epoch=1", "--log_every", "1", "--config.seed=3"]
    argv += ["--config.distiller_options.temperature=2.5", "--config.distiller_options.weight", "7"]
    argv += ["--config.student_options.widths=(8, 8, 8, 12)", "--config.transfer_options.teacher_learning_rate=0.5"]
    typing([*argv, "--train_path", str(tmp_path / "a b")])
    recorded = json.loads((tmp_path / "a b" / "env.json").read_text())["command"]
    program, script, *words = shlex.split(recorded)
    assert (program, script) == ("python", "train_w_kd.py")
    assert words == [*argv, "--train_path", str(tmp_path / "a b")]
    for name in ("last", "best", "teacher"):
        assert json.loads((tmp_path / "a b" / name / "model.json").read_text())["command"] == recorded
    typing([*words[:-1], str(tmp_path / "again")])
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("a b", "again")]
    assert logs[0] == logs[1]
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["distiller_options"] == {"temperature": 2.5, "weight": 7}
    assert config["student_options"] == {"widths": [8, 8, 8, 12]}
    assert config["transfer_options"] == {"teacher_learning_rate": 0.5}


@pytest.mark.slow
def test_own_folder_of_images_trains_distils_and_is_measured(typed, tmp_path):
    images = image_folder(tmp_path / "images", classes=("a", "b", "c"))
    shared = ["--dataset", "ImageFolder", "--data_dir", images, "--image_size", "16", "--batch_size", "4"]
    shared += ["--train_epoch", "1"]
    typed(train_teacher, "--arch", "CNN", "--train_path", tmp_path / "t", *shared)
    info = json.loads((tmp_path / "t" / "last" / "model.json").read_text())
    assert info["class_names"] == ["a", "b", "c"]
    assert info["image_shape"] == [16, 16, 3]
    student = ["--distiller", "SoftLogits+AT", "--teacher_param", tmp_path / "t", "--student_arch", "CNN"]
    typed(train_w_kd, *student, "--train_path", tmp_path / "s", *shared)
    assert "top1" in typed(evaluate, "--param", tmp_path / "s", "--data_dir", images).out


@pytest.mark.slow
def test_a_mistake_ends_a_process_with_2_and_its_lines(tmp_path):
    ended = process("train_w_kd.py", "--distiller", "SoftLogit", "--train_path", tmp_path / "run")
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: Unknown distiller 'SoftLogit'. Did you mean 'SoftLogits'?\nKnown: ")
    assert len(ended.stderr.splitlines()) == 2
    assert ended.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_trains_with_0_ends_at_damage_with_3_and_imports_no_tensorflow_or_torch(tmp_path):
    trap = "open({!r}, 'w').close()\nraise ImportError('trap')\n"
    for module in ("tensorflow", "torch"):
        (tmp_path / "path" / module).mkdir(parents=True)
        (tmp_path / "path" / module / "__init__.py").write_text(trap.format(str(tmp_path / module)))
    path = f"{tmp_path / 'path'}{os.pathsep}{ROOT}"

    def imported():
        return [name for name in ("tensorflow", "torch") if (tmp_path / name).exists()]

    train = ["train_w_kd.py", *SMALL, "--gpu_id", "2", "--train_path", tmp_path / "run"]
    ended = process(*train, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stderr
    assert "JAX sees no GPU" in ended.stderr or "cuda" in ended.stdout.lower()
    assert "Test top-1: last" in ended.stdout
    assert imported() == []
    write_whole(tmp_path / "run" / "summary.json", "{")
    ended = process(*train)
    assert ended.returncode == 3
    assert "Error: " in ended.stderr
    assert "summary.json is damaged" in ended.stderr
    assert "Traceback" not in ended.stderr
    # What libraries do that training uses, which shows that the traps work: they look for PyTorch.
    reading = "import data.tfds_source, tensorflow_datasets, clu.metrics, tensorboardX, orbax.checkpoint"
    assert process("-c", reading, PYTHONPATH=path).returncode == 0
    assert imported() == ["torch"]
    assert process("-c", "import tensorflow", PYTHONPATH=path).returncode == 1
    assert imported() == ["tensorflow", "torch"]
