"""NMS, soft NMS and NMS matching agree with plain loops."""

import math

import numpy as np
import pytest
import torch
import torchvision

from xcit_dense.ops.mmcv.nms import nms

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def example_boxes(count=40, dtype=torch.float32):
    """Boxes with integer corners, some of equal score, and their scores."""
    rng = np.random.default_rng(0)
    near = rng.integers(0, 15, (count, 2))
    boxes = np.concatenate([near, near + rng.integers(1, 12, (count, 2))], 1)
    scores = rng.integers(1, 20, count) / 20
    return torch.from_numpy(boxes).to(dtype), torch.from_numpy(scores).to(dtype)


def overlap(a, b, offset=0):
    sides = [max(0.0, min(a[2 + axis], b[2 + axis]) - max(a[axis], b[axis]) + offset) for axis in (0, 1)]
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nms_keeps_the_boxes_of_the_definition(mmcv_ops, offset, dtype):
    boxes, scores = example_boxes(dtype=dtype)
    kept = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index].item()):
        if all(overlap(boxes[better].tolist(), boxes[index].tolist(), offset) <= 0.4 for better in kept):
            kept.append(index)
    detections, indices = mmcv_ops.nms(boxes, scores, 0.4, offset)
    assert 1 < len(kept) < len(boxes)
    assert indices.tolist() == kept
    assert torch.equal(detections, torch.cat([boxes, scores[:, None]], 1)[kept])


def loop_soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset):
    """Pairs of index and new score. Boxes with equal scores may be in another order."""
    left = dict(enumerate(scores.tolist()))
    boxes, kept = boxes.tolist(), []
    while left:
        best = max(left, key=lambda index: left[index])
        kept.append((best, left.pop(best)))
        for index in list(left):
            iou = overlap(boxes[best], boxes[index], offset)
            if method == "gaussian":
                left[index] *= math.exp(-(iou**2) / sigma)
            elif iou >= iou_threshold:
                left[index] *= 1 - iou if method == "linear" else 0
            if left[index] < min_score:
                del left[index]
    return kept


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_nms_gives_the_scores_of_the_definition(mmcv_ops, method, offset, dtype):
    boxes, scores = example_boxes(dtype=dtype)
    scores = scores + torch.arange(len(scores)) * 1e-3  # all different
    expected = loop_soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    detections, kept = mmcv_ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert 1 < len(kept) < len(boxes)
    assert kept.tolist() == [index for index, _ in expected]
    assert detections.dtype == dtype
    torch.testing.assert_close(detections[:, :4], boxes[kept])
    torch.testing.assert_close(detections[:, 4], torch.tensor([score for _, score in expected], dtype=dtype))


def loop_soft_nms_in_mmcvs_order(boxes, scores, iou_threshold, min_score):
    """Indices that the linear method keeps, by mmcv's exchange of rows: this decides between equal scores."""
    rows = [[*box, score, index] for index, (box, score) in enumerate(zip(boxes.tolist(), scores.tolist()))]
    first = 0
    while first < len(rows):
        best = first
        for position in range(first + 1, len(rows)):
            if rows[position][4] > rows[best][4]:
                best = position
        rows[first], rows[best] = rows[best], rows[first]
        position = first + 1
        while position < len(rows):
            iou = overlap(rows[first], rows[position])
            if iou >= iou_threshold:
                rows[position][4] = float(np.float32(rows[position][4]) * (1 - np.float32(iou)))
            if rows[position][4] < min_score:
                rows[position] = rows[-1]
                rows.pop()
            else:
                position += 1
        first += 1
    return [row[5] for row in rows]


def test_soft_nms_orders_equal_scores_as_mmcv_does(mmcv_ops):
    boxes, scores = example_boxes()
    assert len(scores.unique()) < len(scores)
    kept = mmcv_ops.soft_nms(boxes, scores, 0.2, min_score=0.3)[1]
    assert kept.tolist() == loop_soft_nms_in_mmcvs_order(boxes, scores, 0.2, 0.3)


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_of_boxes_without_area_keeps_them(mmcv_ops, method):
    boxes = torch.tensor([[4.0, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1]])
    detections, kept = mmcv_ops.soft_nms(boxes, torch.tensor([0.9, 0.9, 0.5, 0.5, 0.4]), 0.6, method=method)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    assert detections[:, 4].tolist() == pytest.approx([0.9, 0.9, 0.5, 0.5, 0.4])


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_without_boxes_is_empty(mmcv_ops, method):
    detections, kept = mmcv_ops.soft_nms(torch.zeros(0, 4), torch.zeros(0), method=method)
    assert detections.shape == (0, 5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_soft_nms_takes_arrays_and_boxes_with_gaps_in_memory(mmcv_ops):
    boxes, scores = example_boxes()
    detections = mmcv_ops.soft_nms(boxes, scores)[0]
    gaps = torch.stack([boxes, boxes], -1)[..., 0]
    assert not gaps.is_contiguous()
    assert torch.equal(mmcv_ops.soft_nms(gaps, scores)[0], detections)
    array = mmcv_ops.soft_nms(boxes.numpy(), scores.numpy())[0]
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, detections.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_soft_nms_of_lower_precision_only_rounds_its_result(mmcv_ops, dtype):
    boxes, scores = example_boxes()[0].to(dtype), torch.linspace(1, 0.2, 40).to(dtype)
    half, single = mmcv_ops.soft_nms(boxes, scores), mmcv_ops.soft_nms(boxes.float(), scores.float())
    assert torch.equal(half[1], single[1])
    assert torch.equal(half[0], single[0].to(dtype))


def test_batched_soft_nms_gives_the_same_for_all_classes_at_once_and_for_each_class(mmcv_ops):
    boxes, scores = example_boxes(120)
    scores = scores * 0.9 + torch.arange(len(scores)) * 1e-4
    classes = torch.arange(len(boxes)) % 3
    config = {"type": "soft_nms", "iou_threshold": 0.5, "min_score": 0.05}
    together = mmcv_ops.batched_nms(boxes, scores, classes, config)
    split = mmcv_ops.batched_nms(boxes, scores, classes, {**config, "split_thr": 10})
    assert torch.equal(together[0], split[0])
    assert torch.equal(together[1], split[1])
    expected = {}
    for label in range(3):
        members = (classes == label).nonzero().flatten().tolist()
        for index, score in loop_soft_nms(boxes[members], scores[members], 0.5, 0.5, 0.05, "linear", 0):
            expected[members[index]] = score
    assert set(together[1].tolist()) == set(expected)
    assert together[0][:, 4].tolist() == pytest.approx([expected[index] for index in together[1].tolist()], abs=1e-5)


@pytest.mark.parametrize("iou_threshold", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nms_match_groups_boxes_with_the_box_that_suppresses_them(mmcv_ops, iou_threshold, dtype):
    boxes, scores = example_boxes(dtype=dtype)
    left = sorted(range(len(boxes)), key=lambda index: -scores[index].item())
    expected = []
    while left:
        group = [left[0]]
        for index in left[1:]:
            near = overlap(boxes[left[0]].tolist(), boxes[index].tolist()) >= iou_threshold
            if near:
                group.append(index)
        expected.append(group)
        left = [index for index in left if index not in group]
    groups = mmcv_ops.nms_match(torch.cat([boxes, scores[:, None]], 1), iou_threshold)
    assert [group.tolist() for group in groups] == expected
    assert all(group.dtype == torch.int64 for group in groups)


def test_nms_match_suppresses_a_box_whose_overlap_is_just_the_threshold(mmcv_ops):
    boxes = torch.tensor([[0.0, 0, 4, 4, 0.9], [0, 0, 4, 2, 0.8]])
    assert [group.tolist() for group in mmcv_ops.nms_match(boxes, 0.5)] == [[0, 1]]


def test_nms_match_takes_arrays_and_no_boxes(mmcv_ops):
    assert mmcv_ops.nms_match(torch.zeros(0, 5), 0.5) == []
    groups = mmcv_ops.nms_match(np.array([[0.0, 0, 4, 4, 0.9]]), 0.5)
    assert [group.tolist() for group in groups] == [[0]]


@pytest.mark.parametrize("groups", [1, 3, 100, 4000], ids="{} groups".format)
def test_nms_of_many_boxes_keeps_what_torchvision_keeps_in_the_same_order(groups):
    """mmcv moves the boxes of different classes apart. Some scores are equal, and some boxes touch or are inverted."""
    generator = torch.Generator().manual_seed(groups)
    near = torch.rand(4000, 2, generator=generator) * 300
    boxes = torch.cat([near, near + torch.rand(4000, 2, generator=generator) * 60 - 2], 1)
    boxes[::3] = boxes[::3].round()
    boxes += torch.randint(groups, (4000, 1), generator=generator) * 400.0
    scores = (torch.rand(4000, generator=generator) * 300).round() / 300
    for threshold in (0.0, 0.5):
        assert torch.equal(nms(boxes, scores, threshold, 0), torchvision.ops.nms(boxes, scores, threshold))
