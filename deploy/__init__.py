"""What leaves the library: predictions, files for other runtimes, smaller networks, weights on a hub.

`load` reads trained weights and returns a function: images -> probabilities.
"""

from deploy.classifier import Classifier, load

__all__ = ["Classifier", "load"]
