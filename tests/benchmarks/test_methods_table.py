"""docs/methods.md is what benchmarks/methods_table.py writes today, but for what was measured."""

import json
import pathlib

import pytest

import distiller
from benchmarks import methods_table
from registry import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def page():
    return methods_table.page({})


def rows(text):
    return {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}


def test_the_page_is_up_to_date(page):
    """Its rows begin with the generated ones; measured columns follow."""
    committed = (ROOT / "docs" / "methods.md").read_text().partition("\n## Measured")[0].rstrip().splitlines()
    generated = page.rstrip().splitlines()
    assert len(committed) == len(generated), "run python -m benchmarks.methods_table"
    for old, new in zip(committed, generated, strict=True):
        if new.startswith("|---"):
            assert set(old) == set("|-")
        else:
            assert old == new or (new.startswith("|") and old.startswith(new.rstrip("| ") + " |"[: len(old)])), old
    assert set(rows(page)) == {"method", *distiller.names()}


@pytest.fixture(scope="module")
def shapes():
    return methods_table.answers()


@pytest.mark.parametrize(
    ("name", "reads", "parameters", "memory"),
    [
        ("SoftLogits", "logits", 0, 0),
        ("SP", "stage3", 0, 0),  # of the stages that it is given
        ("SoftLogits+AT", "stage1-3, logits", 0, 0),
        ("AB", "stage1-3 preact", 0, 0),
        ("ReviewKD", "stage1-3 preact, embedding; student: stage1-3, embedding", None, 0),
        ("WKDLogit", "classifier, logits; student: logits", 0, 0),
        ("SDD", "classifier, final, logits; student: classifier, final", 0, 0),
        ("MLKD", "logits; another view, strong", 0, 0),
        ("FitNet", "stage2", 32 * 32 + 2 * 32, 0),  # a 1x1 convolution without bias, batch norm
        ("CRD", "embedding", 2 * 65 * 128, 2 * 50_000 * 128 * 4 + 50_000 * 4 + 2 * 4),
    ],
)
def test_what_a_method_reads_adds_and_remembers_is_found_by_tracing(name, reads, parameters, memory, shapes):
    found = methods_table.facts(name, *shapes)
    assert methods_table._reads(distiller.create(name), found) == reads
    assert parameters is None or found.parameters == parameters
    assert found.memory == memory


def test_gradients_that_are_asked_for_are_seen(shapes, monkeypatch):
    class Asking(distiller.Distiller):
        gradient_taps = ("stage2",)

        def __call__(self, student, teacher, batch):
            loss = sum((x.gradients(x.logits)["stage2"] ** 2).sum() for x in (student, teacher))
            return loss, {"Asking": loss}

    monkeypatch.setattr(distiller, "create", lambda name: Asking())
    found = methods_table.facts("Asking", *shapes)
    assert found.student == found.teacher == ("gradient of stage2", "logits")
    assert methods_table.family("Asking", found) == "Explanation maps"


def test_leaderboards_add_their_columns(page, tmp_path):
    folder = tmp_path / "resnet8"
    folder.mkdir()
    board = [
        {"name": "Labels alone", "last": [90.0, 91.0], "best": [91.0, 91.0], "seconds_per_step": 0.1, "config": {}},
        {"name": "SoftLogits", "last": [98.0, 99.0], "best": [99.0, 99.0], "seconds_per_step": 0.2, "config": {}},
        {"name": "AT", "last": [80.0, 90.0], "best": [99.0, 99.0], "seconds_per_step": 0.3, "config": {}},
    ]
    (folder / "leaderboard.json").write_text(json.dumps(board))
    measured = methods_table.page({"resnet8": methods_table.load(folder / "leaderboard.json")})
    plain, columns = rows(page), rows(measured)
    assert columns["SoftLogits"] == f"{plain['SoftLogits']} 98.50 ± 0.71 | 1.00 |"
    assert columns["AT"] == f"{plain['AT']} 85.00 ± 7.07 | 1.50 |"
    assert columns["DKD"] == f"{plain['DKD']}  |  |"
    assert columns["method"] == f"{plain['method']} Digits, resnet8 | step / SoftLogits |"
    assert "labels alone: resnet8 90.50 ± 0.71" in " ".join(measured.split())


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_what_is_no_leaderboard_is_told(content, tmp_path):
    path = tmp_path / "leaderboard.json"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"is no leaderboard\.json of benchmarks\.all_methods"):
        methods_table.load(path)
