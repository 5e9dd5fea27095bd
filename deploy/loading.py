"""Trained weights as a function of images."""

import os
import sys

import pretrained
from deploy.classifier import Classifier
from deploy.detector import Detector
from pretrained.players import player_of


def load(param: str | os.PathLike, arch: str = "") -> Classifier | Detector:
    """Reads trained weights.

    Args:
        param: a run folder, a folder with `weights.safetensors` and `model.json`, or `hf:OWNER/NAME` of the Hugging
            Face hub.
        arch: the network's name if its code is outside the library: "module:attribute".

    Returns:
        A function: images [N, H, W, C] uint8 -> probabilities [N, K] float32, or, of a detector, detections
        [N, D, 6] float32 (`Detector`).

    Raises:
        UserError: there are no such weights, or they do not fit the network. DamagedFileError: a file is damaged.
    """
    weights = pretrained.load(param)
    if layers := weights.info.get("untrained"):
        text = f"no loss has trained {', '.join(layers)} of the network in {weights.folder}: its answers mean nothing."
        print(f"Warning: {text}", file=sys.stderr)
    player, variables = player_of(weights, "network", arch=arch)
    kind = Detector if hasattr(player.model, "detections") else Classifier
    return kind(weights, player, variables)
