"""The readers of data sets agree with the readers of other libraries."""

import pytest

from tests.helpers.layouts import CLASSES, IMAGES, SPLITS, boxes, coco_content, write_coco, write_voc, write_yolo
from xcit_dense.datasets.formats.recognise import recognise_objects

labelformat = pytest.importorskip("labelformat", reason="install requirements/integrations.lock")
supervision = pytest.importorskip("supervision", reason="install requirements/integrations.lock")


def rounded(found):
    """The objects of each image: the class, and the box x, y, width, height, rounded to a hundredth."""
    return {
        name: sorted((label, tuple(round(float(value), 2) for value in box)) for label, box in objects)
        for name, objects in found.items()
    }


def read_with_supervision(data):
    found = {}
    for path, _, detections in data:
        stem = path.replace("\\", "/").split("/")[-1].split(".")[0]
        objects = zip(detections.class_id, detections.xyxy)
        found[stem] = [(data.classes[label], (x0, y0, x1 - x0, y1 - y0)) for label, (x0, y0, x1, y1) in objects]
    return found


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("masks", [False, True])
def test_supervision_reads_the_same_objects_from_yolo(tmp_path, split, masks):
    root = write_yolo(tmp_path, masks=masks)
    data = supervision.DetectionDataset.from_yolo(
        str(root / "images" / split), str(root / "labels" / split), str(root / "data.yaml"), force_masks=False
    )
    ours = recognise_objects(root).splits[split]()
    assert rounded(read_with_supervision(data)) == rounded(boxes(ours))
    assert [category["name"] for category in ours["categories"]] == data.classes == list(CLASSES)


def test_supervision_reads_the_same_objects_from_pascal_voc(tmp_path):
    root = write_voc(tmp_path)
    for path in (root / "ImageSets/Main").iterdir():
        path.unlink()
    data = supervision.DetectionDataset.from_pascal_voc(str(root / "JPEGImages"), str(root / "Annotations"))
    ours = boxes(recognise_objects(root).splits["train"]())
    assert ours.keys() == IMAGES.keys()
    assert rounded(read_with_supervision(data)) == rounded(ours)


@pytest.mark.parametrize("split", SPLITS)
def test_supervision_reads_the_same_objects_from_coco(tmp_path, split):
    root = write_coco(tmp_path)
    file = root / f"annotations/instances_{split}.json"
    data = supervision.DetectionDataset.from_coco(str(root / split), str(file))
    assert rounded(read_with_supervision(data)) == rounded(boxes(recognise_objects(root).splits[split]()))


@pytest.mark.parametrize("split", SPLITS)
def test_labelformat_reads_the_same_objects_from_yolo(tmp_path, split):
    from labelformat.formats import YOLOv8ObjectDetectionInput

    root = write_yolo(tmp_path)
    labels = YOLOv8ObjectDetectionInput(input_file=root / "data.yaml", input_split=split).get_labels()
    theirs = {}
    for label in labels:
        objects = [
            (each.category.name, (each.box.xmin, each.box.ymin, each.box.xmax, each.box.ymax)) for each in label.objects
        ]
        stem = label.image.filename.split("/")[-1].split(".")[0]
        theirs[stem] = [(name, (x0, y0, x1 - x0, y1 - y0)) for name, (x0, y0, x1, y1) in objects]
    ours = boxes(recognise_objects(root).splits[split]())
    assert theirs
    # labelformat reads label files, so that it has no images without objects.
    assert rounded(theirs) == rounded({name: objects for name, objects in ours.items() if objects or name in theirs})


@pytest.mark.parametrize("split", SPLITS)
def test_pycocotools_and_the_writers_of_the_tests_agree(tmp_path, split):
    from pycocotools.coco import COCO

    root = write_coco(tmp_path)
    coco = COCO(str(root / f"annotations/instances_{split}.json"))
    content = recognise_objects(root).splits[split]()
    assert [coco.annToMask(each).sum() for each in content["annotations"]] == [
        each["area"] for each in coco_content(SPLITS[split])["annotations"]
    ]
