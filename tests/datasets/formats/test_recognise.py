"""The format of a directory or file is recognised; what is not read is named with the export to choose."""

import json

import pytest

from tests.helpers.layouts import (
    IMAGES,
    boxes,
    coco_content,
    expected_boxes,
    shape,
    write_coco,
    write_image,
    write_labelme,
    write_text,
    write_voc,
    write_yolo,
)
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.recognise import recognise, recognise_objects

WRITERS = {"COCO": write_coco, "YOLO": write_yolo, "Pascal VOC": write_voc}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("inner", ["", "export", "export/data"], ids=["root", "below", "two below"])
def test_formats_are_recognised_also_in_the_only_directory_of_a_directory(tmp_path, name, inner):
    WRITERS[name](tmp_path / inner)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".DS_Store").touch()
    data = recognise_objects(tmp_path)
    assert data.format == name
    assert boxes(data.splits["val"]()) == expected_boxes("d")
    assert recognise(tmp_path).format == name


def test_the_same_data_in_every_format_has_the_same_content(tmp_path):
    contents = []
    for name, write in WRITERS.items():
        data = recognise_objects(write(tmp_path / name, **({"masks": False} if name == "COCO" else {})))
        content = data.splits["train"]()
        for image in content["images"]:
            image["file_name"] = image["file_name"].split("/")[-1]
        contents.append(content)
    assert contents[0] == contents[1] == contents[2]


def test_hidden_copies_of_labels_and_images_are_passed_over(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "images/train/._a.png", "AppleDouble")
    write_image(tmp_path / "images/train/.ipynb_checkpoints/a-checkpoint.png", (8, 8))
    assert boxes(recognise_objects(tmp_path).splits["train"]()) == expected_boxes("abc")


def test_links_to_directories_are_followed(tmp_path):
    write_yolo(tmp_path / "elsewhere")
    (tmp_path / "mine").mkdir()
    for name in ("images", "labels", "data.yaml"):
        (tmp_path / "mine" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere/images/train/loop").symlink_to(tmp_path / "elsewhere/images")
    assert set(boxes(recognise_objects(tmp_path / "mine").splits["val"]())) == {"d"}


def coco_without_images(root):
    write_text(root / "annotations/instances_default.json", json.dumps(coco_content(IMAGES)))


def cvat(root):
    write_text(root / "annotations.xml", '<?xml version="1.0"?>\n<annotations>\n<version>1.1</version></annotations>')


def supervisely(root):
    write_image(root / "ds0/img/a.png", (8, 8))
    write_text(root / "ds0/ann/a.png.json", json.dumps({"size": {"height": 8, "width": 8}, "objects": []}))
    write_text(root / "meta.json", json.dumps({"classes": [], "tags": [], "projectType": "images"}))


def image_folder(root):
    write_image(root / "train/a.png", (8, 8))
    write_text(root / "train/metadata.jsonl", json.dumps({"file_name": "a.png", "objects": {"bbox": []}}))


def datumaro(root):
    write_text(root / "annotations/default.json", json.dumps({"info": {}, "categories": {}, "items": []}))


def label_studio(root):
    write_text(root / "project.json", json.dumps([{"id": 1, "data": {"image": "a.png"}, "annotations": []}]))


def via(root):
    write_text(root / "via.json", json.dumps({"a.png1": {"filename": "a.png", "size": 1, "regions": []}}))


def create_ml(root):
    write_text(root / "train/_annotations.createml.json", json.dumps([{"image": "a.png", "annotations": []}]))


def box_table(root):
    write_text(root / "train/_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n")


def records(root):
    write_text(root / "train/cats.tfrecord", "")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (coco_without_images, ["instances_default.json", "no image", "Save images"]),
        (cvat, ["annotations.xml", "CVAT's own format", "COCO 1.0"]),
        (supervisely, ["meta.json", "Supervisely's own format", "Export to COCO"]),
        (image_folder, ["metadata.jsonl", "imagefolder", "COCO, YOLO or Pascal VOC"]),
        (datumaro, ["default.json", "Datumaro's own format", "coco_instances"]),
        (label_studio, ["project.json", "Label Studio's own format", "COCO or YOLO"]),
        (via, ["via.json", "VIA's own format", "COCO"]),
        (create_ml, ["createml.json", "CreateML"]),
        (box_table, ["_annotations.csv", "table of boxes"]),
        (records, ["cats.tfrecord", "TFRecord"]),
    ],
)
def test_formats_that_are_not_read_are_named_with_the_export_to_choose(tmp_path, write, words):
    write(tmp_path)
    with raises_user_error(*words):
        recognise_objects(tmp_path)


def test_an_unknown_directory_gives_the_signs_of_all_formats(tmp_path):
    write_image(tmp_path / "a.png", (8, 8))
    with raises_user_error(tmp_path, "_annotations.coco.json", "data.yaml", "Pascal VOC", "LabelMe", "EncodedPixels"):
        recognise_objects(tmp_path)


def test_a_file_that_does_not_describe_data_is_refused(tmp_path):
    write_text(tmp_path / "notes.txt", "")
    with raises_user_error("notes.txt does not describe a data set", ".yaml", ".zip"):
        recognise_objects(tmp_path / "notes.txt")


@pytest.mark.parametrize(("suffix", "content"), [(".json", "{}"), (".csv", "a,b\n")])
def test_a_file_with_another_content_is_refused(tmp_path, suffix, content):
    write_text(tmp_path / f"a{suffix}", content)
    with raises_user_error(f"a{suffix}"):
        recognise_objects(tmp_path / f"a{suffix}")


def test_class_images_under_a_task_with_boxes_give_the_configs_for_them(tmp_path):
    write_image(tmp_path / "images/train/a.png", (8, 8))
    write_image(tmp_path / "masks/train/a.png", (8, 8))
    with raises_user_error("a class for each pixel", "a config for segmentation, such as upernet_xcit_s12"):
        recognise_objects(tmp_path)


def test_json_files_of_single_images_do_not_hide_the_format(tmp_path):
    write_labelme(tmp_path, [shape("cat", "polygon", [[1, 1], [9, 1], [9, 9]])])
    assert recognise_objects(tmp_path).format == "LabelMe"
