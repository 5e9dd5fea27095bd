"""The model card of trained weights: the README.md of a repository on a hub, written from model.json and the run."""

import json
import math
import pathlib

import jax
import numpy as np

import pretrained
from pretrained import hub
from registry import UserError

LABELS = ("Labels", "")  # strategies without a teacher
# Task -> the hub's name of the task, the hub's name of the metric, the metric among the results, its title here
TASKS = {
    "classification": ("image-classification", "accuracy", "top1", "top-1"),
    "detection": ("object-detection", "mean_average_precision", "AP", "AP"),
}


def config_of(folder: pathlib.Path) -> dict:
    """The `config.json` of the run that a folder of weights belongs to; empty for weights without a run.

    Args:
        folder: `RUN/last`, or `RUN/s0/last` of a run with several seeds.
    """
    for run in list(folder.resolve().parents)[:2]:
        try:
            config = json.loads((run / "config.json").read_text())
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and "student_arch" in config:
            return config
    return {}


def card(weights: pretrained.Pretrained, repository: str) -> str:
    """Writes the card.

    Args:
        weights: what `pretrained.load` returned.
        repository: OWNER/NAME, for the commands that load the weights.

    Returns:
        Markdown with the hub's header.
    """
    info, config = weights.info, config_of(weights.folder)
    data, score, (task, metric, *_) = info["dataset"], _score(info), TASKS[pretrained.task_of(info)]
    tags = ["jax", "flax", task, *["knowledge-distillation"] * bool(_method(info, config))]
    header = ["library_name: kd-cookbook", f"pipeline_tag: {task}"]
    header += ["tags:", *(f"- {tag}" for tag in tags)]
    if score is not None:
        header += [
            *("model-index:", f"- name: {json.dumps(repository)}", "  results:"),
            *("  - task:", f"      type: {task}", "    dataset:"),
            *(f"      name: {json.dumps(data)}", f"      type: {json.dumps(data)}"),
            *("    metrics:", f"    - type: {metric}", f"      value: {score:.2f}"),
        ]
    title = f"{info['arch']} on {data}" + (f", distilled with {_method(info, config)}" if _method(info, config) else "")
    parts = ["---", *header, "---", "", f"# {title}", "", *_table(weights, config), "", *_facts(info, config), ""]
    return "\n".join([*parts, *_loading(info, repository), ""])


def _score(info: dict) -> float | None:
    """The task's main metric on the test split, in percent."""
    _, _, key, _ = TASKS[pretrained.task_of(info)]
    return info["test_top1"] if key == "top1" else info.get("test", {}).get(key)


def _method(info: dict, config: dict) -> str:
    """The distillation method and the strategy; empty for a network trained on labels alone, or converted."""
    strategy = info.get("transfer", "")
    if strategy in LABELS:
        return ""
    method = info.get("distiller") or config.get("distiller", "")
    return f"{method} ({strategy})" if method else strategy


def _teacher(config: dict) -> tuple[str, str]:
    """(the teacher's architecture and where it is from, its score on the test split in percent as text)."""
    if not config.get("teacher_param"):
        return config.get("teacher_logits", "") and "given logits", ""
    arch, params = config.get("teacher_arch", ""), config["teacher_param"].split(",")
    public = [param for param in params if hub.is_hub(param)]
    name = f"{arch} from {', '.join(public)}" if public else arch
    try:
        scores = [_score(pretrained.describe(param)) for param in params]
    except UserError:  # the teacher is not here any more, or is a network of another library
        return name, ""
    return name, ", ".join("" if score is None else f"{score:.2f}" for score in scores)


def _table(weights: pretrained.Pretrained, config: dict) -> list[str]:
    info = weights.info
    test, (teacher, score) = info.get("test", {}), _teacher(config)
    own, (*_, title) = _score(info), TASKS[pretrained.task_of(info)]
    count = sum(math.prod(np.shape(x)) for x in jax.tree.leaves(weights.variables["params"]))
    cells = {
        "network": info["arch"],
        f"test {title}, %": "" if own is None else f"{own:.2f}",
        "parameters": f"{count:,}",
        "method": _method(info, config) or "labels alone" * bool(config),
        "teacher": teacher,
        f"teacher's {title}, %": score,
        "agreement with the teacher, %": f"{test['agreement']:.2f}" if "agreement" in test else "",
    }
    cells = {name: cell for name, cell in cells.items() if cell}
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|", f"| {' | '.join(cells.values())} |"]


def _facts(info: dict, config: dict) -> list[str]:
    height, width, channels = info["image_shape"]
    resize = info.get("resize", 0)
    how = f"the short side resized to {resize}, the centre cropped" if resize else "the whole picture resized"
    lines = [
        f"- **Data.** {info['dataset']}, {info['num_classes']:,} classes.",
        f"- **Input.** {height} x {width} pixels, {channels} channels: {how} "
        f"({info.get('interpolation') or 'bilinear'}). Pixels in [0, 1] have mean {info['mean']} and deviation "
        f"{info['std']}.",
    ]
    if info.get("options"):
        lines.append(f"- **Network.** {info['arch']} with {json.dumps(info['options'])}.")
    if layers := info.get("untrained"):
        lines.append(f"- **Untrained.** No loss has trained {', '.join(layers)}: the logits mean nothing.")
    if config:
        labels = f"{config['num_labels']:,} labels, " if config.get("num_labels") else ""
        lines.append(
            f"- **Training.** {config['train_epoch']} epochs, batch {config['batch_size']}, {labels}"
            f"optimizer {config['optimizer']}, learning rate {config['learning_rate']:g}, seed {info.get('seed', 0)}."
        )
        options = config.get("distiller_options")
        lines += [f"- **Method's options.** {json.dumps(options)}"] if options else []
    if command := info.get("command"):
        lines += ["- **Command.**", "", f"  ```\n  {command}\n  ```"]
    return lines


def _loading(info: dict, repository: str) -> list[str]:
    own = f" --arch {info['arch']}" if ":" in info["arch"] else ""
    path = f"{hub.PREFIX}{repository}"
    return [
        "## Use",
        "",
        "The weights are safetensors. With kd-cookbook and its extra `hub`:",
        "",
        "```",
        f"python -m deploy.predict --param {path}{own} IMAGE",
        f"python train_w_kd.py --teacher_param {path}{own.replace('--', '--teacher_')} --dataset {info['dataset']}",
        "```",
    ]
