"""Recipes, one file each. `default` has every key, `command` the flags, `resolve` makes the complete config."""
