"""Augmentation of whole batches on the device: one geometry for all images of a sample and its label map.

Letters: B samples of a batch, C channels, H height, W width, h, w of what is cropped, T frames.

Training sees a random crop, turned, enlarged and mirrored at random; everything else sees the centre of the same size.
Values are left as they are: depth is not divided by the factor an image is enlarged by, as some do for NYUv2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dmr.data.dataset import Modality, MultimodalDataset
from dmr.data.transfer import to_device
from dmr.distributed.ranks import BatchShard, alone
from dmr.settings import setting

KINDS = ("image", "frames")
COLOURS = 3
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class AugmentSettings:
    """What is done to training images; everything is off by default.

    Attributes:
        crop: [height, width] in pixels of what is cropped, at random in training, else the centre.
        flip: mirrored left to right, half of the time.
        rotate_degrees: turned by up to so much, either way.
        scale: [least, most] factor it is enlarged by before it is cropped.
        colour_jitter: how far from 1 the factors of brightness, contrast and saturation may be; colour images only.
        modalities: which ones; null is all images and frames.
    """

    crop: list[int] | None = None
    flip: bool = False
    rotate_degrees: float = setting(0.0, ge=0.0, le=180.0)
    scale: list[float] | None = None
    colour_jitter: float = setting(0.0, ge=0.0, lt=1.0)
    modalities: list[str] | None = None

    @property
    def anything(self) -> bool:
        return self.turns or self.flip or self.crop is not None or self.colour_jitter > 0.0

    @property
    def turns(self) -> bool:
        """Whether pixels fall between pixels."""
        return self.rotate_degrees > 0.0 or self.scale is not None


OFF = AugmentSettings()


def augmented_modalities(dataset: MultimodalDataset, settings: AugmentSettings) -> tuple[Modality, ...]:
    """Those that augmentation changes, none where it is off.

    Raises:
        ValueError: the settings do not fit them, in one line that begins with the key.
    """
    if not settings.anything:
        return ()
    augmentable = [modality for modality in dataset.modalities if modality.kind in KINDS]
    named = [modality.name for modality in augmentable] if settings.modalities is None else settings.modalities
    for name in named:
        if name not in [modality.name for modality in augmentable]:
            allowed = ", ".join(modality.name for modality in augmentable) or "none"
            raise ValueError(f"modalities: got {name!r}; images and frames of this data set are {allowed}")
    chosen = tuple(modality for modality in augmentable if modality.name in named)
    if not chosen:
        raise ValueError("modalities: the data set has no images or frames to augment")
    first = chosen[0]
    for modality in chosen:
        if modality.shape[-2:] != first.shape[-2:]:
            raise ValueError(
                f"modalities: {first.name} has {_by(first.shape[-2:])} pixels, {modality.name} has "
                f"{_by(modality.shape[-2:])}; name those of one size"
            )
    _check_values(settings, first)
    if settings.colour_jitter and not any(map(_has_colours, chosen)):
        raise ValueError(f"colour_jitter: none of {', '.join(m.name for m in chosen)} has {COLOURS} channels")
    geometry = settings.turns or settings.flip or settings.crop is not None
    if dataset.task == "segmentation" and geometry:
        size = next(iter(dataset.splits.values())).labels.shape[1:]
        if len(chosen) < len(dataset.modalities):
            raise ValueError(
                "modalities: label maps change with the images, so all modalities have to; leave this key out"
            )
        if size != first.shape[-2:]:
            raise ValueError(f"crop: the label maps have {_by(size)} pixels, {first.name} has {_by(first.shape[-2:])}")
    return chosen


def _check_values(settings: AugmentSettings, modality: Modality) -> None:
    height, width = modality.shape[-2:]
    crop, scale = settings.crop, settings.scale
    if crop is not None and not (len(crop) == 2 and 1 <= crop[0] <= height and 1 <= crop[1] <= width):
        raise ValueError(f"crop: got {crop}; allowed: [height, width], at most [{height}, {width}]")
    if scale is not None and not (len(scale) == 2 and 0.0 < scale[0] <= scale[1]):
        raise ValueError(f"scale: got {scale}; allowed: [least, most], above 0")


def _has_colours(modality: Modality) -> bool:
    return modality.shape[-3] == COLOURS


def _by(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))


def centre_crop(dataset: MultimodalDataset, settings: AugmentSettings) -> MultimodalDataset:
    """The data set as a network sees it when nothing is random: views of its arrays, nothing is copied.

    Raises:
        ValueError: the settings do not fit the data set.
    """
    names = [modality.name for modality in augmented_modalities(dataset, settings)]
    if settings.crop is None:
        return dataset
    h, w = settings.crop
    shapes = {m.name: (*m.shape[:-2], h, w) if m.name in names else m.shape for m in dataset.modalities}
    splits = {}
    for split, samples in dataset.splits.items():
        inputs = {name: centre(x, h, w) if name in names else x for name, x in samples.inputs.items()}
        labels = centre(samples.labels, h, w) if dataset.task == "segmentation" else samples.labels
        splits[split] = replace(samples, inputs=inputs, labels=labels)
    modalities = tuple(replace(modality, shape=shapes[modality.name]) for modality in dataset.modalities)
    return replace(dataset, modalities=modalities, splits=splits)


def centre(images: npt.NDArray[Any], h: int, w: int) -> npt.NDArray[Any]:
    """The h × w pixels in the middle of images (..., H, W), a view."""
    top, left = (images.shape[-2] - h) // 2, (images.shape[-1] - w) // 2
    return images[..., top : top + h, left : left + w]


class Augmentation:
    """What happens to the batches of a data set in training."""

    def __init__(self, dataset: MultimodalDataset, settings: AugmentSettings) -> None:
        """Raises:
        ValueError: the settings do not fit the data set.
        """
        chosen = augmented_modalities(dataset, settings)
        self.settings = settings
        self.names = [modality.name for modality in chosen]
        self.coloured = [modality.name for modality in filter(_has_colours, chosen)]
        self.ignored = dataset.ignore_index
        self.maps = dataset.task == "segmentation"
        if chosen:
            self.size = chosen[0].shape[-2:]
            self.cropped = tuple(settings.crop or self.size)

    def __call__(
        self, inputs: dict[str, Tensor], labels: Tensor, draws: torch.Generator, part: BatchShard | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs (B, ..., H, W) and labels (B,) or (B, H, W) → the same with h × w pixels; `draws` is on the CPU."""
        if not self.names:
            return inputs, labels
        part = part or alone(len(labels))
        flipped = part.draw(torch.rand, (part.own,), 0, draws) < (0.5 if self.settings.flip else 0.0)
        images = {name: inputs[name].flatten(1, -3) for name in self.names}  # (B, T · C, H, W)
        maps = labels[:, None] if self.maps else None
        if self.settings.turns:
            theta = to_device(self._theta(flipped, draws, part), labels.device)
            grid = functional.affine_grid(theta, [len(labels), 1, *self.cropped], align_corners=False)
            images = {name: _sampled(x.float(), grid, "bilinear") for name, x in images.items()}
            maps = None if maps is None else _sampled_maps(maps, grid, self.ignored)
        else:
            images, maps = self._windows(images, maps, flipped, draws, part)
        images = {name: x.view(*inputs[name].shape[:-2], *x.shape[-2:]) for name, x in images.items()}
        if self.settings.colour_jitter:
            low, high = 1.0 - self.settings.colour_jitter, 1.0 + self.settings.colour_jitter
            factors = part.draw(torch.rand, (3, part.own), 1, draws) * (high - low) + low
            factors = to_device(factors, labels.device)
            images |= {name: _jittered(images[name], factors, inputs[name].dtype) for name in self.coloured}
        return inputs | images, labels if maps is None else maps[:, 0]

    def _theta(self, flipped: Tensor, draws: torch.Generator, part: BatchShard) -> Tensor:
        """(B, 2, 3): from the pixels of the crop to those of the image, both from −1 to 1 between the borders."""
        (height, width), (h, w) = self.size, self.cropped
        angle, factor, down, right = part.draw(torch.rand, (4, part.own), 1, draws, dtype=torch.float64)
        angle = (2.0 * angle - 1.0) * math.radians(self.settings.rotate_degrees)
        least, most = self.settings.scale or (1.0, 1.0)
        factor = least + (most - least) * factor
        mirror = torch.where(flipped, -1.0, 1.0)
        cos, sin = torch.cos(angle) / factor, torch.sin(angle) / factor
        room_down = (1.0 - h / (factor * height)).clamp(min=0.0)
        room_right = (1.0 - w / (factor * width)).clamp(min=0.0)
        rows = [
            torch.stack([mirror * cos * w / width, -sin * h / width, (2.0 * right - 1.0) * room_right], dim=-1),
            torch.stack([mirror * sin * w / height, cos * h / height, (2.0 * down - 1.0) * room_down], dim=-1),
        ]
        return torch.stack(rows, dim=1).float()

    def _windows(
        self, images: dict[str, Tensor], maps: Tensor | None, flipped: Tensor, draws: torch.Generator, part: BatchShard
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Whole pixels: no value is changed."""
        (height, width), (h, w) = self.size, self.cropped
        device = next(iter(images.values())).device
        chance = part.draw(torch.rand, (2, part.own), 1, draws, dtype=torch.float64)
        room = torch.tensor([[height - h + 1], [width - w + 1]])
        corner = to_device((chance * room).long(), device)
        mirrored = to_device(flipped.nonzero().squeeze(1), device)

        def window(x: Tensor) -> Tensor:
            if (h, w) != (height, width):
                batch = torch.arange(len(x), device=device)
                x = x.unfold(2, h, 1).unfold(3, w, 1)[batch, :, corner[0], corner[1]]
            return x.index_copy(0, mirrored, x.index_select(0, mirrored).flip(-1)) if len(mirrored) else x

        return {name: window(x) for name, x in images.items()}, None if maps is None else window(maps)


def _sampled(x: Tensor, grid: Tensor, mode: str, padding: str = "border") -> Tensor:
    return functional.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=False)


def _sampled_maps(maps: Tensor, grid: Tensor, ignored: int | None) -> Tensor:
    """Label maps (B, 1, H, W) at the nearest pixels; what lies outside is ignored, or else as at the border."""
    found = _sampled(maps.float(), grid, "nearest")  # labels are small enough for float32
    if ignored is not None:
        inside = _sampled(torch.ones_like(maps, dtype=torch.float32), grid, "nearest", "zeros")
        found = torch.where(inside > 0.5, found, float(ignored))
    return found.long()


def _jittered(x: Tensor, factors: Tensor, stored: torch.dtype) -> Tensor:
    """Images (B, ..., 3, H, W) with brightness, contrast and saturation multiplied by the factors (3, B).

    In this order: the values, their distance from the image's mean grey, and their distance from the pixel's grey, as
    torchvision's ColorJitter does; but cut off only where the range of values is known, which it is for uint8.
    """
    brightness, contrast, saturation = (factor.view(-1, *[1] * (x.ndim - 1)) for factor in factors)

    def cut(values: Tensor) -> Tensor:
        return values.clamp(0.0, 255.0) if stored == torch.uint8 else values

    x = cut(x.float() * brightness)
    x = cut(torch.lerp(_grey(x).mean(dim=(-2, -1), keepdim=True), x, contrast))
    return cut(torch.lerp(_grey(x), x, saturation))


def _grey(x: Tensor) -> Tensor:
    """(B, ..., 1, H, W) of (B, ..., 3, H, W).

    The weights stay Python's: to copy a tensor of them to a GPU is to wait for it.
    """
    red, green, blue = (weight * channel for weight, channel in zip(LUMA, x.unbind(-3), strict=True))
    return (red + green + blue).unsqueeze(-3)
