"""Detectors: networks that return boxes and classes of objects, and the operations on boxes that they need.

Boxes are [..., 4] float32, (x1, y1, x2, y2) in pixels of the image that the network sees; their sides are x2 - x1 and
y2 - y1. Every function is pure, and its shapes follow from the shapes of its arguments alone.
"""
