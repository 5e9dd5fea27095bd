"""Tasks: what labels mean. Each task has a file, and a line in this one.

A task defines the label loss, the metrics of a split, the main metric, what a test keeps of a network's outputs, and
which parts of the outputs of two networks a method compares. Strategies add the task's loss to their own losses and
define no label loss themselves. Methods never see the task.
"""

from registry import Registry

__all__ = ["ENGINE", "create", "names", "of", "registry"]

registry = Registry(
    "task",
    {
        "classification": "tasks.classification:Classification",
        "detection": "tasks.detection:Detection",
    },
)
names = registry.names
ENGINE = ("labelled", "class_names", "untrained", "class_weights", "label_smoothing")  # fields that no user sets


def create(name: str, **options):
    """Builds a task.

    Args:
        name: one of `names()`.
        **options: the task's fields.

    Raises:
        UserError: an unknown name, with the nearest known one.
    """
    return registry.get(name)(**options)


def of(dataset, **options):
    """Builds the task of a dataset.

    Args:
        dataset: a `data.Dataset`.
        **options: the task's other fields.
    """
    return create(dataset.task, labelled=dataset.labelled, class_names=tuple(dataset.class_names), **options)
