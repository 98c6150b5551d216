"""Overlaps of axis-aligned boxes agree with plain loops and with mmcv's own Python function."""

import pytest
import torch


def example_boxes(count, seed, dtype=torch.float64):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    return torch.cat([corners.amin(1), corners.amax(1)], 1).to(dtype)


def loop_overlap(a, b, mode, offset):
    common = 1.0
    for axis in (0, 1):
        common *= max(0.0, min(a[2 + axis], b[2 + axis]) - max(a[axis], b[axis]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return common / (areas[0] if mode == "iof" else sum(areas) - common)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_bbox_overlaps_follow_the_definition(mmcv_ops, mode, offset, dtype):
    from mmcv.ops.bbox import _bbox_overlaps_cpu

    a, b = example_boxes(5, 0, dtype), example_boxes(4, 1, dtype)
    expected = torch.tensor(
        [[loop_overlap(x, y, mode, offset) for y in b.tolist()] for x in a.tolist()], dtype=torch.float64
    )
    result = mmcv_ops.bbox_overlaps(a, b, mode, False, offset)
    assert (result > 0).any()
    torch.testing.assert_close(result, expected.to(dtype))
    aligned = mmcv_ops.bbox_overlaps(a[:4], b, mode, True, offset)
    torch.testing.assert_close(aligned, expected[:4].diagonal().to(dtype))
    if dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(result, _bbox_overlaps_cpu(a, b, mode, False, offset))
        torch.testing.assert_close(aligned, _bbox_overlaps_cpu(a[:4], b, mode, True, offset))


def test_bbox_overlaps_read_boxes_with_gaps_in_memory_and_have_no_gradient(mmcv_ops):
    a, b = example_boxes(5, 0).requires_grad_(), example_boxes(4, 1)
    gaps = torch.stack([a, a], -1)[..., 0]
    result = mmcv_ops.bbox_overlaps(gaps, b)
    assert torch.equal(result, mmcv_ops.bbox_overlaps(a, b))
    assert not result.requires_grad


def test_bbox_overlaps_without_boxes_are_empty(mmcv_ops):
    boxes = example_boxes(3, 0)
    assert mmcv_ops.bbox_overlaps(boxes[:0], boxes).shape == (0, 3)
    assert mmcv_ops.bbox_overlaps(boxes, boxes[:0]).shape == (3, 0)
