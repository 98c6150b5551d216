"""hotcoco, an independent reader of COCO's panoptic format, measures the same panoptic quality."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hotcoco", reason="hotcoco is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from hotcoco.panoptic import pq_compute

from xcit_dense.datasets.panoptic import id2rgb, rgb2id


def shift(truth, predicted, columns):
    """Writes predictions: each segment of the ground truth, moved to the right by some columns."""
    predicted.mkdir()
    content = json.loads((truth.with_suffix(".json")).read_text())
    annotations = []
    for each in content["annotations"]:
        ids = np.roll(rgb2id(np.asarray(Image.open(truth / each["file_name"]))), columns, axis=1)
        Image.fromarray(id2rgb(ids)).save(predicted / each["file_name"])
        left = {int(number) for number in np.unique(ids)}
        kept = [{"id": one["id"], "category_id": one["category_id"]} for one in each["segments_info"]]
        annotations.append({**each, "segments_info": [one for one in kept if one["id"] in left]})
    predicted.with_suffix(".json").write_text(json.dumps({"annotations": annotations}))


@pytest.mark.parametrize("columns", [0, 3, 12])
def test_the_panoptic_quality_is_that_of_hotcoco(shapes, tmp_path, columns):
    from mmdet.evaluation.functional import pq_compute_multi_core

    truth, predicted = shapes / "annotations/panoptic_val2017", tmp_path / "predicted"
    shift(truth, predicted, columns)
    content = json.loads(truth.with_suffix(".json").read_text())
    predictions = json.loads(predicted.with_suffix(".json").read_text())["annotations"]
    categories = {each["id"]: each for each in content["categories"]}
    pairs = list(zip(content["annotations"], predictions, strict=True))
    counts = pq_compute_multi_core(pairs, str(truth), str(predicted), categories, nproc=1)
    expected = pq_compute(str(truth.with_suffix(".json")), str(predicted.with_suffix(".json")))
    for name, things in (("All", None), ("Things", True), ("Stuff", False)):
        mean, _ = counts.pq_average(categories, isthing=things)
        for quality in ("pq", "sq", "rq"):
            assert mean[quality] == pytest.approx(expected[name][quality])
    assert (counts.pq_average(categories, None)[0]["pq"] == 1) == (columns == 0)
