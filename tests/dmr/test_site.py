"""Label maps of another place; vectors are tested with `dmr evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from dmr.data.dataset import DataError, MultimodalDataset
from dmr.data.site import open_site


def write_maps(folder: Path, dataset: MultimodalDataset) -> Path:
    samples = dataset.splits["val"]
    (folder / "test").mkdir(parents=True)
    np.save(folder / "test/label.npy", samples.labels)
    for name, values in samples.inputs.items():
        np.save(folder / f"test/{name}.npy", values)
    modalities = [{"name": m.name, "kind": m.kind, "shape": list(m.shape)} for m in dataset.modalities]
    description = {"task": "segmentation", "num_classes": 3, "ignore_index": 255, "modalities": modalities}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    return folder


def test_label_maps_have_the_size_of_the_models(make_maps: Callable[..., MultimodalDataset], tmp_path: Path) -> None:
    dataset = make_maps(2)
    split, site = open_site(write_maps(tmp_path / "same", dataset), None, replace(dataset, ignore_index=None))
    assert (split, site.name, site.ignore_index, list(site.splits)) == ("test", "same", 255, ["test"])
    assert site.splits["test"].present is None
    np.testing.assert_array_equal(site.splits["test"].inputs["b"], dataset.splits["val"].inputs["b"])
    val = dataset.splits["val"]
    smaller = replace(dataset, splits={"val": replace(val, labels=val.labels[:, :8])})
    with pytest.raises(DataError, match=r"label\.npy: label maps of 16 × 16; the model's have 8 × 16"):
        open_site(tmp_path / "same", "test", smaller)
    with pytest.raises(DataError, match="there is no split val; it has test"):
        open_site(tmp_path / "same", "val", dataset)
