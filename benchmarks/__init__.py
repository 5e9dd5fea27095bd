"""Speed: the step that training runs, its parts, and the start of a run."""
