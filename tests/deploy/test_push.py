"""Weights on a hub: the card, what is sent, and what comes back. A local server stands in for the hub."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import hub_server
import pytest

import pretrained
from configs.resolve import resolve
from deploy import push
from deploy.card import card
from pretrained import hub
from registry import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent
TEACHER = ROOT / "tests" / "teacher"
RUN = {
    **{"student_arch": "CNN", "distiller": "SoftLogits", "distiller_options": {"temperature": 2.0}, "num_labels": 100},
    **{"teacher_arch": "ResNet20", "teacher_param": "pretrained/resnet20_digits", "train_epoch": 3, "batch_size": 64},
    **{"optimizer": "sgd", "learning_rate": 0.05},
}


@pytest.fixture
def run(tmp_path):
    """A run folder whose weights are the tests' teacher."""
    shutil.copytree(TEACHER, tmp_path / "run" / "last")
    described = tmp_path / "run" / "last" / pretrained.DESCRIPTION
    info = json.loads(described.read_text())
    info |= {"transfer": "Offline", "distiller": "SoftLogits", "seed": 7}
    info["test"]["agreement"] = 98.25
    described.write_text(json.dumps(info))
    (tmp_path / "run" / "config.json").write_text(json.dumps(RUN))
    return tmp_path / "run"


def test_the_card_is_written_from_the_run(run, monkeypatch):
    monkeypatch.chdir(ROOT)
    weights = pretrained.load(run)
    text = card(weights, "me/tiny")
    assert text.startswith("---\nlibrary_name: kd-cookbook\n")
    assert "\n- knowledge-distillation\n" in text
    assert "# CNN on Digits, distilled with SoftLogits (Offline)" in text
    teacher = pretrained.describe("pretrained/resnet20_digits")["test_top1"]
    assert f"| CNN | 99.50 | 26,394 | SoftLogits (Offline) | ResNet20 | {teacher:.2f} | 98.25 |" in text
    assert '{"temperature": 2.0}' in text
    assert "3 epochs, batch 64, 100 labels" in text
    assert weights.info["command"] in text
    assert "--teacher_param hf:me/tiny" in text
    found = {**weights.info, "task": "detection", "test_top1": None, "test": {"AP": 54.35}}
    boxes = card(dataclasses.replace(weights, info=found), "me/boxes")
    assert "pipeline_tag: object-detection\n" in boxes
    assert "- type: mean_average_precision\n      value: 54.35\n" in boxes
    assert "| network | test AP, % |" in boxes
    assert "| CNN | 54.35 |" in boxes
    assert "image-classification" in text
    assert "classification" not in boxes
    plain = card(pretrained.load(TEACHER), "me/tiny")
    assert "distilled" not in plain
    assert "teacher |" not in plain


def test_nothing_is_sent_without_the_flag(run, monkeypatch, capsys):
    monkeypatch.setattr(hub, "library", lambda: pytest.fail("the hub's library is asked for"))
    push.main(["--param", str(run)])
    assert "# CNN on Digits" in capsys.readouterr().out


MISTAKES = {
    "no name": (["--push", "tiny"], "'tiny' is no repository"),
    "private alone": (["--private"], "--private is for a new repository"),
    "no extra": (["--push", "me/tiny"], r"pip install 'kd-cookbook\[hub\]'"),
    "unknown flag": (["--pusch", "me/tiny"], "Unrecognized arguments: --pusch"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_two_lines(mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    arguments, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as raised:
        push.main(["--param", str(TEACHER), *arguments])
    assert len(str(raised.value).splitlines()) <= 2


def test_a_teacher_of_the_hub_is_a_teacher_like_any_other(monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda path, files: TEACHER)
    recipe = {"teacher_param": "hf:me/tiny", "student_arch": "CNN", "distiller": "SoftLogits", "dataset": "Digits"}
    config, _ = resolve(recipe)
    assert config.teacher_arch == "CNN"
    assert pretrained.load("hf:me/tiny").sha256 == pretrained.load(TEACHER).sha256


@pytest.mark.parametrize("path", ["hf:tiny", "hf:me/tiny/more", "hf:"])
def test_a_name_that_is_no_repository_is_told(path):
    with pytest.raises(UserError, match="is no repository of the hub"):
        pretrained.find(path)


PROGRAM = """
import sys
from deploy import push
import pretrained
from registry import UserError
mode, folder = sys.argv[1:]
if mode == "refused":
    try:
        push.main(["--param", folder, "--push", "me/tiny"])
    except UserError as error:
        print(error)
else:
    push.main(["--param", folder, "--push", "me/tiny"])
    found = pretrained.load("hf:me/tiny")
    assert found.sha256 == pretrained.load(folder).sha256
    assert {path.name for path in found.folder.iterdir()} == {"weights.safetensors", "model.json"}
    try:
        pretrained.load("hf:me/other")
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["accepted", "refused"])
def test_what_is_pushed_comes_back(mode, run, tmp_path):
    pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    with hub_server.running() as server:
        server.refuses = mode == "refused"
        own = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_none"}
        own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        call = [sys.executable, "-c", PROGRAM, mode, str(run)]
        result = subprocess.run(call, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, (result.stderr, server.requests)
    if mode == "refused":
        assert "Cannot push to me/tiny" in result.stdout
        assert server.files == {}
        return
    assert sorted(server.files) == ["README.md", "model.json", "weights.safetensors"]
    assert server.files["weights.safetensors"] == (run / "last" / "weights.safetensors").read_bytes()
    assert "# CNN on Digits" in server.files["README.md"].decode()
    assert "use it with --teacher_param hf:me/tiny" in result.stdout
    assert "Cannot fetch hf:me/other" in result.stdout
