"""What others have published on CIFAR-100 with the benchmarks' setting, by method: for recipes and docs/methods.md."""

from typing import NamedTuple


class Published(NamedTuple):
    """One row of somebody's table.

    Attributes:
        source: whose, and what was reported.
        top1: "TEACHER,STUDENT" -> percent.
        variant: what is not the method's default; empty: nothing.
    """

    source: str
    top1: dict[str, float]
    variant: str = ""

    def __str__(self):
        variant = f", {self.variant}" if self.variant else ""
        numbers = "; ".join(f"{pair} {value:.2f}" for pair, value in self.top1.items())
        return f"Published top-1 ({self.source}{variant}): {numbers}."


NOTHING = "Published: not in the tables we know."

SAME = "WRN_40_2,WRN_16_2 WRN_40_2,WRN_40_1 ResNet56,ResNet20 ResNet110,ResNet20 ResNet110,ResNet32"
SAME += " ResNet32x4,ResNet8x4 VGG13,VGG8"
OTHER = "VGG13,MobileNetV2 ResNet50,MobileNetV2 ResNet50,VGG8 ResNet32x4,ShuffleNetV1 ResNet32x4,ShuffleNetV2"
OTHER += " WRN_40_2,ShuffleNetV1"
LSKD_SAME = "ResNet32x4,ResNet8x4 VGG13,VGG8 WRN_40_2,WRN_40_1 WRN_40_2,WRN_16_2 ResNet56,ResNet20"
LSKD_SAME += " ResNet110,ResNet32 ResNet110,ResNet20"
LSKD_OTHER = "ResNet32x4,ShuffleNetV2 ResNet32x4,WRN_16_2 ResNet32x4,WRN_40_2 WRN_40_2,ResNet8x4 WRN_40_2,MobileNetV2"
LSKD_OTHER += " VGG13,MobileNetV2 ResNet50,MobileNetV2"
# The last pair stands as ResNet32x4-MobileNetV2 in mdistiller's README; its numbers are those of ShuffleNetV2.
MDISTILLER = "ResNet56,ResNet20 ResNet110,ResNet32 ResNet32x4,ResNet8x4 WRN_40_2,WRN_16_2 WRN_40_2,WRN_40_1 VGG13,VGG8"
MDISTILLER += " ResNet32x4,ShuffleNetV1 WRN_40_2,ShuffleNetV1 VGG13,MobileNetV2 ResNet50,MobileNetV2"
MDISTILLER += " ResNet32x4,ShuffleNetV2"


def _row(pairs: str, numbers: str) -> dict[str, float]:
    values = {p: n for p, n in zip(pairs.split(), numbers.split(), strict=True)}
    return {pair: float(value) for pair, value in values.items() if value != "-"}


def _repdistiller(numbers: str) -> Published:
    pairs = f"{SAME} {OTHER}"
    return Published("RepDistiller's README, last epoch, mean of runs", _row(pairs, numbers))


def _lskd(numbers: str, variant: str = "") -> Published:
    return Published("README of the LSKD code", _row(f"{LSKD_SAME} {LSKD_OTHER}", numbers), variant)


def _mdistiller(pairs: str, numbers: str) -> Published:
    return Published("mdistiller's README, best epoch", _row(pairs, numbers))


def _zoo(number: float) -> Published:
    return Published("Knowledge-Distillation-Zoo's README, with its own setting", {"ResNet110,ResNet20": number})


PUBLISHED: dict[str, list[Published]] = {
    "SoftLogits": [
        _repdistiller("74.92 73.54 70.66 70.67 73.08 73.33 72.98 67.37 67.35 73.81 74.07 74.45 74.83"),
        _lskd(
            "76.62 74.36 74.37 76.11 71.43 74.17 71.48 75.56 75.26 77.92 77.11 69.23 68.61 69.02",
            "standardize=True, weight 9, temperature 2 (3 for some pairs)",
        ),
    ],
    "DOT": [_mdistiller("ResNet32x4,ResNet8x4 VGG13,VGG8 ResNet32x4,ShuffleNetV2", "75.12 73.77 75.55")],
    "DKD": [
        _mdistiller(MDISTILLER, "71.97 74.11 76.32 76.23 74.81 74.68 76.45 76.70 69.71 70.35 77.07"),
        _lskd(
            "77.01 74.81 74.89 76.39 72.32 74.29 71.85 77.37 76.19 78.95 76.75 70.01 69.98 70.45", "standardize=True"
        ),
    ],
    "DIST": [Published("the paper", {"ResNet56,ResNet20": 71.75, "ResNet32x4,ResNet8x4": 76.31})],
    "MLKD": [
        _lskd("77.08 75.18 75.35 76.63 72.19 74.11 71.89 78.44 76.52 79.26 77.33 70.78 70.57 71.04"),
        _lskd(
            "78.28 75.22 75.56 76.95 72.33 74.32 72.27 78.76 77.53 79.66 77.68 71.61 70.94 71.19",
            "standardize=True, weight 9",
        ),
    ],
    "CTKD": [_lskd("73.39 73.52 73.93 75.45 71.19 73.52 70.99 75.37 74.57 77.66 74.61 68.34 68.50 68.67")],
    "FitNet": [_repdistiller("73.58 72.24 69.21 68.99 71.06 73.50 71.02 64.14 63.16 70.69 73.59 73.54 73.73")],
    "AT": [_repdistiller("74.08 72.77 70.55 70.22 72.31 73.44 71.43 59.40 58.58 71.84 71.73 72.73 73.32")],
    "SP": [_repdistiller("73.83 72.43 69.67 70.04 72.69 72.94 72.68 66.30 68.08 73.34 73.48 74.56 74.52")],
    "CC": [_repdistiller("73.56 72.21 69.63 69.48 71.48 72.97 70.71 64.86 65.43 70.25 71.14 71.29 71.38")],
    "VID": [_repdistiller("74.11 73.30 70.38 70.16 72.61 73.09 71.23 65.56 67.57 70.30 73.38 73.40 73.61")],
    "RKD": [_repdistiller("73.35 72.22 69.61 69.25 71.82 71.90 71.48 64.52 64.43 71.50 72.28 73.21 72.21")],
    "PKT": [_repdistiller("74.54 73.45 70.34 70.25 72.61 73.64 72.88 67.13 66.52 73.01 74.10 74.69 73.89")],
    "AB": [_repdistiller("72.50 72.38 69.47 69.53 70.98 73.17 70.94 66.06 67.20 70.65 73.55 74.31 73.34")],
    "FT": [_repdistiller("73.25 71.59 69.84 70.22 72.37 72.86 70.58 61.78 60.99 70.29 71.75 72.50 72.03")],
    "FSP": [_repdistiller("72.91 - 69.95 70.11 71.89 72.62 70.23 - - - - - -")],
    "NST": [_repdistiller("73.68 72.24 69.60 69.53 71.96 73.30 71.53 58.16 64.96 71.28 74.12 74.68 74.89")],
    "CRD": [_repdistiller("75.48 74.14 71.16 71.46 73.48 75.51 73.94 69.73 69.11 74.30 75.11 75.65 76.05")],
    "ReviewKD": [
        Published("Papers with Code, of the paper", {"ResNet32x4,ResNet8x4": 75.63, "VGG13,VGG8": 74.84}),
    ],
    "Logits": [_zoo(69.78)],
    "IRG": [_zoo(69.36)],
    "AFD": [_zoo(69.60)],
    "OFD": [_zoo(69.81)],
}


def text(name: str) -> list[str]:
    """What the recipe of method `name` (or of "DOT") says, a sentence a row."""
    return [str(row) for row in PUBLISHED.get(name, [])] or [NOTHING]
