"""Turns the tensors of somebody else's file into the variables of a network: prefixes, raw or EMA weights, names.

Three steps. `select` picks one network out of a file: it finds the prefix of the names (`module.student.`) and
separates raw weights from EMA weights (an exponential moving average over training). `guess_options` reads options of
the network from the shapes. `variables_of` renames the tensors. Its errors use the names of the file.
"""

import dataclasses
import inspect
import math
import re

import numpy as np
from flax import traverse_util

import models
from pretrained.foreign_names import COOKBOOK, rename, translate
from pretrained.lookalikes import looks_like
from pretrained.torch_format import differences, expected, from_torch
from registry import DamagedFileError, UserError

# words that trainers and wrappers put before a network's own names
WRAPPER = re.compile(
    r"(module|_orig_mod|(base_|student_|teacher_)?(model|net|network)(_s|_t|_state|_state_dict)?|state_dict|"
    r"student|teacher|params|weights|swa_model|.*(^|_)(ema|averaged)(_.*|$))$"
)
EMA = re.compile(r"(^|[._])(ema|averaged)([._]|$)")
BACKBONE = "backbone"  # a prefix of all names except those of the last layer
SMALL = 0.5  # a group with less than this share of the largest group's tensors is no network
SHORTCUTS = ((r"\.shortcut\.", ".downsample."), (r"\.downsample\.", ".shortcut."))


@dataclasses.dataclass
class Selection:
    """One network's tensors.

    Attributes:
        path: of the file, for messages.
        tensors: name without the prefix -> array.
        prefix: the prefix that was removed from the names.
        notes: lines for the user about the tensors that were taken and left out.
    """

    path: object
    tensors: dict[str, np.ndarray]
    prefix: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)


def is_cookbook(tensors: dict[str, np.ndarray]) -> bool:
    """Whether the names are the older Flax cookbook's."""
    return any(name.startswith("params/") for name in tensors)


def is_tensorflow_port(tensors: dict[str, np.ndarray]) -> bool:
    """Whether the names are those of lukemelas' PyTorch port of TensorFlow's EfficientNets."""
    return "_conv_stem.weight" in tensors


def select(path, tensors: dict[str, np.ndarray], prefix: str | None = None, weights: str = "") -> Selection:
    """Picks one network's tensors out of a file's.

    Args:
        path: of the file, for messages.
        tensors: what `reading.read` returned.
        prefix: the first part of the names to take; further wrappers are found. None: all wrappers are found.
        weights: "raw" or "ema"; "" takes the raw weights if the file has both.

    Raises:
        UserError: no name has this prefix, the file lacks the weights asked for, or it holds several networks.
        DamagedFileError: a tensor is not finite.
    """
    if is_cookbook(tensors):
        chosen = Selection(path, tensors)
    else:
        counters = [name for name in tensors if name.rpartition(".")[2] == "num_batches_tracked"]
        tensors = {name: value for name, value in tensors.items() if name not in set(counters)}
        chosen = _select(path, tensors, prefix, weights)
    bad = [name for name, value in chosen.tensors.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if bad:
        raise DamagedFileError(
            f"{path}: '{chosen.prefix}{bad[0]}' has values that are not finite ({len(bad)} of {len(chosen.tensors)} "
            "tensors have some).\nNothing was written. Take an earlier checkpoint of that training."
        )
    return chosen


def _select(path, tensors: dict, prefix: str | None, weights: str) -> Selection:
    groups = _groups(list(tensors))
    if prefix is not None:
        prefix = _whole_prefix(path, tensors, prefix, groups)
        groups = _groups([name for name in tensors if name.startswith(prefix)], prefix)
    largest = max((len(group) for group in groups.values()), default=0)
    groups = {p: group for p, group in groups.items() if len(group) > SMALL * largest}
    kinds = {kind: [p for p in groups if bool(EMA.search(p)) == (kind == "ema")] for kind in ("raw", "ema")}
    kind = weights or ("raw" if kinds["raw"] else "ema")
    if not kinds[kind]:
        other = "EMA" if kind == "raw" else "raw"
        raise UserError(f"{path} has {other} weights alone: {_listed(groups)}. Leave out --weights {kind}.")
    if len(kinds[kind]) > 1:
        raise UserError(
            f"{path} holds {len(kinds[kind])} networks, under the prefixes {_listed(kinds[kind])}.\n"
            f"Choose one: --prefix {kinds[kind][0] or kinds[kind][1]}"
        )
    prefix = kinds[kind][0]
    inside = groups[prefix]
    chosen = Selection(path, {new: tensors[old] for old, new in inside.items()}, prefix)
    dropped = "backbone." if any(new != old.removeprefix(prefix) for old, new in inside.items()) else ""
    if prefix or dropped:
        chosen.notes.append(f"Names: '{prefix}{dropped}' is left off the names of {len(inside)} tensors.")
    other = kinds["ema" if kind == "raw" else "raw"]
    if other:
        flag = "--weights ema" if kind == "raw" else "--weights raw"
        taken = {"raw": "raw", "ema": "EMA"}[kind]
        chosen.notes.append(f"Weights: the {taken} ones are taken; {flag} takes those under {_listed(other)}.")
    elif kind == "ema":
        chosen.notes.append("Weights: the EMA ones are taken; the file has no others here.")
    others = {old for p in other for old in groups[p]}
    left = [name for name in tensors if name not in inside and name not in others]
    if left:
        chosen.notes.append(f"Left out: {len(left)} tensors, such as '{left[0]}'.")
    return chosen


def _whole_prefix(path, names, prefix: str, groups: dict) -> str:
    """The prefix that the user gave, with the wrappers that stand before it in the file."""
    prefix = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    if any(name.startswith(prefix) for name in names):
        return prefix
    before = {name[: name.index(f".{prefix}") + 1] for name in names if f".{prefix}" in name}
    before = [some for some in before if all(WRAPPER.match(part) for part in some[:-1].split("."))]
    if len(before) == 1:
        return before[0] + prefix
    if before:
        raise UserError(
            f"{path}: '{prefix}' follows {_listed(sorted(before))}. Give --prefix with one of them in front."
        )
    found = ", ".join(f"'{p}' ({len(group)})" for p, group in groups.items())
    raise UserError(f"{path}: no name begins with '{prefix}'. Prefixes and their tensors: {found}.")


def _listed(prefixes) -> str:
    return ", ".join(f"'{prefix}'" if prefix else "no prefix" for prefix in prefixes)


def _groups(names: list[str], prefix: str = "") -> dict[str, dict[str, str]]:
    """Networks in a file: prefix -> (whole name -> name without the prefix)."""
    parts = {name: name.removeprefix(prefix).partition(".") for name in names}
    firsts = dict.fromkeys(first for first, dot, _ in parts.values() if dot)
    wrappers = [first for first in firsts if WRAPPER.match(first)]
    if not wrappers and len(firsts) == 1 and BACKBONE not in firsts and all(dot for _, dot, _ in parts.values()):
        # A first word of all names is a wrapper if several modules follow it. Parameters or numbers follow a module.
        inside = {rest.partition(".")[0] for _, _, rest in parts.values() if "." in rest}
        wrappers = list(firsts) if len(inside) > 1 and not any(part.isdigit() for part in inside) else []
    groups = {}
    for wrapper in wrappers:
        groups |= _groups([name for name in names if parts[name][0] == wrapper], f"{prefix}{wrapper}.")
    rest = [name for name in names if parts[name][0] not in wrappers]
    if rest and wrappers:
        groups |= _groups(rest, prefix)
    elif rest:
        detector = any(name.startswith(f"{prefix}{BACKBONE}.fpn.") for name in rest)  # its names keep this word
        dropped = "" if detector else f"{BACKBONE}."
        groups[prefix] = {name: name.removeprefix(prefix).removeprefix(dropped) for name in rest}
    return groups


def guess_options(arch: str, tensors: dict[str, np.ndarray], architectures: tuple[str, ...] = ()) -> dict:
    """Reads options of the network from the names and shapes of the tensors.

    Args:
        arch: the network's name.
        tensors: name without the prefix -> array.
        architectures: names of the network in the file's config.json.
    """
    network = models.registry.get(arch)
    if is_cookbook(tensors):
        return {"padding": "SAME"}
    options = {}
    if arch.startswith("ViT"):
        tensors, _ = translate("ViT", tensors)
        if "patch_embed.proj.weight" in tensors and "pos_embed" in tensors:
            extra = 1 + ("dist_token" in tensors)
            patch = tensors["patch_embed.proj.weight"].shape[-1]
            options["patch_size"] = patch
            options["image_size"] = patch * math.isqrt(tensors["pos_embed"].shape[1] - extra)
        if "dist_token" in tensors:
            options["distilled"] = True
    elif arch.startswith("ConvNeXt"):
        tensors, _ = translate("ConvNeXt", tensors)
        if "stem.0.weight" in tensors:
            options["patch_size"] = tensors["stem.0.weight"].shape[-1]
    elif arch.startswith("EfficientNet"):
        ported = is_tensorflow_port(tensors) or any(name.startswith("tf_") for name in architectures)
        options |= {"padding": "SAME", "epsilon": 1e-3} if ported else {"padding": "TORCH", "epsilon": 1e-5}
    elif "stem" in _fields(network):
        if "conv1.weight" in tensors:
            options["stem"] = "imagenet" if tensors["conv1.weight"].shape[-1] == 7 else "cifar"
        elif "features.0.0.weight" in tensors or "conv_stem.weight" in tensors:
            options["stem"] = "imagenet"
    return options


def guess_classes(arch: str, tensors: dict[str, np.ndarray]) -> int:
    """The number of classes of a detector, by its tensors' shapes; 0 for other networks.

    Args:
        arch: the network's name.
        tensors: name without the prefix -> array.
    """
    anchors = (
        tensors.get("head.classification_head.cls_logits.weight"),
        tensors.get("head.regression_head.bbox_reg.weight"),
    )
    if arch.startswith("RetinaNet_") and all(x is not None for x in anchors):
        return 4 * anchors[0].shape[0] // anchors[1].shape[0]
    if arch.startswith("FasterRCNN_") and "roi_heads.box_predictor.cls_score.bias" in tensors:
        return len(tensors["roi_heads.box_predictor.cls_score.bias"]) - 1
    return 0


def _fields(network) -> set[str]:
    """The names of a network's options. `network` is a class, or a function that returns an instance."""
    built = network(num_classes=2) if not inspect.isclass(network) else network
    return set(getattr(built, "__dataclass_fields__", {}))


def variables_of(model, chosen: Selection, image_shape: tuple[int, int, int], arch: str) -> dict:
    """Renames a selection's tensors to the network's names and checks them. Adds lines to `chosen.notes`.

    Args:
        model: a network of this library, or any network with a method `torch_name`.
        chosen: what `select` returned.
        image_shape: [H, W, C] of the images.
        arch: the network's name, for messages.

    Returns:
        `{"params", "batch_stats"}`, nested dicts of NumPy arrays.

    Raises:
        UserError: names or shapes differ. The message uses the names of the file and says what the file looks like.
    """
    if is_cookbook(chosen.tensors):
        return traverse_util.unflatten_dict({rename(n, COOKBOOK): x for n, x in chosen.tensors.items()}, sep="/")
    tensors, origin = translate(type(model).__name__, chosen.tensors)
    _, want = expected(model, tensors, image_shape)
    for pattern, replacement in SHORTCUTS:
        tensors = _renamed(tensors, want, {n: re.sub(pattern, replacement, n) for n in tensors}, origin)
    head = _head(tensors, want)
    tensors = _renamed(tensors, want, head, origin)
    if head:
        theirs, ours = (name.rpartition(".")[0] for name in next(iter(head.items())))
        chosen.notes.append(f"Names: '{theirs}' is taken for the last layer, '{ours}'.")
    have = {name: value.shape for name, value in tensors.items()}
    last = [name for name in want if _one_output(have, want, name)]
    if last and getattr(model, "num_classes", None) == 2:
        tensors = tensors | {name: np.concatenate([np.zeros_like(tensors[name]), tensors[name]]) for name in last}
        have |= {name: tensors[name].shape for name in last}
        chosen.notes.append(
            "Classes: the one output z becomes two logits, 0 and z; sigmoid(z) is class 1's probability."
        )
    if have != want:
        raise UserError(f"{chosen.path} does not fit {arch}: {_difference(chosen, want, have, origin, last)}")
    return from_torch(model, tensors, image_shape)


def _renamed(tensors: dict, want: dict, new: dict[str, str], origin: dict[str, str]) -> dict:
    """`tensors` with every name in `new` replaced where the network has the new name and lacks the old one."""
    moves = {old: to for old, to in new.items() if old not in want and to in want and to not in tensors}
    for old, to in moves.items():
        origin[to] = origin.get(old, old)
    return {moves.get(name, name): value for name, value in tensors.items()}


def _head(tensors: dict, want: dict) -> dict[str, str]:
    """Finds the last layer: the only linear layers of the file and of the network that have no match by name.

    Returns:
        Old name -> new name of its weight and bias. Empty if the file or the network has another number of such layers,
        or if their shapes differ in more than the number of outputs.
    """

    def linear(shapes, other):
        left = {name: shape for name, shape in shapes.items() if name not in other}
        return [n.rpartition(".")[0] for n, shape in left.items() if n.endswith(".weight") and len(shape) == 2]

    have = {name: value.shape for name, value in tensors.items()}
    theirs, ours = linear(have, want), linear(want, have)
    if len(theirs) != 1 or len(ours) != 1:
        return {}
    pairs = {f"{theirs[0]}.{leaf}": f"{ours[0]}.{leaf}" for leaf in ("weight", "bias")}
    fits = all(old in have and new in want and have[old][1:] == want[new][1:] for old, new in pairs.items())
    return pairs if fits else {}


def _one_output(have: dict, want: dict, name: str) -> bool:
    """Whether `name` belongs to a linear layer with one output in the file and several in the network."""
    weight = name.rpartition(".")[0] + ".weight"
    if name not in have or len(have.get(weight, ())) != 2 or weight not in want:
        return False
    return have[weight][0] == have[name][0] == 1 < want[name][0] and have[name][1:] == want[name][1:]


def _difference(chosen: Selection, want: dict, have: dict, origin: dict[str, str], last: list[str]) -> str:
    """Two lines: the differences, under the file's names; the flag that helps, or what the file looks like."""

    def theirs(name):
        return chosen.prefix + (_like(name, origin) if origin and name not in origin else origin.get(name, name))

    named = [{theirs(name): shape for name, shape in shapes.items()} for shapes in (want, have)]
    hint = f"The file looks like {looks_like(chosen.tensors)}."
    wrong = [name for name in want if name in have and want[name] != have[name]]
    if want.keys() == have.keys():
        outputs = {have[name][0] for name in wrong}
        if last and set(wrong) == set(last):
            hint = "The file's last layer has one output z. --num_classes 2 makes two logits of it, 0 and z."
        elif len(wrong) <= 4 and len(outputs) == 1 and all(have[name][1:] == want[name][1:] for name in wrong):
            hint = f"The file's last layer has {outputs.pop()} outputs; is that the number of classes (--num_classes)?"
    return f"{'; '.join(differences(*named))}.\n{hint}"


def _like(name: str, origin: dict[str, str]) -> str:
    """Guesses the file's name of a variable that the file lacks, from a variable that differs in one number only."""
    numbers = re.findall(r"\d+", name)
    for other, old in origin.items():
        theirs = re.findall(r"\d+", other)
        same = re.sub(r"\d+", "#", other) == re.sub(r"\d+", "#", name)
        differing = [(a, b) for a, b in zip(theirs, numbers, strict=False) if a != b]
        if same and len(differing) == 1 and len(re.findall(rf"(?<=[._]){differing[0][0]}(?=\.)", old)) == 1:
            return re.sub(rf"(?<=[._]){differing[0][0]}(?=\.)", differing[0][1], old)
    return name
