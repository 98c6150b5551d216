"""mmcv's public operators agree with plain loops, and the stand-in is used only without a compiled mmcv."""

import importlib.util
import itertools
import math
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mmcv", reason="mmcv is not installed")  # xcit_dense.mm needs it
from xcit_dense.mm.patches import mmcv_ext as operators

HEIGHT, WIDTH = 9, 11  # feature cells
BINS = (2, 3)  # rows and columns of bins of an RoI


@pytest.fixture(scope="module")
def mmcv_ops():
    """The public `mmcv.ops`."""
    operators.install()
    import mmcv.ops

    return mmcv.ops


@pytest.fixture(scope="module")
def stand_in(mmcv_ops):
    """`mmcv.ops`, for tests of what a compiled mmcv does otherwise."""
    if not operators.serving():
        pytest.skip("this mmcv has compiled operators")
    return mmcv_ops


# RoIAlign ------------------------------------------------------------------------------------------


def interpolation_weights(y, x):
    """Weights of the cells around a point. A point more than a cell outside does not have weights."""
    weights = np.zeros((HEIGHT, WIDTH))
    if not (-1 <= y <= HEIGHT and -1 <= x <= WIDTH):
        return weights
    y, x = min(max(y, 0), HEIGHT - 1), min(max(x, 0), WIDTH - 1)
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        weights[row, column] = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
    return weights


def roi_align_weights(rois, spatial_scale, sampling_ratio, aligned):
    """(K, rows, columns, HEIGHT, WIDTH): pooling is linear in the features; these are its numbers."""
    weights = np.zeros((len(rois), *BINS, HEIGHT, WIDTH))
    for k, (_, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * spatial_scale - (0.5 if aligned else 0) for corner in corners)
        sides = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        bin_h, bin_w = (side / bins for side, bins in zip(sides, BINS))
        rows, columns = (sampling_ratio or math.ceil(side) for side in (bin_h, bin_w))
        for i, j in itertools.product(*map(range, BINS)):
            for row, column in itertools.product(range(rows), range(columns)):
                y = y1 + (i + (row + 0.5) / rows) * bin_h
                x = x1 + (j + (column + 0.5) / columns) * bin_w
                weights[k, i, j] += interpolation_weights(y, x) / (rows * columns)
    return torch.from_numpy(weights)


def example_rois(spatial_scale):
    """Image index and corners in pixels, given here in cells."""
    rois = torch.tensor(
        [
            [0, 1.3, 2.1, 7.7, 6.2],
            [1, 0.0, 0.0, 11.0, 9.0],  # the complete image
            [1, 3.1, 2.2, 3.4, 2.3],  # less than a cell
            [0, 5.2, 4.1, 5.2, 4.1],  # the area is 0
            [1, 5.2, 1.1, 5.2, 7.9],  # the width is 0
            [0, -4.3, -3.2, 3.6, 2.7],  # over the upper left corner
            [1, 8.4, 6.3, 15.9, 14.2],  # over the lower right corner
            [0, 20.3, 20.1, 25.2, 24.7],  # outside
        ],
        dtype=torch.float64,
    )
    rois[:, 1:] /= spatial_scale
    return rois


def features(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


@pytest.mark.parametrize("spatial_scale", [1.0, 0.5, 0.0625])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient_follow_the_definition(mmcv_ops, aligned, sampling_ratio, spatial_scale):
    x, rois = features(), example_rois(spatial_scale)
    weights = roi_align_weights(rois, spatial_scale, sampling_ratio, aligned)
    expected = torch.einsum("kijhw,kchw->kcij", weights, x[rois[:, 0].long()])
    grad_output = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected_grad = torch.zeros_like(x)
    for k, image in enumerate(rois[:, 0].long()):
        expected_grad[image] += torch.einsum("cij,ijhw->chw", grad_output[k], weights[k])

    pooled = mmcv_ops.RoIAlign(BINS, spatial_scale, sampling_ratio, aligned=aligned)(x, rois)
    pooled.backward(grad_output)

    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(x.grad, expected_grad)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_passes_gradcheck(mmcv_ops, aligned):
    x = features()[:, :1].detach().requires_grad_()
    rois = example_rois(0.5)[:3]
    assert torch.autograd.gradcheck(lambda x: mmcv_ops.roi_align(x, rois, BINS, 0.5, 0, "avg", aligned), x)


def test_roi_align_without_rois_is_empty_and_gives_a_zero_gradient(mmcv_ops):
    x = features(torch.float32)
    pooled = mmcv_ops.roi_align(x, torch.zeros(0, 5), BINS)
    pooled.sum().backward()
    assert pooled.shape == (0, 3, *BINS)
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_roi_align_of_lower_precision_only_rounds_its_result(stand_in, dtype):
    x, rois = features(dtype), example_rois(0.5).to(dtype)
    exact = x.detach().double().requires_grad_()
    pooled = stand_in.roi_align(x, rois, BINS, 0.5)
    pooled.square().sum().backward()
    expected = stand_in.roi_align(exact, rois.double(), BINS, 0.5)
    expected.backward(2 * pooled.double())  # as 2 * pooled is exact in every type

    assert pooled.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(pooled, expected.to(dtype))
    torch.testing.assert_close(x.grad, exact.grad.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_trains_under_autocast(stand_in, dtype):
    convolution = torch.nn.Conv2d(3, 4, 1)
    with torch.autocast("cpu", dtype):
        maps = convolution(features(torch.float32))
        pooled = stand_in.RoIAlign(BINS, 0.5)(maps, example_rois(0.5).float())
        loss = pooled.float().square().mean()
    loss.backward()
    assert maps.dtype == pooled.dtype == dtype
    assert convolution.weight.grad.abs().sum() > 0


def test_roi_align_reads_channels_last_features(mmcv_ops):
    x, rois = features(torch.float32).detach(), example_rois(1.0).float()
    ours = mmcv_ops.roi_align(x.to(memory_format=torch.channels_last), rois, BINS)
    torch.testing.assert_close(ours, mmcv_ops.roi_align(x, rois, BINS))


# NMS -----------------------------------------------------------------------------------------------


def loop_nms(boxes, scores, iou_threshold, offset=0):
    """Indices kept, best first, in float32 as mmcv computes."""
    boxes, threshold = boxes.numpy(), np.float32(iou_threshold)
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        for j in kept:
            near, far = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            common = np.prod(np.maximum(far - near + offset, 0))
            areas = [np.prod(box[2:] - box[:2] + offset) for box in (boxes[i], boxes[j])]
            if common / (sum(areas) - common) > threshold:
                break
        else:
            kept.append(i)
    return kept


def example_boxes(count=60):
    """Boxes with integer corners, some objects with many boxes, and all scores different."""
    rng = np.random.default_rng(0)
    near = rng.integers(0, 15, (count, 2))
    boxes = np.concatenate([near, near + rng.integers(1, 12, (count, 2))], 1)
    scores = rng.permutation(count) / count
    return torch.from_numpy(boxes).float(), torch.from_numpy(scores).float()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("iou_threshold", [0.1, 0.3, 0.5, 0.6, 0.7, 0.9])
def test_nms_keeps_what_the_definition_keeps(mmcv_ops, iou_threshold, offset):
    boxes, scores = example_boxes()
    detections, kept = mmcv_ops.nms(boxes, scores, iou_threshold, offset)
    assert kept.tolist() == loop_nms(boxes, scores, iou_threshold, offset)
    assert torch.equal(detections, torch.cat([boxes, scores[:, None]], 1)[kept])


def test_nms_offset_counts_the_last_pixel(mmcv_ops):
    # 2 of 4 pixels shared by 3 and 3; without the last pixels 1 of 3.
    boxes, scores = torch.tensor([[0.0, 0, 2, 0], [1, 0, 3, 0]]), torch.tensor([0.9, 0.8])
    assert mmcv_ops.nms(boxes, scores, 0.4, offset=1)[1].tolist() == [0]
    assert mmcv_ops.nms(boxes, scores, 0.4, offset=0)[1].tolist() == [0, 1]


@pytest.mark.parametrize("iou_threshold", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_nms_keeps_a_box_whose_overlap_is_just_the_threshold(mmcv_ops, iou_threshold):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10 * iou_threshold]])
    assert mmcv_ops.nms(boxes, torch.tensor([0.9, 0.8]), iou_threshold)[1].tolist() == [0, 1]
    assert mmcv_ops.nms(boxes, torch.tensor([0.9, 0.8]), iou_threshold - 0.01)[1].tolist() == [0]


def test_nms_drops_low_scores_then_caps_the_number(mmcv_ops):
    boxes, scores = example_boxes()
    low = scores.median().item()  # itself dropped: a score must be larger
    expected = [i for i in loop_nms(boxes, scores, 0.5) if scores[i] > low]
    assert mmcv_ops.nms(boxes, scores, 0.5, score_threshold=low)[1].tolist() == expected
    assert mmcv_ops.nms(boxes, scores, 0.5, score_threshold=low, max_num=3)[1].tolist() == expected[:3]


def test_nms_without_boxes_is_empty(mmcv_ops):
    detections, kept = mmcv_ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, offset=1)
    assert detections.shape == (0, 5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_nms_keeps_one_of_equal_boxes_and_all_of_distant_ones_with_equal_scores(mmcv_ops):
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 12, 12]])
    kept = mmcv_ops.nms(boxes, torch.full((3,), 0.5), 0.5)[1].tolist()
    assert sorted(kept) in ([0, 2], [1, 2])


def test_nms_puts_equal_scores_in_order_of_input(stand_in):
    boxes = torch.arange(40.0)[:, None] * 10 + torch.tensor([0.0, 0, 4, 4])
    assert stand_in.nms(boxes, torch.full((40,), 0.5), 0.5)[1].tolist() == list(range(40))


def test_nms_takes_arrays(mmcv_ops):
    boxes, scores = example_boxes()
    detections, kept = mmcv_ops.nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(detections, np.ndarray)
    assert kept.tolist() == loop_nms(boxes, scores, 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0, 1])
def test_nms_takes_lower_precision(stand_in, dtype, offset):
    # bfloat16 cannot represent odd numbers above 256, and float16 above 2048. The offset must not be lost there.
    boxes, scores = (tensor.to(dtype) for tensor in example_boxes())
    boxes = (boxes + (256 if dtype == torch.bfloat16 else 2048)).to(dtype)
    scores = torch.arange(len(scores), 0, -1).to(dtype)
    kept = stand_in.nms(boxes, scores, 0.5, offset)[1]
    assert kept.tolist() == loop_nms(boxes.float(), scores, 0.5, offset)


@pytest.mark.parametrize("split_thr", [10000, 10])
@pytest.mark.parametrize("offset", [0, 1])
def test_batched_nms_treats_each_class_separately(mmcv_ops, split_thr, offset):
    boxes, scores = example_boxes()
    classes = torch.arange(len(boxes)) % 3
    config = {"type": "nms", "iou_threshold": 0.3, "offset": offset, "split_thr": split_thr}
    expected = []
    for label in range(3):
        members = (classes == label).nonzero().flatten()
        expected += members[loop_nms(boxes[members], scores[members], 0.3, offset)].tolist()
    expected.sort(key=lambda i: -scores[i].item())

    detections, kept = mmcv_ops.batched_nms(boxes, scores, classes, config)
    assert kept.tolist() == expected
    torch.testing.assert_close(detections, torch.cat([boxes, scores[:, None]], 1)[kept])
    capped = mmcv_ops.batched_nms(boxes, scores, classes, {**config, "max_num": 4})[1]
    assert capped.tolist() == expected[:4]
    together = mmcv_ops.batched_nms(boxes, scores, classes, config, class_agnostic=True)[1]
    if split_thr > len(boxes):  # mmcv splits by class even then
        assert together.tolist() == loop_nms(boxes, scores, 0.3, offset)


# The module served -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("stand_in")
class TestModule:
    def test_has_a_spec_that_can_be_found(self):
        from mmcv.utils.ext_loader import check_ops_exist
        from mmengine.utils.dl_utils import mmcv_full_available

        assert importlib.util.find_spec("mmcv._ext") is sys.modules["mmcv._ext"].__spec__
        assert mmcv_full_available()
        if hasattr(pkgutil, "find_loader"):  # mmcv calls it; gone from Python 3.14
            assert check_ops_exist()

    def test_names_the_operator_that_it_lacks(self):
        from mmcv._ext import some_new_operator

        with pytest.raises(NotImplementedError, match=r"'some_new_operator'.*mim install mmcv"):
            some_new_operator(1, two=2)

    def test_lacks_an_operator_only_when_it_is_called(self, mmcv_ops):
        with pytest.raises(NotImplementedError, match="'min_area_polygons'"):
            mmcv_ops.min_area_polygons(torch.zeros(1, 18))

    @pytest.mark.parametrize("name", ["__wrapped__", "__path__", "_repr_html_"])
    def test_does_not_have_private_names(self, name):
        assert not hasattr(sys.modules["mmcv._ext"], name)

    def test_reports_that_the_compiler_is_not_available(self, mmcv_ops):
        assert mmcv_ops.get_compiler_version().startswith("n/a")
        assert mmcv_ops.get_compiling_cuda_version().startswith("n/a")


# The importer, in a fresh Python with an mmcv made up for the test ----------------------------------


LOAD = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("operators", {operators.__file__!r})
operators = importlib.util.module_from_spec(spec)
spec.loader.exec_module(operators)
"""
IS_FINDER = "lambda finder: type(finder).__name__ == '_Finder'"


@pytest.fixture
def fresh_python(tmp_path):
    """Runs code with `operators` loaded and a fake mmcv. With `compiled`, the fake mmcv has operators."""
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "ops.py").write_text("from mmcv import _ext\nassert hasattr(_ext, 'softnms')\n")

    def run(code, compiled=False):
        if compiled:
            (package / "_ext.py").write_text("softnms = 'compiled'\n")
        # -S hides site-packages: a real mmcv and the hook that installs the importer at start-up.
        done = subprocess.run(
            [sys.executable, "-S", "-c", LOAD + code],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return SimpleNamespace(lines=done.stdout.splitlines(), stderr=done.stderr)

    return run


def test_installing_twice_gives_one_importer_in_the_last_place(fresh_python):
    count = f"print(sum(map({IS_FINDER}, sys.meta_path)), ({IS_FINDER})(sys.meta_path[-1]))"
    copy = LOAD  # a second copy of the file, as a start-up hook may have loaded it
    done = fresh_python(f"operators.install(); operators.install()\n{copy}\noperators.install()\n{count}")
    assert done.lines == ["1 True"]


def test_installing_does_not_print_and_does_not_import_a_large_library(fresh_python):
    done = fresh_python(
        "operators.install(); print(operators.serving())\n"
        "print({'mmcv', 'torch', 'torchvision', 'numpy', 'xcit_dense'} & set(sys.modules) or 'nothing')"
    )
    assert done.lines == ["True", "nothing"]
    assert done.stderr == ""


def test_the_stand_in_works_after_a_failed_import_and_does_not_print(fresh_python):
    done = fresh_python(
        "try:\n    import mmcv.ops\n"
        "except ImportError:\n    print('failed', operators.serving())\n"
        "operators.install()\n"
        "import mmcv.ops, mmcv._ext\n"
        "print(operators.serving(), repr(mmcv._ext), 'torch' in sys.modules)"
    )
    assert done.lines == ["failed False", "True <module 'mmcv._ext' (xcit_dense's stand-in on torchvision)> False"]
    assert done.stderr == ""


def test_a_compiled_mmcv_is_preferred(fresh_python):
    done = fresh_python(
        "operators.install(); print(operators.serving())\n"
        "import mmcv.ops, mmcv._ext\nprint(operators.serving(), mmcv._ext.softnms)",
        compiled=True,
    )
    assert done.lines == ["False", "False compiled"]
    assert done.stderr == ""


@pytest.mark.parametrize("place", ["insert(0, Editable)", "append(Editable)"])
def test_a_compiled_mmcv_of_another_importer_is_preferred(fresh_python, place):
    done = fresh_python(
        "operators.install()\n"
        "class Editable:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'mmcv._ext':\n"
        f"            return importlib.util.spec_from_file_location(name, {str(Path(__file__).parent)!r} + '/ext.py')\n"
        f"sys.meta_path.{place}\n"
        "print(operators.serving(), importlib.util.find_spec('mmcv._ext').name)\n"
        "print(importlib.util.find_spec('mmcv._ext').origin.endswith('ext.py'))"
    )
    assert done.lines == ["False mmcv._ext", "True"]


def test_without_mmcv_the_operators_are_not_served(fresh_python):
    done = fresh_python(
        "operators.install()\nsys.path.clear()\nprint(operators.serving(), importlib.util.find_spec('mmcv'))"
    )
    assert done.lines == ["False None"]


def test_the_environment_switches_the_stand_in_off(fresh_python, monkeypatch):
    monkeypatch.setenv("XCIT_DENSE_OPERATORS", "0")
    done = fresh_python(
        "operators.install(); print(operators.serving())\n"
        "try:\n    import mmcv.ops\nexcept ImportError as error:\n    print(error)"
    )
    assert done.lines[0] == "False"
    assert "cannot import name '_ext'" in done.lines[1]


def test_a_compiled_mmcv_works_with_the_stand_in_off(fresh_python, monkeypatch):
    monkeypatch.setenv("XCIT_DENSE_OPERATORS", "0")
    done = fresh_python("operators.install()\nimport mmcv.ops, mmcv._ext\nprint(mmcv._ext.softnms)", compiled=True)
    assert done.lines == ["compiled"]


@pytest.mark.usefixtures("stand_in")
def test_the_environment_switches_the_start_up_file_off_too(python):
    code = "import sys; print([getattr(finder, '__name__', '') for finder in sys.meta_path]); import mmcv.ops"
    assert "_Waiting" in python("-c", code).stdout
    done = python("-c", code, XCIT_DENSE_OPERATORS="0", status=1)
    assert "_Waiting" not in done.stdout
    assert "No module named 'mmcv._ext'" in done.stderr


@pytest.mark.usefixtures("stand_in")
def test_with_the_stand_in_off_the_package_works_and_operators_give_mmcvs_own_error(python):
    code = (
        "import xcit_dense.mm\nfrom mmengine.registry import MODELS\n"
        "print(MODELS.build({'type': 'XCiT', 'variant': 'nano_12_p16'}).embed_dim)\nimport mmcv.ops"
    )
    done = python("-c", code, XCIT_DENSE_OPERATORS="0", status=1)
    assert done.stdout.split()[-1] == "128"
    assert "No module named 'mmcv._ext'" in done.stderr
