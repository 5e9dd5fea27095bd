"""Explanations: maps of what a network looks at, how faithful they are, and pictures of them."""
