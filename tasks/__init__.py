"""Tasks: what labels mean. Each task has a file, and a line in this one.

A task defines the label loss, the metrics of a split, the main metric, and the labels of two mixed images. Strategies
add the task's loss to their own losses and define no label loss themselves. Methods never see the task.
"""

from registry import Registry

__all__ = ["create", "names", "registry"]

registry = Registry("task", {"classification": "tasks.classification:Classification"})
names = registry.names


def create(name: str, **options):
    """Builds a task.

    Args:
        name: one of `names()`.
        **options: the task's fields.

    Raises:
        UserError: an unknown name, with the nearest known one.
    """
    return registry.get(name)(**options)
