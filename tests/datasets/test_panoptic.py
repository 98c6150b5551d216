"""Numbers of segments survive their colours, and panoptic quality follows its definition."""

import math
import pickle

import numpy as np

from xcit_dense.datasets.panoptic import OFFSET, PQStat, id2rgb, rgb2id

CATEGORIES = {1: {"isthing": 1}, 2: {"isthing": 1}, 9: {"isthing": 0}}


def test_every_number_below_the_offset_survives_its_colour():
    ids = np.array([[0, 1, 255, 256], [65_535, 65_536, 2_000_000, OFFSET - 1]])
    colours = id2rgb(ids)
    assert colours.dtype == np.uint8
    assert colours.shape == (2, 4, 3)
    assert rgb2id(colours).tolist() == ids.tolist()
    assert [rgb2id(colour) for colour in colours[0]] == ids[0].tolist()
    assert id2rgb(65_537) == [1, 0, 1]


def counted():
    counts = PQStat()
    counts[1].tp, counts[1].iou, counts[1].fp, counts[1].fn = 3, 2.4, 1, 1
    counts[9].tp, counts[9].iou = 1, 0.9
    return counts


def test_the_quality_of_a_class_is_its_iou_over_its_segments():
    mean, classes = counted().pq_average(CATEGORIES, isthing=None)
    assert classes[1] == {"pq": 2.4 / 4, "sq": 2.4 / 3, "rq": 3 / 4}
    assert classes[2] == {"pq": 0, "sq": 0, "rq": 0}
    assert mean == {"pq": (0.6 + 0.9) / 2, "sq": (2.4 / 3 + 0.9) / 2, "rq": (0.75 + 1) / 2, "n": 2}


def test_things_and_stuff_are_averaged_apart():
    things, classes = counted().pq_average(CATEGORIES, isthing=True)
    stuff, _ = counted().pq_average(CATEGORIES, isthing=False)
    assert (things["pq"], things["n"], list(classes)) == (0.6, 1, [1, 2])
    assert (stuff["pq"], stuff["n"]) == (0.9, 1)


def test_an_average_over_no_class_is_nan():
    mean, _ = PQStat().pq_average(CATEGORIES, isthing=None)
    assert math.isnan(mean["pq"])
    assert mean["n"] == 0


def test_counts_of_two_processes_add_up():
    total = PQStat()
    for part in (counted(), counted()):
        total += pickle.loads(pickle.dumps(part))
    assert (total[1].tp, total[1].fp, total[1].fn, total[1].iou) == (6, 2, 2, 4.8)
    assert total[2].tp == 0
