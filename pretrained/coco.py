"""The columns of torchvision's detectors: COCO's category numbers from 0 to 90, of which 80 are classes."""

CATEGORIES = """__background__, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, -, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -,
backpack, umbrella, -, -, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife, spoon, bowl, banana,
apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -,
dining table, -, -, toilet, -, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, -, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"""


def names(count: int) -> list[str]:
    """Names of the last `count` columns: 91 with the background, 90 without; empty for another number.

    A column that is no class has its number as a name.
    """
    every = [name.strip() for name in CATEGORIES.split(",")]
    every = [str(number) if name == "-" else name for number, name in enumerate(every)]
    return every[-count:] if count in (90, 91) else []
