"""Exported detectors and segmentors predict what the models of the MM libraries predict."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.exports import assert_equal_outputs
from tests.helpers.models import raises_user_error
from tests.helpers.tiny import save_tiny, tiny_config, write_work_dir
from xcit_dense.cli.main import main
from xcit_dense.export.write import write_model
from xcit_dense.inference.exported import ExportedModel

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("mmdet")

IMAGES = [np.random.default_rng(0).integers(0, 256, size, np.uint8) for size in ((60, 80, 3), (90, 50, 3), (64, 64, 3))]


def export_head(task, head, directory):
    """Exports a tiny model and returns the file and the module."""
    from xcit_dense.mm.export.build import make_exportable

    config = tiny_config(task, head)
    save_tiny(config, directory / "weights.pth")
    model, metadata = make_exportable(config, str(directory / "weights.pth"))
    write_model(model, metadata, directory / "model.onnx")
    return config, model, directory / "model.onnx"


def compare_predictions(predictor, exported):
    """Compares predictions of the two for images of several sizes."""
    for image in IMAGES:
        (expected,) = predictor.infer([predictor.accept(image)])
        (found,) = exported.predict([image])
        if predictor.segments:
            assert (found.labels == expected.labels).mean() > 0.999  # equal logits may be rounded differently
            continue
        order, own = (
            np.lexsort((found.class_id, -found.confidence)),
            np.lexsort((expected.class_id, -expected.confidence)),
        )
        assert len(found.xyxy) == len(expected.xyxy) > 0
        np.testing.assert_allclose(found.confidence[order], expected.confidence[own], atol=1e-4)
        np.testing.assert_allclose(found.xyxy[order], expected.xyxy[own], atol=1e-2)
        np.testing.assert_array_equal(found.class_id[order], expected.class_id[own])
        if expected.mask is not None:
            assert (found.mask[order] == expected.mask[own]).mean() > 0.999


def compare_windows(predictor, exported, scale):
    """Compares predictions of the two for windows, at their native size times the scale."""
    from xcit_dense.inference.windows.exported import ExportedWindowEngine
    from xcit_dense.mm.inference.window_engine import by_windows

    ours, theirs = by_windows(predictor, scale), ExportedWindowEngine(exported, scale)
    np.testing.assert_allclose(theirs.fill, ours.fill, rtol=1e-5)
    windows = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), np.uint8) for seed in range(2)]
    if predictor.segments:
        assert theirs.threshold == ours.threshold
        for found, expected in zip(theirs.score(windows), ours.score(windows), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-3)
        return
    for found, expected in zip(theirs.find(windows), ours.find(windows), strict=True):
        assert len(found.boxes) == len(expected.boxes) > 0
        order, own = np.argsort(-found.scores), np.argsort(-expected.scores)
        np.testing.assert_allclose(found.scores[order], expected.scores[own], atol=1e-4)
        np.testing.assert_allclose(np.sort(found.boxes[:, 0]), np.sort(expected.boxes[:, 0]), atol=1e-2)
        if expected.masks is not None:
            assert found.masks.shape == expected.masks.shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "head"),
    [
        ("segmentation", "sem_fpn"),
        ("segmentation", "upernet"),
        ("detection", "mask_rcnn"),
        ("detection", "cascade_mask_rcnn"),
        ("detection", "retinanet"),
        ("detection", "rtmdet"),
    ],
)
def test_an_exported_model_predicts_what_the_model_predicts(task, head, tmp_path):
    from xcit_dense.mm.inference.predict import make_predictor

    config, model, path = export_head(task, head, tmp_path)
    session = onnxruntime.InferenceSession(path)
    assert_equal_outputs(model, lambda images: session.run(None, {"images": images.numpy()}))
    predictor, exported = make_predictor(config, str(tmp_path / "weights.pth")), ExportedModel(path)
    compare_predictions(predictor, exported)
    for scale in (1.0, 0.5):
        compare_windows(predictor, exported, scale)


@pytest.mark.parametrize("head", ["mask_rcnn", "retinanet", "rtmdet"])
def test_entries_without_an_object_are_empty(head, tmp_path):
    # Run times order equal scores in their own ways, so an entry must not depend on its place.
    from xcit_dense.mm.export.build import make_exportable

    config = tiny_config("detection", head)
    config.model.test_cfg.get("rcnn", config.model.test_cfg).score_thr = 0.99
    save_tiny(config, tmp_path / "weights.pth")
    model, _ = make_exportable(config, str(tmp_path / "weights.pth"))
    with torch.no_grad():
        boxes, scores, labels, *_ = model(torch.rand(2, 3, 64, 96) * 255)
    assert (boxes == 0).all()
    assert (scores == 0).all()
    assert (labels == -1).all()


@pytest.mark.slow
def test_predict_takes_an_exported_model_as_it_takes_a_work_directory(tmp_path, capsys):
    work_dir = write_work_dir("segmentation", tmp_path / "work_dir")
    (tmp_path / "images").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "images" / "a.png")
    main(["export", str(work_dir), "--out", str(tmp_path / "model.onnx")])
    assert "segmentation, logits" in capsys.readouterr().out
    labels = []
    for name, model in (("torch", work_dir), ("onnx", tmp_path / "model.onnx")):
        with pytest.raises(SystemExit) as exit_:
            main(["predict", str(model), str(tmp_path / "images"), "--out", str(tmp_path / name)])
        assert exit_.value.code == 0
        labels.append(np.asarray(Image.open(tmp_path / name / "labels" / "a.png")))
    assert (labels[0] == labels[1]).mean() > 0.999
    drawn = [(tmp_path / name / "pictures" / "a.png").exists() for name in ("torch", "onnx")]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("head", "name"), [("dino", "DINOHead"), ("mask2former", "Mask2FormerHead")])
def test_a_head_of_queries_is_refused_by_name_and_its_backbone_can_be_exported(head, name, tmp_path):
    from xcit_dense.mm.export.build import make_exportable

    config, weights = tiny_config("detection", head), str(tmp_path / "weights.pth")
    save_tiny(deepcopy(config), Path(weights))  # DINO changes the config that it is built from
    with raises_user_error("cannot be exported", name, "Mask R-CNN", "--part backbone"):
        make_exportable(deepcopy(config), weights)
    backbone, metadata = make_exportable(config, weights, part="backbone")
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert [64 // level.shape[3] for level in maps] == [int(name.split("_")[1]) for name in metadata.outputs]


@pytest.mark.parametrize(("part", "what"), [("model", "a detector"), ("backbone", "a backbone")])
def test_labels_of_a_model_that_is_not_a_segmentor_are_refused(part, what, tmp_path):
    from xcit_dense.mm.export.build import make_exportable

    config = tiny_config("detection")
    save_tiny(config, tmp_path / "weights.pth")
    with raises_user_error("Only a segmentor returns labels", what, "leave --output out"):
        make_exportable(config, str(tmp_path / "weights.pth"), part=part, output="labels")


@pytest.mark.parametrize(("name", "words"), [("a.txt", ("'.txt'", ".onnx")), ("none.onnx", ("does not exist",))])
def test_a_file_that_is_not_an_exported_model_is_refused(name, words, tmp_path):
    (tmp_path / "a.txt").touch()
    with raises_user_error(*words):
        ExportedModel(tmp_path / name)


def test_an_invalid_onnx_file_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with raises_user_error("cannot be read by ONNX Runtime"):
        ExportedModel(tmp_path / "model.onnx")
