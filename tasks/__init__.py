"""Tasks: what labels mean. One file a task, one line here.

A task gives the label loss, the metrics of a split and the main one among them, and says what mixing two images does to
their labels. Strategies add the task's loss to their own and name no loss on labels themselves. Methods never see the
task.
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
