"""A dataset that several test files read."""

import io
import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A tiny `cifar10` in TFDS' own array_record form, written without TensorFlow."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from array_record.python.array_record_module import ArrayRecordWriter

    random = np.random.RandomState(0)
    version = tmp_path / "cifar10/3.0.2"
    version.mkdir(parents=True)
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["ant", "bee", "wasp"]),
        }
    )
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    written, splits = {}, []
    for split, count in (("train", 7), ("test", 4)):
        images = random.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        labels = random.randint(0, 3, count)
        writer = ArrayRecordWriter(str(version / f"cifar10-{split}.array_record-00000-of-00001"), "group_size:1")
        for i in range(count):
            png = io.BytesIO()
            Image.fromarray(images[i]).save(png, "PNG")
            png.seek(0)
            example = features.encode_example({"id": f"{split}_{i}", "image": png, "label": int(labels[i])})
            writer.write(serializer.serialize_example(example))
        writer.close()
        written[split] = images, labels
        splits.append({"name": split, "numBytes": "1", "shardLengths": [str(count)]})
        splits[-1]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    features.save_config(str(version))
    info = {"name": "cifar10", "version": "3.0.2", "fileFormat": "array_record", "splits": splits}
    (version / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path, written
