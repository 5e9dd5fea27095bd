"""Recipes: one file each, with paper, command and measured result."""
