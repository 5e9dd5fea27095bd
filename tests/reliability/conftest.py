"""Runs in this process that several tests use: an undisturbed run, and a run that was stopped."""

import shutil
import signal

import pytest
from real_process import contents
from short_run import RECIPE, before_save

from signals import Interrupted
from training.train import train


@pytest.fixture(scope="session")
def recipe():
    """Folder -> the recipe of a short run that saves after every step."""
    return lambda folder, **changes: {**RECIPE, **changes, "train_path": str(folder)}


@pytest.fixture(scope="session")
def expected(tmp_path_factory, recipe):
    """The contents of the undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(recipe(folder), quiet=True)
    return contents(folder)


@pytest.fixture(scope="session")
def stopped(tmp_path_factory, recipe):
    """The folder of a run stopped after step 8, with the checkpoints 7 and 8. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        before_save(patch, 7, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(recipe(folder), quiet=True)
    return folder


@pytest.fixture
def copied(stopped, tmp_path):
    """A copy of the stopped run, to be damaged."""
    return shutil.copytree(stopped, tmp_path / "run")
