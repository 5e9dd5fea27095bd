"""What a dataset without labels excludes: strategies and methods that learn from labels alone, and the label loss."""

from distiller import Distiller
from registry import UserError


def settle(config: dict, strategy: type, method: Distiller | None, typed: tuple[str, ...]) -> list[str]:
    """Sets `ce_weight` to 0 for a dataset without labels.

    Args:
        config: of a dataset without labels; the weight of the label loss is changed.
        strategy: the class of the strategy.
        method: the method; a strategy with a frozen teacher has one.
        typed: the keys that the user typed.

    Returns:
        A note where the weight of the label loss was not 0.

    Raises:
        UserError: a strategy or a method that learns from labels alone, no teacher, or a weight of the label loss that
            the user typed.
    """
    name, folder = config["dataset"], f" --data_dir {config['data_dir']}" * bool(config["data_dir"])
    lacking = "" if config["teacher_param"] else "no --teacher_param names a trained teacher"
    if "teacher_views" not in strategy.reads:  # the strategy has no frozen teacher
        lacking = f"--transfer {config['transfer']} learns from labels"
    if lacking:
        raise UserError(
            f"{name} has no labels, and {lacking}.\n"
            f"Distil a teacher: python train_w_kd.py --transfer Offline --teacher_param P --dataset {name}{folder}"
        )
    parts = getattr(method, "parts", (method,))
    on_labels = [part for part in parts if part.needs_labels]
    if len(on_labels) < len(parts):  # the others teach after a part's first phase, which needs no labels
        on_labels = [part for part in on_labels if not part.first_phase_epochs]
    if on_labels:
        found = "+".join(type(part).__name__ for part in on_labels)
        path = f"{type(on_labels[0]).__name__}." * (len(parts) > 1)
        by_teacher = f"--config.distiller_options.{path}classes=teacher"
        otherwise = by_teacher if hasattr(on_labels[0], "classes") else "SoftLogits"
        raise UserError(
            f"{name} has no labels, and --distiller {found} needs them.\n"
            f"Take {otherwise}, or another method that needs none (docs/your_data.md)."
        )
    chosen = config["distiller_options"]
    places = [chosen, *(own for own in chosen.values() if isinstance(own, dict))]
    given = [own.pop("ce_weight") for own in places if "ce_weight" in own]
    if "distiller_options" in typed and any(given):
        raise UserError(
            f"{name} has no labels, so the weight of the label loss, ce_weight, is 0; got {max(given):g}.\n"
            "Leave --config.distiller_options.ce_weight out."
        )
    chosen["ce_weight"] = 0.0
    note = f"{name} has no labels: ce_weight, the weight of the label loss, is 0, not {method.ce_weight:g}."
    return [note] if method.ce_weight else []
