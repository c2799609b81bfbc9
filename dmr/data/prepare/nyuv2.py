"""NYU Depth v2: label maps of 40 classes over indoor scenes in colour and depth.

Source: Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012; 40 classes of Gupta
et al., CVPR 2013. On disk either the release
    nyu_depth_v2_labeled.mat: HDF5 with images, depths (metres) and labels (894 classes, 0 = void)
    splits.mat: trainNdxs, testNdxs, from 1
    classMapping40.mat: mapClass, from 894 to 40 classes
or the prepared layout
    {train,test}/{rgb,depth,labels_40}/NNNN.png, depth uint16 in millimetres, labels uint8 with 0 = void
    train.txt, test.txt: NNNN

Letters: H height, W width. MATLAB's arrays come out of HDF5 with their axes reversed: (N, 3, W, H), (N, W, H).
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import DataError, Modality
from dmr.data.prepare.files import BadFile, Files, channels_first
from dmr.data.prepare.release import IMAGENET, Arrays, Release, Sample, Stored, check_folder, read_lines

MAT, SPLITS, MAPPING = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
    *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
    *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture"),
    "other prop",
)
VOID = 255
DEPTH = {"unit": "millimetres", "mean": 2841.949, "std": 1417.259}
CHUNK_CACHE = {"rdcc_nbytes": 64 * 2**20, "rdcc_nslots": 100_003}  # a chunk may hold parts of many images


def nyuv2(source: Path) -> Release:
    """The release below `source`, in either form.

    Raises:
        DataError: neither form is there, or a list or mapping cannot be used.
    """
    check_folder(source)
    if (source / MAT).exists():
        return _hdf5(source)
    if (source / "train.txt").exists():
        return _png(source)
    raise DataError(f"{source}: neither {MAT} (the release) nor train.txt (the PNG layout) is there")


def read_scene(mapping: npt.NDArray[np.uint8], sample: Sample, files: Files) -> Arrays:
    """A sample of the HDF5 release: `rgb` (3, H, W), `depth` (1, H, W) in millimetres, `label` (H, W).

    Raises:
        BadFile: damaged, or a label has no class in the mapping.
    """
    where = f"{MAT}, image {sample.name}"
    row = int(sample.name) - 1
    try:
        release = _open(str(files.root / MAT))
        rgb, depth, labels = (np.asarray(release[key][row]) for key in ("images", "depths", "labels"))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise BadFile(where, f"cannot be read: {error}") from None
    for array in (rgb, depth, labels):
        files.count(array.tobytes())
    if labels.max() >= len(mapping):
        raise BadFile(where, f"label {labels.max()}; allowed are 0 (void) to {len(mapping) - 1}")
    return {
        "rgb": np.ascontiguousarray(rgb.transpose(0, 2, 1)),
        "depth": np.ascontiguousarray(depth.T[None] * np.float32(1000.0), dtype=np.float32),
        "label": classes_from_zero(mapping[labels.T]),
    }


def read_pngs(shape: tuple[int, int], sample: Sample, files: Files) -> Arrays:
    """A sample of the PNG layout, as `read_scene`.

    Raises:
        BadFile: an image is damaged, of another size or type, or a label is outside the classes.
    """
    _, depth_file, label_file = sample.files
    rgb, depth, labels = (files.image(file) for file in sample.files)
    for file, image in zip(sample.files, (rgb, depth, labels), strict=True):
        if image.size != shape[::-1]:
            got, needed = "×".join(map(str, image.size)), "×".join(map(str, shape[::-1]))
            raise BadFile(file, f"{got} pixels; {needed} are needed, as the first image has")
    if not depth.mode.startswith("I"):
        raise BadFile(depth_file, f"16-bit grey is needed, got mode {depth.mode}")
    if labels.mode not in ("L", "P"):
        raise BadFile(label_file, f"8-bit grey or indexed is needed, got mode {labels.mode}")
    label = np.asarray(labels)
    if label.max() > len(CLASSES):
        raise BadFile(label_file, f"label {label.max()}; allowed are 0 (void) to {len(CLASSES)}")
    return {
        "rgb": channels_first(rgb.convert("RGB")),
        "depth": np.asarray(depth).astype(np.float32)[None],
        "label": classes_from_zero(label),
    }


def classes_from_zero(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Labels 1 to 40 become 0 to 39, void (0) becomes 255."""
    return np.where(label == 0, VOID, label.astype(np.int64) - 1)


def _hdf5(source: Path) -> Release:
    import h5py

    try:
        with h5py.File(source / MAT, "r", locking="best-effort") as release:
            found = {key: (release[key].dtype.kind, release[key].shape) for key in ("images", "depths", "labels")}
            count, width, height = release["depths"].shape
    except (OSError, KeyError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{source / MAT}: not the labelled NYUv2 release: {error}") from None
    maps = (count, width, height)
    for key, needed in {
        "images": ("u", (count, 3, width, height)),
        "depths": ("f", maps),
        "labels": ("u", maps),
    }.items():
        if found[key] != needed:
            raise DataError(f"{source / MAT}: {key}: {found[key]} found, {needed} needed (kind of type, shape)")
    mapping = np.concatenate([[0], _matrix(source / MAPPING, "mapClass", 0, len(CLASSES))]).astype(np.uint8)
    splits = {}
    for split in ("train", "test"):
        numbers = _matrix(source / SPLITS, f"{split}Ndxs", 1, count)
        splits[split] = tuple(Sample(f"{n:04d}", f"{source / SPLITS}, {split}Ndxs", ()) for n in numbers)
    read = partial(read_scene, mapping)
    return _release(source, (height, width), splits, read, (MAT, SPLITS, MAPPING))


def _png(source: Path) -> Release:
    splits = {}
    for split in ("train", "test"):
        listed = [(where, Path(line).stem) for where, line in read_lines(source / f"{split}.txt")]
        splits[split] = tuple(
            Sample(name, where, tuple(f"{split}/{kind}/{name}.png" for kind in ("rgb", "depth", "labels_40")))
            for where, name in listed
        )
    shape = _first_shape(source, [sample for samples in splits.values() for sample in samples])
    return _release(source, shape, splits, partial(read_pngs, shape), ("train.txt", "test.txt"))


def _release(
    source: Path, shape: tuple[int, int], splits: dict[str, tuple[Sample, ...]], read: Any, hashed: tuple[str, ...]
) -> Release:
    return Release(
        name="nyuv2",
        source=source,
        task="segmentation",
        class_names=CLASSES,
        stored=(
            Stored(Modality("rgb", "image", (3, *shape)), "uint8", IMAGENET),
            Stored(Modality("depth", "image", (1, *shape)), "float32", DEPTH),
        ),
        label_shape=shape,
        splits=splits,
        read=read,
        hashed=hashed,
        about={
            "source": "NYU Depth v2, Silberman et al. 2012; 40 classes of Gupta et al. 2013",
            "split": "train and test as published; no val is published: it is split from train when the set is opened",
        },
        ignore_index=VOID,
    )


def _first_shape(source: Path, samples: list[Sample]) -> tuple[int, int]:
    """(H, W) of the first colour image that can be opened.

    Raises:
        DataError: none can.
    """
    for sample in samples:
        try:
            width, height = Files(source).image(sample.files[0]).size
        except BadFile:
            continue
        return height, width
    raise DataError(f"{source / samples[0].files[0]}: neither this nor another listed image can be read")


def _matrix(file: Path, key: str, lowest: int, highest: int) -> npt.NDArray[np.int64]:
    """A MATLAB vector of whole numbers.

    Raises:
        DataError: the file cannot be read, has no such variable, or a number is out of range.
    """
    try:
        values = Files(file.parent).matlab(file.name, key).ravel().astype(np.int64)
    except BadFile as error:
        raise DataError(f"{file}: {error.reason}") from None
    except (TypeError, ValueError):
        raise DataError(f"{file}: {key}: whole numbers are needed") from None
    outside = values[(values < lowest) | (values > highest)]
    if len(values) == 0 or len(outside):
        got = f"{outside[0]}" if len(outside) else "nothing"
        raise DataError(f"{file}: {key}: got {got}; allowed are {lowest} to {highest}")
    return values


@lru_cache(maxsize=1)
def _open(file: str) -> Any:
    """The HDF5 file, once per process."""
    import h5py

    return h5py.File(file, "r", locking="best-effort", **CHUNK_CACHE)
