"""Networks of PyTorch's libraries, timm and torchvision, as frozen linen Modules inside our compiled programs.

torchax runs the forward pass of a PyTorch module on JAX's arrays, so the pass is traced, compiled and differentiated
like every other one. The weights are the Module's variables: arrays of the state, not constants of the program. Such a
network teaches and does not learn. Importing this file imports torch and torchax.
"""

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchax

from models.outputs import Outputs
from registry import UserError

NETWORK, CLASSIFIER = "network", "classifier"  # parts of the variables
INSIDE = "net."  # stands before PyTorch's names inside `_Tapped`


def constructor(arch: str) -> Callable[..., nn.Module]:
    """What builds the network `arch`, "timm:NAME" or "torchvision:NAME", as a linen Module.

    Raises:
        UserError: the library is not installed, or has no network of that name; with the nearest one.
    """
    check(arch)

    def build(num_classes: int, channels: int = 3, taps: tuple[str, ...] = (), dtype: Any = jnp.float32) -> nn.Module:
        program = program_of(arch, num_classes, channels, taps)
        return (TorchClassifier if program.classifier else TorchNetwork)(arch, num_classes, channels, taps, dtype)

    build.__doc__ = f"The network {arch} of PyTorch, which only teaches."
    return build


class TorchNetwork(nn.Module):
    """A network of PyTorch in evaluation mode. Its weights come from elsewhere: `init` returns zeros.

    Attributes:
        arch: "timm:NAME" or "torchvision:NAME".
        num_classes: K.
        channels: of the images.
        taps: PyTorch's names of modules. Their outputs are the features `stage1`, `stage2`, ..., with maps as
            [B, H, W, C]. The input of the last linear layer is the feature `embedding`.
        dtype: compute type.
    """

    arch: str
    num_classes: int
    channels: int = 3
    taps: tuple[str, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, deltas: Mapping | None = None) -> Outputs:
        program = program_of(self.arch, self.num_classes, self.channels, self.taps)
        if train:
            raise ValueError(f"{self.arch} is a network of PyTorch, which teaches and does not learn")
        if self.is_initializing():
            zeros = {name: np.zeros(shape, np.float32) for name, shape in program.shapes.items()}
            for collection, parts in program.variables(zeros).items():
                for name, value in parts.items():
                    self.put_variable(collection, name, jax.tree.map(jnp.asarray, value))
        return program(self.variables, images, dict(deltas or {}), self.dtype)


class TorchClassifier(TorchNetwork):
    """A network of PyTorch that ends in a linear layer."""

    def classify(self, embedding: jax.Array) -> jax.Array:
        """embedding [B, D] -> logits [B, K] float32."""
        layer = self.variables["params"][CLASSIFIER]
        logits = embedding.astype(jnp.float32) @ layer["kernel"]
        return logits + layer["bias"] if "bias" in layer else logits


def check(arch: str) -> None:
    """Raises `UserError` unless the library is installed and has the network `arch`; nothing is built."""
    library, _, name = arch.partition(":")
    known = _library(arch, library)
    if library == "timm":
        found, names = known.is_model(name), known.list_models()
    else:
        names = known.list_models(module=known)
        found = name in names
    if not found:
        near = difflib.get_close_matches(name.partition(".")[0].lower(), names, n=1, cutoff=0.4)
        hint = f" Did you mean '{library}:{near[0]}'?" if near else ""
        listed = "timm.list_models()" if library == "timm" else "torchvision.models.list_models()"
        raise UserError(f"{library} has no network '{name}'.{hint}\n{listed} returns its {len(names):,} names.")


def _library(arch: str, library: str):
    """timm, or torchvision.models."""
    try:
        if library == "timm":
            import timm

            return timm
        import torchvision.models

        return torchvision.models
    except ImportError as error:
        raise UserError(f"{arch} needs {library}: {error}.\nInstall it: pip install 'kd-cookbook[teachers]'") from None


def create(arch: str, num_classes: int = 0, channels: int = 3, pretrained: bool = False) -> torch.nn.Module:
    """The PyTorch module in evaluation mode, with random weights or the library's published ones.

    Args:
        arch: "timm:NAME" or "torchvision:NAME".
        num_classes: K; 0: the published network's.
        channels: of the images; torchvision's networks have 3.
        pretrained: the library fetches its published weights.
    """
    library, _, name = arch.partition(":")
    own = {"num_classes": num_classes} if num_classes else {}
    if library == "timm":
        own |= {"in_chans": channels} if channels != 3 else {}
        return _library(arch, library).create_model(name, pretrained=pretrained, **own).eval()
    if channels != 3:
        raise UserError(f"{arch} reads images of 3 channels; the data have {channels}.\nA network of timm reads any.")
    return _library(arch, library).get_model(name, weights="DEFAULT" if pretrained else None, **own).eval()


def published(arch: str, net: torch.nn.Module) -> dict:
    """What the library says of the network's input: `mean`, `std`, `size` (pixels), `fixed` (no other size is read)."""
    library, _, name = arch.partition(":")
    if library == "timm":
        facts = net.pretrained_cfg
        return {
            "mean": tuple(facts["mean"]),
            "std": tuple(facts["std"]),
            "size": facts["input_size"][-1],
            "fixed": bool(facts.get("fixed_input_size")),
        }
    view = _library(arch, library).get_model_weights(name).DEFAULT.transforms()
    fixed = hasattr(net, "encoder") and hasattr(net, "image_size")  # ViT
    return {"mean": tuple(view.mean), "std": tuple(view.std), "size": view.crop_size[0], "fixed": fixed}


@functools.lru_cache(maxsize=8)
def program_of(arch: str, num_classes: int, channels: int, taps: tuple[str, ...]) -> "Program":
    """The program of a network, built once for each process."""
    return Program(arch, create(arch, num_classes, channels), taps)


class Program:
    """The forward pass of a PyTorch module, as a function of its weights.

    Args:
        arch: for messages.
        net: in evaluation mode.
        taps: names of modules.

    Attributes:
        classifier: name of the last linear layer, whose input is the embedding; empty where the network has none.
        shapes: PyTorch's name -> shape, of the parameters and of the floating-point buffers that a state_dict has.
        constants: name -> array of the other buffers.
        published: what the library says of the network's input (`published`).

    Raises:
        UserError: the network has no module of a tap's name.
    """

    def __init__(self, arch: str, net: torch.nn.Module, taps: tuple[str, ...]):
        modules = dict(net.named_modules())
        if strange := next((tap for tap in taps if not modules.get(tap)), None):
            near = difflib.get_close_matches(strange, modules, n=1, cutoff=0.4)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            top = ", ".join(name for name, _ in net.named_children())
            raise UserError(f"--teacher_taps: {arch} has no module '{strange}'.{hint}\nIts outermost modules: {top}.")
        self.arch, self.classifier, self.published = arch, _last_linear(net), published(arch, net)
        self._nhwc = getattr(net, "output_fmt", "NCHW") == "NHWC" or type(net).__name__ == "SwinTransformer"
        tapped = _Tapped(net, {f"stage{i}": modules[tap] for i, tap in enumerate(taps, start=1)}, self.classifier)
        self._parameters = {name for name, _ in net.named_parameters()}
        states, function = torchax.extract_jax(tapped.eval())
        states = {name.removeprefix(INSIDE): np.asarray(value) for name, value in states.items()}
        learned = [name for name in net.state_dict() if name in states and states[name].dtype.kind == "f"]
        self.shapes = {name: states[name].shape for name in learned}
        self.constants = {name: value for name, value in states.items() if name not in self.shapes}
        self._run = jax.jit(function, inline=True)
        for parameter in net.parameters():  # each call brings the weights
            parameter.data = parameter.data.new_empty(0)

    def variables(self, tensors: Mapping[str, np.ndarray]) -> dict:
        """`{"params", "batch_stats"}` of PyTorch's name -> array: the last linear layer is `classifier`, as [D, K]."""
        parameters = {name: value for name, value in tensors.items() if name in self._parameters}
        layer = {}
        if self.classifier:
            layer["kernel"] = parameters.pop(f"{self.classifier}.weight").T
            if f"{self.classifier}.bias" in parameters:
                layer["bias"] = parameters.pop(f"{self.classifier}.bias")
        buffers = {name: value for name, value in tensors.items() if name not in self._parameters}
        params = {NETWORK: parameters, **({CLASSIFIER: layer} if layer else {})}
        return {"params": params, "batch_stats": {NETWORK: buffers} if buffers else {}}

    def tensors(self, variables: Mapping) -> dict[str, jax.Array]:
        """PyTorch's name -> array of `variables`."""
        params = variables["params"]
        found = {**params[NETWORK], **variables.get("batch_stats", {}).get(NETWORK, {})}
        if layer := params.get(CLASSIFIER):
            found |= {f"{self.classifier}.weight": layer["kernel"].T}
            found |= {f"{self.classifier}.bias": layer["bias"]} if "bias" in layer else {}
        return found

    def __call__(self, variables: Mapping, images: jax.Array, deltas: Mapping[str, jax.Array], dtype: Any) -> Outputs:
        """The network's answer to normalised images [B, H, W, C]; `deltas` are added to the features."""
        tensors = {name: jnp.asarray(x, dtype) for name, x in self.tensors(variables).items()} | self.constants
        images = images + deltas["input"] if "input" in deltas else images
        moved = {name: self._turned(x, to=(0, 3, 1, 2)) for name, x in deltas.items() if name != "input"}
        try:
            with jax.numpy_dtype_promotion("standard"):  # PyTorch's own promotions
                states = {f"{INSIDE}{name}": x for name, x in tensors.items()}
                logits, features = self._run(states, (images.astype(dtype).transpose(0, 3, 1, 2), moved))
        except Exception as error:  # PyTorch's code and torchax's raise anything
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            shape = "x".join(map(str, images.shape[1:]))
            raise ValueError(f"{self.arch} cannot be run on images of {shape}: {text}") from None
        features = {name: self._turned(x, to=(0, 2, 3, 1)) for name, x in features.items()}
        return Outputs(logits=logits.astype(jnp.float32), features=features)

    def _turned(self, value: jax.Array, to: tuple[int, ...]) -> jax.Array:
        """A map with its axes moved between PyTorch's order and ours; other arrays as they are."""
        return value.transpose(to) if value.ndim == 4 and not self._nhwc else value


class _Tapped(torch.nn.Module):
    """A network whose call also returns what some of its modules return, each with a number added."""

    def __init__(self, net: torch.nn.Module, taps: dict[str, torch.nn.Module], classifier: str):
        super().__init__()
        self.net, self._deltas, self._features = net, {}, {}
        for name, module in taps.items():
            module.register_forward_hook(functools.partial(self._after, name))
        if classifier:
            net.get_submodule(classifier).register_forward_pre_hook(self._before_classifier)

    def _record(self, name: str, value: Any) -> torch.Tensor:
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"the module of {name} returns {type(value).__name__}, not one tensor")
        value = value + self._deltas[name] if name in self._deltas else value
        self._features[name] = value
        return value

    def _after(self, name: str, module: torch.nn.Module, inputs: tuple, output: Any) -> torch.Tensor:
        return self._record(name, output)

    def _before_classifier(self, module: torch.nn.Module, inputs: tuple) -> tuple:
        return (self._record("embedding", inputs[0]), *inputs[1:]) if inputs[0].ndim == 2 else inputs

    def forward(self, images: torch.Tensor, deltas: dict) -> tuple[torch.Tensor, dict]:
        self._deltas, self._features = deltas, {}
        logits, features = self.net(images), self._features
        self._deltas, self._features = {}, {}
        if not isinstance(logits, torch.Tensor):
            raise TypeError(f"it returns {type(logits).__name__}, not logits")
        return logits, features


def _last_linear(net: torch.nn.Module) -> str:
    """The name of the linear layer that the network ends in; empty where there is none, or several heads."""
    names = {module: name for name, module in net.named_modules()}
    if hasattr(net, "get_classifier"):  # timm's
        last = net.get_classifier()
        return names.get(last, "") if isinstance(last, torch.nn.Linear) else ""
    last = list(net.modules())[-1]
    return names[last] if isinstance(last, torch.nn.Linear) else ""
