"""What `deploy.predict` shows of each image: the most probable classes, or the objects that are found."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Classes:
    """The `most` most probable classes of an image, the first first."""

    names: tuple[str, ...]
    most: int

    @property
    def header(self) -> list[str]:
        """The columns of the table."""
        return ["file", *(f"{what}{i}" for i in range(1, self.most + 1) for what in ("class", "probability"))]

    def _best(self, probabilities: np.ndarray) -> list[tuple[str, float]]:
        order = np.argsort(-probabilities, kind="stable")[: self.most]
        return [(self.names[i], float(probabilities[i])) for i in order]

    def rows(self, probabilities: np.ndarray) -> list[list[str]]:
        """The lines of the table for an image, without the file's name."""
        return [[cell for name, share in self._best(probabilities) for cell in (name, f"{share:.6f}")]]

    def facts(self, probabilities: np.ndarray) -> dict:
        """The JSON object of an image, without the file's name."""
        return {"top": [{"class": name, "probability": round(share, 6)} for name, share in self._best(probabilities)]}

    def text(self, probabilities: np.ndarray) -> str:
        """The line of an image, without the file's name."""
        return ", ".join(f"{name} {share:.1%}" for name, share in self._best(probabilities))


@dataclasses.dataclass(frozen=True)
class Boxes:
    """The `most` objects of an image with the highest scores, of those whose score is at least `least`."""

    names: tuple[str, ...]
    most: int
    least: float

    header = ("file", "class", "score", "x1", "y1", "x2", "y2")

    def _best(self, detections: np.ndarray) -> list[tuple[str, float, list[float]]]:
        """(class, score, box) of each object of the rows [D, 6], without boxes that lay in the padding alone."""
        there = (detections[:, 5] >= 0) & (detections[:, 2:4] > detections[:, :2]).all(axis=1)
        shown = detections[there & (detections[:, 4] >= self.least)][: self.most]
        return [(self.names[int(row[5])], float(row[4]), row[:4].tolist()) for row in shown]

    def rows(self, detections: np.ndarray) -> list[list[str]]:
        return [[name, f"{score:.6f}", *(f"{x:.2f}" for x in box)] for name, score, box in self._best(detections)]

    def facts(self, detections: np.ndarray) -> dict:
        best = self._best(detections)
        named = [{"class": n, "score": round(s, 6), "box": [round(x, 2) for x in box]} for n, s, box in best]
        return {"objects": named}

    def text(self, detections: np.ndarray) -> str:
        best = self._best(detections)
        return ", ".join(f"{n} {s:.1%} [{' '.join(f'{x:.1f}' for x in box)}]" for n, s, box in best) or "no object"
