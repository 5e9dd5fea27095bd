"""What docs/ promises in code runs as it stands there."""

import dataclasses
import re
import sys

import pages
import pytest

import data
import distiller
import explain
import models
import transfer
from registry import UserError
from studies import evaluation
from training.train import train

ROOT = pages.ROOT
PAGE = pages.PAGES["models.md"]
DOCS = [page for page in pages.PAGES if page != "log.md"]  # the log's commands are those of its commits
MADE = (
    "my_network.py",
    "my_nnx.py",
    "distiller/cosine.py",
    "distiller/direction.py",
)  # by a reader who follows the pages
MADE += ("tests/distiller/test_direction.py", "search.md")
COMING: tuple[str, ...] = ()  # what the pages name and is not here yet
SHORT = {"teacher_param": "tests/teacher", "train_epoch": 1, "batch_size": 100, "num_labels": 100}
BARE = """
import flax.linen as nn
import jax


class Bare(nn.Module):
    num_classes: int
    dtype: type = "float32"

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


class Strange(Bare):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


@jax.custom_vjp
def one_way(x):
    return x


def no_way_back(residuals, cotangent):
    raise ValueError("there is no way back")


one_way.defvjp(lambda x: (x, None), no_way_back)


class OneWay(Bare):
    @nn.compact
    def __call__(self, images, train=False):
        return one_way(nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1)))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder with the page's network in `my_network.py`, and networks that return bare logits in `bare.py`."""
    code = re.search(r"```python\n(.*?class MyNetwork.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "my_network.py").write_text(code)
    (tmp_path / "bare_networks.py").write_text(BARE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_network", "bare_networks"):
        sys.modules.pop(name, None)


def test_the_network_of_the_page_takes_twenty_lines(own):
    assert len((own / "my_network.py").read_text().split("\n\n\n")[1].strip().splitlines()) <= 20


@pytest.mark.slow
def test_the_network_of_the_page_learns_from_a_teacher_and_teaches_bare_logits(own):
    run = {**SHORT, "student_arch": "my_network:MyNetwork", "train_path": str(own / "run")}
    longer = {"train_epoch": 4, "num_labels": 0, "distiller_options": {"AT": {"weight": 10.0}}}
    summary = train({**run, **longer, "distiller": "SoftLogits+AT"}, quiet=True)
    assert summary["last"]["top1"] > 40  # chance is 10
    assert summary["parameters"] == 16 * 9 + 16 + 16 * 16 * 9 + 32 + 16 * 32 * 9 + 64 + 32 * 10 + 10
    again = {**SHORT, "student_arch": "bare_networks:Bare", "teacher_param": str(own / "run")}
    again |= {"distiller": "SoftLogits", "train_path": str(own / "next")}
    with pytest.raises(UserError, match="--teacher_arch my_network:MyNetwork"):
        train(again, quiet=True)
    train({**again, "teacher_arch": "my_network:MyNetwork"}, quiet=True)
    dataset = data.load("Digits")
    with pytest.raises(UserError, match="--arch my_network:MyNetwork"):
        evaluation.measure(str(own / "run"), dataset)
    measured = evaluation.measure(str(own / "run"), dataset, arch="my_network:MyNetwork")
    assert measured["top1"] == pytest.approx(summary["last"]["top1"])


def test_the_line_of_the_page_registers_it(own, monkeypatch):
    name, target = re.search(r'`"(\w+)": "([\w.:]+)",`', PAGE).groups()
    monkeypatch.setitem(models.registry.entries, name, target)
    assert models.create(name, 3, width=8).width == 8


def test_a_feature_method_says_which_tap_is_missing(own):
    run = {**SHORT, "student_arch": "bare_networks:Bare", "train_path": str(own / "run")}
    with pytest.raises(UserError, match=r"AT cannot train bare_networks:Bare: The student has no taps stage1"):
        train({**run, "distiller": "AT"}, quiet=True)
    assert not (own / "run").exists()


MISTAKES = {
    "no module": ("no_such_file:Net", "Cannot import 'no_such_file'"),
    "no attribute": ("bare_networks:Net", "has no class or function 'Net'"),
    "no option": ("bare_networks:BARE", "has no class or function 'BARE'"),
    "no train": ("bare_networks:Strange", "unexpected keyword argument 'train'"),
    "nothing": (":", "Cannot import ''"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_ones_own_network_is_told_in_a_line(mistake, own):
    name, message = MISTAKES[mistake]
    run = {**SHORT, "distiller": "SoftLogits", "student_arch": name, "train_path": str(own / "run")}
    with pytest.raises(UserError, match=re.escape(message)):
        train(run, quiet=True)
    assert not (own / "run").exists()


@pytest.mark.parametrize("options", [{}, {"optimizer": "dot"}, {"teacher_views": 2}], ids=str)
def test_a_network_that_fails_only_on_the_way_back_is_told_in_a_line(options, own):
    run = {**SHORT, "distiller": "SoftLogits", "student_arch": "bare_networks:OneWay", **options}
    with pytest.raises(UserError, match="SoftLogits cannot train bare_networks:OneWay: there is no way back"):
        train({**run, "train_path": str(own / "run")}, quiet=True)
    assert not (own / "run").exists()


def test_options_that_a_network_does_not_have_are_told(own):
    with pytest.raises(UserError, match=r"Cannot build ResNet20 with num_classes, patch_size: .*patch_size"):
        models.create("ResNet20", 10, patch_size=4)


@pytest.mark.parametrize("page", DOCS)
def test_commands_have_programs_flags_and_names_that_exist(page):
    wrong = {" ".join(words): pages.problems(words) for words in pages.commands(page)}
    wrong = {command: [x for x in found if not x.startswith(COMING)] for command, found in wrong.items()}
    assert not {command: found for command, found in wrong.items() if found}


def test_a_command_with_a_mistake_is_found():
    words = "train_w_kd.py --config nowhere.py --bach_size 3 --config.momentun=1 --distiller AT+ATT --transfer Offline"
    assert pages.problems(words.split()) == ["nowhere.py", "--bach_size", "--config.momentun=1", "ATT"]
    assert pages.problems(["-m", "benchmarks.nothing"]) == ["benchmarks.nothing"]
    assert pages.problems(["-m", "benchmarks.turns", "--nothing"]) == ["--nothing"]
    assert len(pages.commands("models.md")) == 9
    assert len(pages.commands("scale.md")) == 7


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_and_files_exist(page):
    missing = [link for link in pages.links(page) if not (ROOT / link).exists()] + pages.anchors(page)
    if page != "log.md":
        missing += [name for name in pages.named_files(page) if not (ROOT / name).exists() and name not in MADE]
    assert not [name for name in missing if name not in COMING]


def test_what_has_come_is_not_listed_as_coming():
    assert not [name for name in COMING if (ROOT / name).exists()]


def test_pages_are_short():
    assert len(pages.PAGES["performance.md"].splitlines()) <= 150


def test_every_strategy_stands_in_a_table_with_its_options():
    found = {row[0]: row[-1] for row in pages.rows("transfers.md", "| name ")}
    found |= {row[0]: row[-1] for row in pages.rows("transfers.md", "| `--transfer` ")}
    found = {name.strip("`"): options for name, options in found.items()}
    assert sorted(found) == sorted(transfer.names())
    for name, options in found.items():
        defaults = {field.name: field.default for field in dataclasses.fields(transfer.registry.get(name))}
        for option, value in re.findall(r"(\w+)`?(?: ([\d.e-]+))?(?:, |$)", options):
            assert option in defaults, (name, option)
            assert not value or defaults[option] == float(value), (name, option)


def test_the_tables_of_maps_and_their_losses_are_the_registries():
    assert [row[0].strip("`") for row in pages.rows("explanation.md", "| map ")] == explain.names()
    for name, _, weight, *_ in pages.rows("explanation.md", "| method "):
        method = distiller.create(name.strip("`"))
        assert float(weight.split(" and ")[0]) == method.weight, name


def test_the_path_of_an_update_has_the_lines_that_the_page_says():
    table = re.findall(r"^\| `([\w/]+\.py)` \| (\d+) \| ", pages.PAGES["architecture.md"], re.MULTILINE)
    found = {name: len((ROOT / name).read_text().splitlines()) for name, _ in table}
    assert {name: int(count) for name, count in table} == found
    assert len(found) == 9
    assert sum(found.values()) <= 1600
    assert f"These nine have {sum(found.values()):,} lines." in pages.PAGES["architecture.md"]
    assert sum(len(path.read_text().splitlines()) for path in (ROOT / "training").glob("*.py")) <= 2300
