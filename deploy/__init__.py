"""What leaves the library: predictions, files for other runtimes, smaller networks, weights on a hub."""
