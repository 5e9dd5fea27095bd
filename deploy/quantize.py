"""Quantises trained weights without training: measures the range of every layer's input on training images.

    python -m deploy.quantize --param runs/soft --calibrate 512 --bits 8 --out quantised
    python evaluate.py --param quantised

The result is a folder of the same weights. Its model.json says, in the option `quantize`, how many bits the weights
have, and the range of every layer's input. The network rounds as models/quantization.py says, wherever the folder is
used. --bits 4 means weights of 4 bits and inputs of 8. Weights that were trained with --student_quantize keep their
bits and get fixed ranges, which an ONNX file needs. --calibrate 0 measures nothing: each image has its own range, as in
the training, and as LiteRT's kernels have it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

import data
import pretrained
from configs import command
from deploy import derived
from deploy.arguments import Parser
from models import Player, quantization
from models.folding import fold
from models.profile import short
from pretrained.players import dataset_of, player_of
from registry import UserError

BATCH = 64  # images in one call
SCALE, BIAS = 4, 4  # bytes a channel: a float32 scale and an int32 or float32 bias


def measured_ranges(player: Player, variables: dict, images: np.ndarray) -> dict[str, list[float]]:
    """The range of every layer's input.

    Args:
        player: a network that is not quantised.
        variables: its variables.
        images: [N, H, W, C] uint8.

    Returns:
        name of the layer -> [low, high], low <= 0 <= high.
    """

    @jax.jit
    def look(variables, image):
        mean, std = (jnp.asarray(x, jnp.float32) for x in (player.mean, player.std))
        return quantization.layer_ranges(player.model, variables, (player.view(image) - mean) / std)

    parts = [images[i : i + BATCH].astype(np.float32) / 255 for i in range(0, len(images), BATCH)]
    seen = jax.device_get([look(variables, part) for part in parts])
    return {name: [float(min(x[name][0] for x in seen)), float(max(x[name][1] for x in seen))] for name in seen[0]}


def integer_bytes(player: Player, variables: dict, image_shape: tuple[int, int, int], bits: int) -> int:
    """The size of the weights as integers: kernels of `bits` bits, a scale and a bias for each channel.

    Batch norms are folded into the layers before them; what is left of the others stays float32.

    Args:
        player: a network that is not quantised.
        variables: its variables.
        image_shape: [H, W, C].
        bits: of the weights.
    """
    flat = traverse_util.flatten_dict(fold(player.model, variables, image_shape))
    kernels = [x for path, x in flat.items() if path[-1] == "kernel"]
    others = sum(np.size(x) for path, x in flat.items() if path[-1] != "kernel")
    return sum(-(-np.size(x) * bits // 8) + SCALE * np.shape(x)[-1] for x in kernels) + BIAS * others


def float_bytes(player: Player, variables: dict, image_shape: tuple[int, int, int]) -> int:
    """The size of the weights as float32, batch norms folded; arguments as of `integer_bytes`."""
    return sum(4 * np.size(x) for x in jax.tree.leaves(fold(player.model, variables, image_shape)))


def quantize(weights: pretrained.Pretrained, images: np.ndarray, bits: int = 0, arch: str = "", dataset=None):
    """Quantises weights with the ranges of their inputs on some images.

    Args:
        weights: what `pretrained.load` returned.
        images: [N, H, W, C] uint8. With N = 0 nothing is measured, and each image has its own range.
        bits: of the weights, 8 or 4; 0: those of the training, else 8.
        arch: as in `pretrained.players.player_of`.
        dataset: the data, which may say at which size networks see the images.

    Returns:
        (model.json of the quantised weights, bytes as float32, bytes as integers).

    Raises:
        UserError: the network has layers that cannot be quantised, or the weights were trained with other bits.
    """
    shape, options = tuple(weights.info["image_shape"]), dict(weights.info.get("options", {}))
    trained = options.pop("quantize", None)
    own = quantization.rule_of(trained).bits if trained else 0
    if own and bits not in (0, own):
        raise UserError(f"--bits {bits}: the weights in {weights.folder} were trained with {own}.\nLeave --bits out.")
    bits = bits or own or 8
    player, variables = player_of(weights, "network", arch=arch, dataset=dataset)
    player = dataclasses.replace(player, model=quantization.plain_of(player.model))
    quantization.check(player, shape)
    name = quantization.Rule(bits).name
    ranges = {"bits": bits, "ranges": measured_ranges(player, variables, images)} if len(images) else name
    options |= {"quantize": ranges}
    info = derived.info_of(weights, options, calibrated={"from": weights.sha256, "images": len(images)})
    return info, float_bytes(player, variables, shape), integer_bytes(player, variables, shape, bits)


def parser() -> Parser:
    """Defines the flags."""
    p = Parser("deploy.quantize", __doc__)
    more = "training images; default: 512; 0: a range for each image"
    p.add_argument("--calibrate", type=int, default=512, metavar="N", help=more)
    p.add_argument("--bits", type=int, default=0, choices=(8, 4), help="of the weights; default: the training's, or 8")
    p.add_argument("--data_dir", default="", help="the folder of the dataset")
    p.add_argument("--out", required=True, help="the folder to write")
    return p


def main(argv: list[str]) -> None:
    """Measures the ranges, prints the sizes and writes the weights."""
    args = parser().parse_args(argv)
    if args.calibrate < 0:
        raise UserError(f"--calibrate is a number of images, 0 or more; got {args.calibrate}.")
    if args.data_dir and not args.calibrate:
        raise UserError("--data_dir has no effect with --calibrate 0, which reads no images.\nLeave one of them out.")
    out = derived.new_folder(args.out)
    command.tune()
    weights = pretrained.load(args.param)
    dataset, images, measured = None, (), ""
    if args.calibrate:
        dataset = dataset_of(weights.info, {"data_dir": args.data_dir} if args.data_dir else {})
        images = some(dataset.train, args.calibrate)
        measured = f", measured on {len(images)} training images of {dataset.name}"
    info, before, after = quantize(weights, images, args.bits, args.arch, dataset)
    derived.write(out, weights.variables, info)
    rule = quantization.rule_of(info["options"]["quantize"])
    print(f"{info['arch']}: {rule}{measured}.")
    print(f"Weights: {short(before)}B as float32, {short(after)}B as integers. Written to {out}")
    print(f"To measure it: python evaluate.py --param {out}")


def some(split: data.Split, count: int) -> np.ndarray:
    """`count` images [count, H, W, C] uint8, evenly spaced in a split; all if it has fewer."""
    rows = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).astype(int))
    return np.asarray(split.rows(rows))


if __name__ == "__main__":
    command.run(main)
