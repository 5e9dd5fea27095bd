"""Published results on CIFAR-100: top-1 of methods, top-1 on labels alone, and the benchmarks' options.

`configs/cifar100.py` reads the options, and `python -m studies.methods_table` writes everything to docs/methods.md.
"""

from typing import NamedTuple

# Options of a method that differ from its defaults: under "" for all pairs, under the name of a pair for this pair.
DKD = {"": {"beta": 8.0}}
DKD |= {pair: {"beta": 2.0} for pair in ("ResNet56,ResNet20", "ResNet110,ResNet32")}
DKD |= {pair: {"beta": 6.0} for pair in ("VGG13,VGG8", "VGG13,MobileNetV2", "WRN_40_2,WRN_16_2", "WRN_40_2,WRN_40_1")}
REVIEWED = "ResNet32x4,ResNet8x4 ResNet32x4,ShuffleNetV1 WRN_40_2,WRN_16_2 WRN_40_2,WRN_40_1 WRN_40_2,ShuffleNetV1"
OPTIONS: dict[str, dict[str, dict]] = {
    "DKD": DKD,  # mdistiller's options
    "SDD": DKD,  # configs/cifar100.py adds the scales
    "MLKD": {"": {"released": True}},  # the loss behind the published numbers; with False it is the paper's
    "ReviewKD": {  # the authors' script; pairs that are not in the script have weight 1
        "ResNet56,ResNet20": {"weight": 0.6},
        "ResNet32x4,ShuffleNetV2": {"weight": 8.0},
        **{pair: {"weight": 5.0} for pair in REVIEWED.split()},
    },
    "FT": {"": {"pool_channels": True}},  # RepDistiller's loss, the loss behind the published numbers
    "CC": {"": {"project_to": 128}},  # the width of RepDistiller's embeddings
    "ND": {  # the weights of KD++ in the authors' script, which also changes the weights of SoftLogits
        **{pair: {"weight": 1.5} for pair in ("WRN_40_2,WRN_40_1", "ResNet32x4,ShuffleNetV1")},
        **{pair: {"weight": 0.5} for pair in ("ResNet50,MobileNetV2", "ResNet32x4,ShuffleNetV2")},
    },
    "CATKD": {"ResNet56,ResNet20": {"normalize": False, "weight": 0.7}},  # the authors' code: raw maps for this pair
}


def options(method: str, pair: str) -> dict:
    """Returns the benchmarks' options of a method for "TEACHER,STUDENT". Other options have their defaults."""
    found = OPTIONS.get(method, {})
    return {**found.get("", {}), **found.get(pair, {})}


# Top-1 on labels alone in percent: RepDistiller's README, last epoch.
LABELS = {
    "ResNet20": 69.06,
    "ResNet32": 71.14,
    "ResNet56": 72.34,
    "ResNet110": 74.31,
    "ResNet8x4": 72.50,
    "ResNet32x4": 79.42,
    "WRN_16_2": 73.26,
    "WRN_40_1": 71.98,
    "WRN_40_2": 75.61,
    "VGG8": 70.36,
    "VGG13": 74.64,
    "ResNet50": 79.34,
    "MobileNetV2": 64.60,
    "ShuffleNetV1": 70.50,
    "ShuffleNetV2": 71.82,
}


class Table(NamedTuple):
    """Top-1 as one source reports it.

    Attributes:
        source: the publication, and which epoch or mean it reports.
        pairs: "TEACHER,STUDENT" of each column.
        rows: method (or DOT), after a comma options that are not its defaults -> percent for each pair; NaN: none.
    """

    source: str
    pairs: list[str]
    rows: dict[str, list[float]]


def _table(source: str, pairs: str, rows: dict[str, str]) -> Table:
    return Table(source, pairs.split(), {name: [float(n) for n in row.split()] for name, row in rows.items()})


REPDISTILLER = "WRN_40_2,WRN_16_2 WRN_40_2,WRN_40_1 ResNet56,ResNet20 ResNet110,ResNet20 ResNet110,ResNet32"
REPDISTILLER += " ResNet32x4,ResNet8x4 VGG13,VGG8 VGG13,MobileNetV2 ResNet50,MobileNetV2 ResNet50,VGG8"
REPDISTILLER += " ResNet32x4,ShuffleNetV1 ResNet32x4,ShuffleNetV2 WRN_40_2,ShuffleNetV1"
LSKD = "ResNet32x4,ResNet8x4 VGG13,VGG8 WRN_40_2,WRN_40_1 WRN_40_2,WRN_16_2 ResNet56,ResNet20"
LSKD += " ResNet110,ResNet32 ResNet110,ResNet20 ResNet32x4,ShuffleNetV2 ResNet32x4,WRN_16_2 ResNet32x4,WRN_40_2"
LSKD += " WRN_40_2,ResNet8x4 WRN_40_2,MobileNetV2 VGG13,MobileNetV2 ResNet50,MobileNetV2"
TABLES = [
    _table(
        "RepDistiller's README, last epoch, mean of runs",
        REPDISTILLER,
        {
            "SoftLogits": "74.92 73.54 70.66 70.67 73.08 73.33 72.98 67.37 67.35 73.81 74.07 74.45 74.83",
            "FitNet": "73.58 72.24 69.21 68.99 71.06 73.50 71.02 64.14 63.16 70.69 73.59 73.54 73.73",
            "AT": "74.08 72.77 70.55 70.22 72.31 73.44 71.43 59.40 58.58 71.84 71.73 72.73 73.32",
            "SP": "73.83 72.43 69.67 70.04 72.69 72.94 72.68 66.30 68.08 73.34 73.48 74.56 74.52",
            "CC": "73.56 72.21 69.63 69.48 71.48 72.97 70.71 64.86 65.43 70.25 71.14 71.29 71.38",
            "VID": "74.11 73.30 70.38 70.16 72.61 73.09 71.23 65.56 67.57 70.30 73.38 73.40 73.61",
            "RKD": "73.35 72.22 69.61 69.25 71.82 71.90 71.48 64.52 64.43 71.50 72.28 73.21 72.21",
            "PKT": "74.54 73.45 70.34 70.25 72.61 73.64 72.88 67.13 66.52 73.01 74.10 74.69 73.89",
            "AB": "72.50 72.38 69.47 69.53 70.98 73.17 70.94 66.06 67.20 70.65 73.55 74.31 73.34",
            "FT": "73.25 71.59 69.84 70.22 72.37 72.86 70.58 61.78 60.99 70.29 71.75 72.50 72.03",
            "FSP": "72.91 nan 69.95 70.11 71.89 72.62 70.23 nan nan nan nan nan nan",
            "NST": "73.68 72.24 69.60 69.53 71.96 73.30 71.53 58.16 64.96 71.28 74.12 74.68 74.89",
            "CRD": "75.48 74.14 71.16 71.46 73.48 75.51 73.94 69.73 69.11 74.30 75.11 75.65 76.05",
        },
    ),
    _table(  # mdistiller's README calls the last pair ResNet32x4-MobileNetV2; its numbers are those of ShuffleNetV2
        "mdistiller's README, best epoch",
        "ResNet56,ResNet20 ResNet110,ResNet32 ResNet32x4,ResNet8x4 WRN_40_2,WRN_16_2 WRN_40_2,WRN_40_1 VGG13,VGG8"
        " ResNet32x4,ShuffleNetV1 WRN_40_2,ShuffleNetV1 VGG13,MobileNetV2 ResNet50,MobileNetV2 ResNet32x4,ShuffleNetV2",
        {
            "DKD": "71.97 74.11 76.32 76.23 74.81 74.68 76.45 76.70 69.71 70.35 77.07",
            "DOT": "nan nan 75.12 nan nan 73.77 nan nan nan nan 75.55",
        },
    ),
    _table(
        "README of the LSKD code",
        LSKD,
        {
            "MLKD": "77.08 75.18 75.35 76.63 72.19 74.11 71.89 78.44 76.52 79.26 77.33 70.78 70.57 71.04",
            "CTKD": "73.39 73.52 73.93 75.45 71.19 73.52 70.99 75.37 74.57 77.66 74.61 68.34 68.50 68.67",
        },
    ),
    _table(
        "README of the LSKD code, standardize=True",
        LSKD,
        {
            "SoftLogits, weight 9, temperature 2 (3 for some pairs)": "76.62 74.36 74.37 76.11 71.43 74.17 71.48"
            " 75.56 75.26 77.92 77.11 69.23 68.61 69.02",
            "DKD, its weights in distiller/dkd.py": "77.01 74.81 74.89 76.39 72.32 74.29 71.85"
            " 77.37 76.19 78.95 76.75 70.01 69.98 70.45",
            "MLKD, weight 9": "78.28 75.22 75.56 76.95 72.33 74.32 72.27 78.76 77.53 79.66 77.68 71.61 70.94 71.19",
        },
    ),
    _table(
        "README of the TTM code",
        REPDISTILLER,
        {
            "TTM": "76.23 74.32 71.83 71.46 73.97 76.17 74.33 68.98 69.24 74.87 74.18 76.57 75.39",
            "WTTM": "76.37 74.58 71.92 71.67 74.13 76.06 74.44 69.16 69.59 74.82 74.37 76.55 75.42",
        },
    ),
    _table(
        "README of the SKD code, with its own teachers",
        "ResNet56,ResNet20 ResNet110,ResNet32 ResNet32x4,ResNet8x4 WRN_40_2,WRN_16_2 WRN_40_2,WRN_40_1",
        {"SKD": "71.34 74.26 77.21 76.42 75.56"},
    ),
    _table(
        "README of the ND code",
        "ResNet56,ResNet20 WRN_40_2,WRN_40_1 ResNet32x4,ResNet8x4 ResNet50,MobileNetV2 ResNet32x4,ShuffleNetV1"
        " ResNet32x4,ShuffleNetV2",
        {
            "ND, beside SoftLogits (KD++)": "72.53 74.59 75.54 70.10 75.45 76.42",
            "ND, beside DIST (DIST++)": "72.52 75.00 76.13 69.80 75.60 76.64",
            "ND, beside DKD (DKD++)": "72.16 75.02 76.28 70.82 77.11 77.49",
            "ND, beside ReviewKD (ReviewKD++)": "72.05 75.66 76.07 70.45 77.68 77.93",
        },
    ),
    _table(
        "README of the ICKD code",
        "WRN_40_2,WRN_16_2 WRN_40_2,WRN_40_1 ResNet56,ResNet20 ResNet110,ResNet20 ResNet110,ResNet32"
        " ResNet32x4,ResNet8x4 VGG13,VGG8",
        {
            "ICKD": "75.64 74.33 71.76 71.68 73.89 75.25 73.42",
            "ICKD, beside SoftLogits": "75.57 74.63 71.69 71.91 74.11 75.48 73.88",
        },
    ),
    _table(
        "README of the NORM code",
        "ResNet56,ResNet20 ResNet32x4,ResNet8x4 WRN_40_2,WRN_16_2 VGG13,VGG8",
        {"NORM": "71.35 76.49 75.65 73.95", "NORM, beside SoftLogits": "71.61 76.98 76.26 74.46"},
    ),
    _table("README of the SimKD code", "ResNet32x4,ResNet8x4", {"SRRL, beside SoftLogits": "75.39"}),
    _table("DIST's paper", "ResNet56,ResNet20 ResNet32x4,ResNet8x4", {"DIST": "71.75 76.31"}),
    _table("Papers with Code, of the paper", "ResNet32x4,ResNet8x4 VGG13,VGG8", {"ReviewKD": "75.63 74.84"}),
    _table(
        "Knowledge-Distillation-Zoo's README, with its own setting",
        "ResNet110,ResNet20",
        {"Logits": "69.78", "IRG": "69.36", "AFD": "69.60", "OFD": "69.81"},
    ),
]
PAIRS = list(dict.fromkeys(pair for table in TABLES for pair in table.pairs))


def top1(method: str) -> dict[str, float]:
    """Returns pair -> percent of a method with its benchmark's options; empty if no table has the method."""
    for table in TABLES:
        if method in table.rows:
            return {p: n for p, n in zip(table.pairs, table.rows[method], strict=True) if n == n}
    return {}
