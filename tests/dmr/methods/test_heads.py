from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from dmr.methods.heads import ClassificationHead, HeadNorm, ProjectionHead, SegmentationHead, Trunk, pooled


def test_on_vectors_it_is_linear_and_batch_normalisation_over_all_samples_and_combinations() -> None:
    head, features = ProjectionHead(4, "batch", 3), torch.randn(2, 5, 4)
    projected = (features @ head.linear.weight.T + head.linear.bias).flatten(0, 1)
    expected = (projected - projected.mean(0)) / (projected.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(features), expected.view(2, 5, 3), rtol=1e-4, atol=1e-5)


def test_on_maps_it_is_a_convolution_and_its_batch_normalisation() -> None:
    head, maps = ProjectionHead(4, "batch", 3), torch.randn(2, 5, 6, 7, 4)
    convolution, norm = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
    with torch.no_grad():
        convolution.weight.copy_(head.linear.weight[:, :, None, None])
        convolution.bias.copy_(head.linear.bias)  # type: ignore[union-attr]

    def reference(x: Tensor) -> Tensor:
        out: Tensor = norm(convolution(x.flatten(0, 1).permute(0, 3, 1, 2)))
        return out.permute(0, 2, 3, 1).unflatten(0, (2, 5))

    torch.testing.assert_close(head(maps), reference(maps), rtol=1e-4, atol=1e-5)
    head.eval()
    norm.eval()
    torch.testing.assert_close(head(maps), reference(maps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_the_others_know_nothing_of_the_batch(norm: HeadNorm) -> None:
    head, features = ProjectionHead(4, norm), torch.randn(2, 5, 3, 4)
    together = head(features)
    assert together.shape == (2, 5, 3, 4)
    for k, b in itertools.product(range(2), range(5)):
        torch.testing.assert_close(head(features[k, b]), together[k, b])
    if norm == "layer":
        torch.testing.assert_close(together.mean(-1), torch.zeros(2, 5, 3), rtol=0, atol=1e-5)


def test_pooled_is_the_mean_over_positions() -> None:
    vectors, maps = torch.randn(2, 5, 4), torch.randn(2, 5, 3, 6, 4)
    assert torch.equal(pooled(vectors), vectors)
    torch.testing.assert_close(pooled(maps), maps.sum((2, 3)) / 18)


def test_a_trunk_sees_channels_first_and_gives_channels_last() -> None:
    convolution = nn.Conv2d(4, 3, 3, stride=2, padding=1)
    trunk, maps = Trunk(convolution, 3), torch.randn(2, 5, 6, 8, 4)
    got = trunk(maps)
    assert got.shape == (2, 5, 3, 4, 3)
    for k, b in itertools.product(range(2), range(5)):
        expected = convolution(maps[k, b].permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        torch.testing.assert_close(got[k, b], expected, rtol=1e-4, atol=1e-5)
    assert Trunk(None, 4)(maps) is maps


def test_classification_pools_maps() -> None:
    head, maps = ClassificationHead(4, 3), torch.randn(2, 5, 3, 6, 4)
    expected = maps.mean((2, 3)) @ head.classify.weight.T + head.classify.bias
    torch.testing.assert_close(head(maps, [], torch.ones(2, 5, 1, dtype=torch.bool)), expected)


def test_segmentation_joins_the_skips_of_those_present() -> None:
    head = SegmentationHead(5, [(2, 3), (4, 4)], 3, (8, 8))
    embedding = torch.randn(2, 2, 2, 2, 5)
    skips = [
        [torch.randn(2, 2, 8, 8), torch.randn(2, 3, 8, 8)],
        [torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)],
    ]
    masks = torch.tensor([[[True, False], [True, True]], [[False, True], [True, False]]])
    got = head(embedding, skips, masks)
    assert got.shape == (2, 2, 8, 8, 3)
    for k, b in itertools.product(range(2), range(2)):
        joined = [
            torch.cat([x[b] * float(masks[k, b, m]) for m, x in enumerate(level)], dim=0)[None] for level in skips
        ]
        alone = head.decoder(embedding[k, b].permute(2, 0, 1)[None], joined, (8, 8))[0].permute(1, 2, 0)
        torch.testing.assert_close(got[k, b], alone, rtol=1e-4, atol=1e-5)
    spoiled = [[x.clone() for x in level] for level in skips]
    spoiled[0][1][0] = torch.nan  # modality 1 of sample 0, which combination 0 lacks
    assert torch.equal(head(embedding, spoiled, masks)[0], got[0])
