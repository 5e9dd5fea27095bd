"""Recipes: one file a setting, with source, command and measured result; `default.py` has every key."""
