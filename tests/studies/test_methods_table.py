"""docs/methods.md is what studies/methods_table.py writes today."""

import json
import pathlib

import pytest

import distiller
from registry import UserError
from studies import methods_table

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_page_is_up_to_date():
    page = methods_table.page(json.loads(methods_table.MEASURED.read_text()))
    assert (ROOT / "docs" / "methods.md").read_text() == page, "run python -m studies.methods_table"
    assert all(f"\n| {name} | " in page for name in distiller.names())


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
    method = distiller.create(name)
    found = methods_table.facts(method, *shapes)
    assert methods_table._reads(method, found) == reads
    assert parameters is None or found.parameters == parameters
    assert found.memory == memory


def test_gradients_that_are_asked_for_are_seen(shapes):
    class Asking(distiller.Distiller):
        gradient_taps = ("stage2",)

        def __call__(self, student, teacher, batch):
            loss = sum((x.gradients(x.logits)["stage2"] ** 2).sum() for x in (student, teacher))
            return loss, {"Asking": loss}

    found = methods_table.facts(Asking(), *shapes)
    assert found.student == found.teacher == ("gradient of stage2", "logits")
    assert methods_table.family("Asking", found) == "Explanation maps"


def test_leaderboards_become_columns(tmp_path):
    folder = tmp_path / "resnet8"
    folder.mkdir()
    board = [
        {"name": "Labels alone", "last": [90.0, 91.0], "seconds_per_step": 0.1},
        {"name": "SoftLogits", "last": [98.0, 99.0], "seconds_per_step": 0.2},
        {"name": "AT", "last": [80.0, 90.0], "seconds_per_step": 0.3},
    ]
    (folder / "leaderboard.json").write_text(json.dumps(board))
    assert methods_table.columns([folder / "leaderboard.json"]) == {
        "Digits, resnet8": {"Labels alone": "90.50 ± 0.71", "SoftLogits": "98.50 ± 0.71", "AT": "85.00 ± 7.07"},
        "step / SoftLogits": {"Labels alone": "0.50", "SoftLogits": "1.00", "AT": "1.50"},
    }


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_file_that_is_no_leaderboard_raises(content, tmp_path):
    path = tmp_path / "leaderboard.json"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"is no leaderboard\.json of studies\.all_methods"):
        methods_table.columns([path])
