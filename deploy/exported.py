"""Files that `deploy.export` wrote, measured: the format's own runtime computes the logits."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

import data
import pretrained
from deploy.graph import Graph
from deploy.targets import registry
from models import View
from pretrained import classes
from registry import DamagedFileError, UserError

KEYS = {"format", "weights", "input", "outputs", "class_names", "arithmetic", "bytes"}  # of FILE.json


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: of the file.
        facts: what FILE.json says (`deploy.export.description`).
    """

    path: pathlib.Path
    facts: dict

    @property
    def info(self) -> dict:
        """What `model.json` says of the weights, as far as FILE.json has it."""
        facts, given = self.facts, self.facts["input"]
        names, shape = facts["class_names"], given["shape"][1:]
        return {
            **facts["weights"],
            **{"num_classes": len(names), "class_names": names, "image_shape": shape, "test_top1": None},
            **{"resize": given["resize"], "interpolation": given["interpolation"]},
        }

    def answers(self, dataset: data.Dataset) -> np.ndarray:
        """The logits [N, K] float32 of the test images, for the classes of the data in their order.

        Of a file that returns probabilities: their logarithms.

        Raises:
            UserError: other classes or channels, or no runtime.
        """
        weights = pretrained.Pretrained(self.path, {}, self.info, self.facts["weights"]["sha256"])
        if problem := classes.mismatch(weights, dataset, "network"):
            raise UserError(problem)
        if (theirs := self.info["image_shape"][-1]) != (ours := dataset.seen_shape[-1]):
            raise UserError(f"{self.path} takes images of {theirs} channels; {dataset.name} has {ours}.")
        view = View(**dataset.view(self.info["image_shape"][0], self.info["interpolation"]))
        parts = list(self._logits(dataset.test.blocks(), view))
        return np.concatenate(parts)[:, classes.columns(self.info, dataset) or slice(None)]

    def _logits(self, blocks: Iterable[np.ndarray], view: View) -> Iterable[np.ndarray]:
        """Yields logits for blocks [M, H, W, C] uint8 of images."""
        given, names = self.facts["input"], tuple(self.facts["outputs"])
        graph = Graph(None, tuple(given["shape"][1:]), given["type"], names)
        target = registry.get(self.facts["format"])()
        run = target.open(self.path.read_bytes(), graph)
        seen = jax.jit(lambda images: view(images.astype(jnp.float32) / 255.0))
        for block in blocks:
            for first in range(0, len(block), target.images):
                images = np.asarray(seen(block[first : first + target.images]))
                if given["type"] == "uint8":
                    images = np.round(images * 255).astype(np.uint8)
                else:
                    images = (images - np.float32(given["mean"])) / np.float32(given["std"])
                answer = run(images)[0]
                yield answer if names[0] == "logits" else np.log(np.maximum(answer, np.finfo(np.float32).tiny))


def is_file(param: str) -> bool:
    """Whether `--param` names a file and no folder."""
    return pathlib.Path(param).expanduser().is_file()


def load(param: str) -> Exported:
    """Reads what FILE.json says of an exported file.

    Raises:
        UserError: no FILE.json. DamagedFileError: it describes another file.
    """
    path = pathlib.Path(param).expanduser()
    beside = path.with_name(f"{path.name}.json")
    if not beside.is_file():
        raise UserError(
            f"{path} has no {beside.name} beside it, so it is no file of deploy.export.\n"
            "Give a folder of weights, or export them: python -m deploy.export --help"
        )
    try:
        facts = json.loads(beside.read_text())
        known = set(facts) >= KEYS and facts["format"] in registry.entries and "dataset" in facts["weights"]
    except (ValueError, TypeError):
        raise DamagedFileError(f"{beside} is damaged. Export the file again.") from None
    if not known:
        raise UserError(f"{beside} lacks what evaluate.py needs: another version wrote it.\nExport the file again.")
    if (size := path.stat().st_size) != facts["bytes"]:
        raise DamagedFileError(f"{path} has {size:,} bytes; {beside.name} says {facts['bytes']:,}. Export it again.")
    return Exported(path, facts)
