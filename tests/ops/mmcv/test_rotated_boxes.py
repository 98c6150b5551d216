"""Overlaps and NMS of rotated boxes agree with polygons clipped by plain loops."""

import math

import pytest
import torch

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def example_boxes(count=12, seed=0, dtype=torch.float64):
    """Centre, size and angle of boxes that overlap each other in many ways."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    scale, start = torch.tensor([8, 8, 6, 6, 12.0]), torch.tensor([100, 50, 0.5, 0.5, -6])
    return (uniform * scale + start).to(dtype)


def polygon(box):
    x, y, width, height, angle = box
    corners = [(-width, -height), (width, -height), (width, height), (-width, height)]
    cosine, sine = math.cos(angle), math.sin(angle)
    return [(x + (a * cosine - b * sine) / 2, y + (a * sine + b * cosine) / 2) for a, b in corners]


def area(points):
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(points, points[1:] + points[:1]))) / 2


def clipped(points, clip):
    """The part of a polygon inside another polygon, cut side by side."""
    for a, b in zip(clip, clip[1:] + clip[:1]):
        side = [(b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) for p in points]
        kept = []
        for index, point in enumerate(points):
            before, distance = points[index - 1], side[index - 1]
            if (distance > 0) != (side[index] > 0):
                part = distance / (distance - side[index])
                kept.append(tuple(p + part * (q - p) for p, q in zip(before, point)))
            if side[index] > 0:
                kept.append(point)
        points = kept
    return points


def loop_overlap(a, b, mode="iou"):
    common = area(clipped(polygon(a), polygon(b)))
    return common / (a[2] * a[3] if mode == "iof" else a[2] * a[3] + b[2] * b[3] - common)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_overlaps_of_rotated_boxes_follow_the_definition(mmcv_ops, mode, clockwise, dtype):
    a, b = example_boxes(12, 0, dtype), example_boxes(9, 1, dtype)
    turn = torch.tensor([1, 1, 1, 1, 1 if clockwise else -1], dtype=dtype)
    expected = torch.tensor(
        [[loop_overlap(x, y, mode) for y in (b * turn).tolist()] for x in (a * turn).tolist()], dtype=torch.float64
    )
    result = mmcv_ops.box_iou_rotated(a, b, mode, clockwise=clockwise)
    assert (expected > 0).any()
    torch.testing.assert_close(result, expected.to(dtype))
    aligned = mmcv_ops.box_iou_rotated(a[:9], b, mode, True, clockwise)
    torch.testing.assert_close(aligned, expected[:9].diagonal().to(dtype))


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, math.pi / 2, 3.0])
def test_overlap_of_boxes_that_share_sides_is_exact(mmcv_ops, angle):
    box = torch.tensor([30.0, 40, 8, 4, angle])
    half = torch.tensor([30 + 2 * math.cos(angle), 40 + 2 * math.sin(angle), 4, 4, angle])
    turned = torch.tensor([30.0, 40, 4, 8, angle + math.pi / 2])
    far = torch.tensor([30 + 8 * math.cos(angle), 40 + 8 * math.sin(angle), 8, 4, angle])  # they share one side
    result = mmcv_ops.box_iou_rotated(box[None], torch.stack([box, half, turned, far]))
    torch.testing.assert_close(result, torch.tensor([[1.0, 0.5, 1.0, 0.0]]), atol=1e-5, rtol=0)


def test_overlaps_of_boxes_with_sides_on_each_other_follow_the_definition(mmcv_ops):
    """Whole coordinates and angles of 45 degrees put corners on sides, and sides on each other."""
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randint(low, high, (2, 25), generator=generator) for low, high in [(0, 5)] * 2 + [(1, 5)] * 2]
    angles = torch.randint(-4, 5, (2, 25), generator=generator).double() * (math.pi / 4)
    a, b = torch.stack([*numbers, angles], -1)
    b[:5] = a[:5]
    # A small turn gives sides that cross at a small angle.
    for turn in (0, 1e-15, 1e-12, 1e-9, 1e-6):
        b[:, 4] += turn
        expected = torch.tensor([[loop_overlap(x, y) for y in b.tolist()] for x in a.tolist()], dtype=a.dtype)
        assert (expected > 0.99).any()
        torch.testing.assert_close(mmcv_ops.box_iou_rotated(a, b), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_nms_drops_a_rotated_box_whose_overlap_equals_the_threshold(mmcv_ops, angle):
    boxes = torch.tensor([[0, 0, 4, 4, angle], [0, 0, 4, 2, angle], [0, 0, 4, 4, angle]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    for threshold, expected in ((0.5, [0]), (0.51, [0, 1]), (1.0, [0, 1]), (1.01, [0, 1, 2])):
        assert mmcv_ops.nms_rotated(boxes, scores, threshold)[1].tolist() == expected


def test_overlap_of_boxes_without_area_is_zero(mmcv_ops):
    boxes = torch.tensor([[5.0, 5, 4, 4, 0.2], [5, 5, 0, 4, 0.2]])
    assert mmcv_ops.box_iou_rotated(boxes, boxes).tolist() == [[pytest.approx(1), 0], [0, 0]]


def test_overlaps_of_many_rotated_boxes_are_those_of_few(mmcv_ops):
    boxes = example_boxes(200)
    result = mmcv_ops.box_iou_rotated(boxes, boxes)
    torch.testing.assert_close(result[150:153], mmcv_ops.box_iou_rotated(boxes[150:153], boxes))
    torch.testing.assert_close(result, result.T)


def test_overlaps_without_rotated_boxes_are_empty(mmcv_ops):
    boxes = example_boxes(3)
    assert mmcv_ops.box_iou_rotated(boxes[:0], boxes).shape == (0, 3)
    assert mmcv_ops.box_iou_rotated(boxes, boxes[:0]).shape == (3, 0)
    assert mmcv_ops.box_iou_rotated(boxes[:0], boxes[:0], aligned=True).shape == (0,)


def loop_nms(boxes, scores, iou_threshold):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index].item()):
        overlaps = [loop_overlap(boxes[better].tolist(), boxes[index].tolist()) for better in kept]
        if all(overlap < iou_threshold for overlap in overlaps):
            kept.append(index)
    return kept


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nms_keeps_the_rotated_boxes_that_the_definition_keeps(mmcv_ops, labelled, dtype):
    boxes = example_boxes(30, dtype=dtype)
    scores = torch.randperm(30, generator=torch.Generator().manual_seed(0)).to(dtype) / 30
    labels = torch.arange(30).to(dtype) % 2 if labelled else None  # mmcv compares boxes of all labels
    expected = loop_nms(boxes, scores, 0.2)
    detections, kept = mmcv_ops.nms_rotated(boxes, scores, 0.2, labels)
    assert 1 < len(kept) < len(boxes)
    assert kept.tolist() == expected
    assert torch.equal(detections, torch.cat([boxes, scores[:, None]], 1)[expected])


def test_batched_nms_treats_each_class_of_rotated_boxes_separately(mmcv_ops):
    boxes, scores, classes = example_boxes(30, dtype=torch.float32), torch.linspace(1, 0.1, 30), torch.arange(30) % 3
    expected = []
    for label in range(3):
        members = (classes == label).nonzero().flatten()
        expected += members[loop_nms(boxes[members], scores[members], 0.2)].tolist()
    kept = mmcv_ops.batched_nms(boxes, scores, classes, {"type": "nms_rotated", "iou_threshold": 0.2})[1]
    assert kept.tolist() == sorted(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_quadrilaterals_of_lower_precision_only_round_the_overlaps(mmcv_ops, dtype):
    rotated = example_boxes(12)
    rotated[:, :2] -= 100  # bfloat16 has three digits
    boxes = torch.tensor([polygon(box) for box in rotated.tolist()]).flatten(1).to(dtype)
    exact = mmcv_ops.box_iou_quadri(boxes.double(), boxes.double())
    assert torch.equal(mmcv_ops.box_iou_quadri(boxes, boxes), exact.to(dtype))
    scores = torch.linspace(1, 0.1, 12).to(dtype)
    kept = mmcv_ops.nms_quadri(boxes.double(), scores.double(), 0.2)[1]
    assert 1 < len(kept) < len(boxes)
    assert torch.equal(mmcv_ops.nms_quadri(boxes, scores, 0.2)[1], kept)


@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_overlaps_of_rectangles_as_quadrilaterals_are_those_of_rotated_boxes(mmcv_ops, mode):
    a, b = example_boxes(12, 0), example_boxes(9, 1)
    corners = [torch.tensor([polygon(box) for box in boxes.tolist()], dtype=a.dtype).flatten(1) for boxes in (a, b)]
    expected = mmcv_ops.box_iou_rotated(a, b, mode)
    torch.testing.assert_close(mmcv_ops.box_iou_quadri(*corners, mode), expected)
    aligned = mmcv_ops.box_iou_quadri(corners[0][:9], corners[1], mode, True)
    torch.testing.assert_close(aligned, expected[:9].diagonal())


def test_overlap_of_quadrilaterals_takes_corners_inside_the_rectangle_on_two_sides(mmcv_ops):
    # The rectangle's corner (2, 4) is outside the trapezoid, and inside the rectangle on its first and last side.
    trapezoid, rectangle = torch.tensor([[1.0, 1, 3, 4, 4, 4, 4, 1]]), torch.tensor([[2.0, 1, 2, 4, 4, 4, 4, 1]])
    kite = torch.tensor([[2.0, 2, 3, 4, 4, 2, 3, 1]])
    result = mmcv_ops.box_iou_quadri(torch.cat([trapezoid, kite]), rectangle)
    torch.testing.assert_close(result, torch.tensor([[1.0], [0.5]]))


def test_nms_keeps_the_quadrilaterals_that_the_definition_keeps(mmcv_ops):
    boxes, scores = example_boxes(30), torch.linspace(1, 0.1, 30, dtype=torch.float64)
    corners = torch.tensor([polygon(box) for box in boxes.tolist()], dtype=boxes.dtype).flatten(1)
    expected = loop_nms(boxes, scores, 0.2)
    for labels in (None, torch.arange(30).double() % 2):  # mmcv compares quadrilaterals of all labels
        assert mmcv_ops.nms_quadri(corners, scores, 0.2, labels)[1].tolist() == expected
