"""Predictions for a small image, for the tests of what becomes of predictions."""

import numpy as np

from xcit_dense.predictions import Detection, Segmentation

CLASSES = ["cat", "dog", "bird"]
PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def detection(masks=True):
    """Three objects: a dog, a cat and a dog."""
    mask = np.zeros((3, 40, 60), bool)
    for number in range(3):
        mask[number, number : number + 10, number : number + 20] = True
    return Detection(
        xyxy=np.array([[0, 0, 20, 10], [1, 1, 21, 11], [2, 2, 22, 12]], np.float32),
        confidence=np.array([0.9, 0.25, 0.5], np.float32),
        class_id=np.array([1, 0, 1]),
        mask=mask if masks else None,
        image=IMAGE,
        classes=CLASSES,
        palette=PALETTE,
        source="photos/a.jpg",
    )


def segmentation(labels=None):
    """A label map of birds and cats, with pixels without a class."""
    if labels is None:
        labels = np.zeros((40, 60), np.uint8)
        labels[10:, 20:] = 2
        labels[30:] = 255
    return Segmentation(labels=labels, image=IMAGE, classes=CLASSES, palette=PALETTE, source="clip.mp4", frame=7)
