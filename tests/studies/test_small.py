"""The study of smaller students: its rows, what each row trains, and what a repeated command makes again."""

import shutil
import types

import numpy as np
import pytest

from registry import UserError
from studies import small


@pytest.mark.slow
def test_every_row_is_there_and_a_second_start_makes_nothing_again(tmp_path, monkeypatch, capsys):
    rows, files = [], []

    def run(path, name, recipe, changes, quiet):
        rows.append((name, {**recipe, **changes}))
        shutil.copytree("tests/teacher", path / "last", dirs_exist_ok=True)
        return types.SimpleNamespace(folders=[path], last=lambda: np.array([90.0]))

    recipe, *_, epochs = small.SETTINGS["Digits"]
    monkeypatch.setitem(small.SETTINGS, "Digits", (recipe, 1, "tests/teacher", epochs))
    monkeypatch.setattr(small.compare, "run", run)
    monkeypatch.setattr(small.Study, "latency", lambda self, name, folder, to: files.append((name, to)) or "1.00")
    small.main(tmp_path, "Digits", "", 0, [])
    table = (tmp_path / "table.md").read_text()
    assert "| Trained with the ResNet20, 8 bits | 99.50 | 27.2 | 1.00 | 1.00 |" in table
    assert "| Measured, 4 bits | " in table
    assert "| ResNet20, not pruned | 99.50 | 26.4 k | 305 k | 1.00 |" in table
    assert len(rows) == 10
    trained = dict(rows)
    assert trained["Trained without a teacher, 4 bits"]["teacher_param"] == ""
    assert trained["Trained without a teacher, 4 bits"]["train_epoch"] == 6
    assert trained["Trained with its float self, 4 bits"]["teacher_param"].endswith("float-student/last")
    assert trained["Pruned by l1, then distilled"]["init_param"] == str(tmp_path / "pruned-l1")
    assert "init_param" not in trained["The same widths from random weights, labels"]
    assert {to for name, to in files if name == "int8"} == {"onnx", "litert"}
    monkeypatch.setattr(small.derived, "write", None)
    small.main(tmp_path, "Digits", "", 0, [1, 2, 3])
    assert rows[-1][1]["train_epoch"] == 3
    assert "epochs 1, 2, 3" in capsys.readouterr().out


def test_other_data_and_other_numbers_of_epochs_are_refused(tmp_path):
    with pytest.raises(UserError, match="has settings for Digits and CIFAR10"):
        small.main(tmp_path, "Shapes", "", 0, [])
    with pytest.raises(UserError, match="--epochs has 1 numbers; it needs 3"):
        small.main(tmp_path, "Digits", "", 0, [1])
