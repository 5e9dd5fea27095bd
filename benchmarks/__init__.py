"""Measurements that the documentation quotes: comparisons of methods, and speed."""
