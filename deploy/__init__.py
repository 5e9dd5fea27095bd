"""What leaves the library: predictions, files for other runtimes, smaller networks, weights on a hub.

`load` reads trained weights and returns a function: images -> probabilities, or images -> detections.
"""

from deploy.classifier import Classifier
from deploy.detector import Detector
from deploy.loading import load

__all__ = ["Classifier", "Detector", "load"]
