"""xcit_dense.load: predictions from Python equal those of the command, in any thread, without a word on the console."""

import json
import threading

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

import xcit_dense
from tests.helpers.models import raises_user_error
from tests.helpers.tiny import TASKS, tiny_config, write_work_dir
from xcit_dense import XCiT
from xcit_dense.cli.main import main
from xcit_dense.media.results import make_categories, make_results

each_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module")
def work_dirs(tmp_path_factory):
    return {task: write_work_dir(task, tmp_path_factory.mktemp("runs") / task) for task in TASKS}


@pytest.fixture(scope="module")
def models(work_dirs):
    return {task: xcit_dense.load(work_dir) for task, work_dir in work_dirs.items()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photos: two of one size."""
    directory = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    for number, size in enumerate([(48, 36), (48, 36), (60, 90)]):
        small = Image.fromarray(noise.integers(0, 256, (5, 6, 3), np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(directory / f"{number}.png")
    return directory


def same(one, other):
    if hasattr(one, "labels"):
        return np.array_equal(one.labels, other.labels)
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("xyxy", "confidence", "mask"))


@each_task
def test_predictions_equal_those_of_the_command(models, work_dirs, photos, tmp_path, task):
    with pytest.raises(SystemExit, match="0"):
        main(["predict", str(work_dirs[task]), str(photos), "--out", str(tmp_path / "out"), "--batch", "2"])
    found = list(models[task].predict(photos, score_thr=0, batch=2))
    assert [one.source for one in found] == [str(photos / f"{number}.png") for number in range(3)]
    for number, one in enumerate(found):
        if task == "detection":
            results = json.loads((tmp_path / "out/results.json").read_text())
            expected = [result for result in results if result.pop("image_id") == number + 1]
            assert len(expected) == 5
            assert make_results(one.instances, make_categories(models[task].classes)) == expected
            one = one.keep(0.3)
        else:
            assert np.array_equal(one.labels, np.asarray(Image.open(tmp_path / f"out/labels/{number}.png")))
        one.save(tmp_path / "drawn.jpg")
        assert (tmp_path / "drawn.jpg").read_bytes() == (tmp_path / f"out/pictures/{number}.jpg").read_bytes()


@each_task
def test_an_image_in_memory_gives_the_prediction_of_its_file(models, photos, task):
    expected = models[task].predict(photos / "2.png", score_thr=0)
    pixels = np.asarray(Image.open(photos / "2.png"))
    for source in (pixels, Image.open(photos / "2.png")):
        assert same(models[task].predict(source, score_thr=0), expected)
    assert not same(models[task].predict(np.ascontiguousarray(pixels[..., ::-1]), score_thr=0), expected), "BGR"


@each_task
def test_the_model_is_deployed_and_knows_its_classes(models, task):
    model = models[task]
    assert [module.deployed for module in model.engine.model.modules() if isinstance(module, XCiT)] == [True]
    assert list(model.classes) == list(tiny_config(task).test_dataloader.dataset.metainfo.classes)
    assert len(model.palette) == len(model.classes)
    assert model.segments == (task == "segmentation")


def test_threads_get_the_predictions_of_one_thread(models, photos):
    """Two models and six threads. The sizes of images differ, so that a shared cache of sizes would show."""
    images = [np.asarray(Image.open(photos / "2.png").resize((64 + 16 * n, 48))) for n in range(6)]
    expected = {task: [models[task].predict(image, score_thr=0) for image in images] for task in TASKS}
    wrong, start = [], threading.Barrier(6)

    def work(number):
        task = list(TASKS)[number % 2]
        start.wait()
        for index in (*range(number, 6), *range(number)):
            found = models[task].predict(images[index], score_thr=0)
            if not same(found, expected[task][index]):
                wrong.append((task, index))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []


def test_nothing_is_printed(python, work_dirs, photos):
    code = (
        "import sys, xcit_dense, numpy as np\n"
        "for work_dir in sys.argv[1:3]:\n"
        "    model = xcit_dense.load(work_dir)\n"
        "    assert len(list(model.predict(sys.argv[3]))) == 3\n"
        "    model.predict(np.zeros((40, 60, 3), np.uint8)).plot()\n"
    )
    process = python("-c", code, *work_dirs.values(), photos)
    assert (process.stdout, process.stderr) == ("", "")


def test_a_checkpoint_is_loaded_with_a_config(work_dirs, photos, tmp_path):
    checkpoint = work_dirs["detection"] / "iter_4.pth"
    config = tiny_config("detection")
    config.dump(tmp_path / "own.py")
    options = {"model.test_cfg.rcnn.max_per_img": 2}
    model = xcit_dense.load(checkpoint, config=tmp_path / "own.py", device="cpu", options=options)
    assert len(model.predict(photos / "0.png", score_thr=0).xyxy) == 2


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        ("work_dirs/none", {}, ["work_dirs/none", "no file, work directory or published name"]),
        ("coco/smal_12_p16", {}, ["coco/small_12_p16"]),
        ("small_12_p16_384_dist", {}, ["without a detector or segmentor"]),
        ("mask_rcnn_xcit_s12", {}, ["is a config", "load(WEIGHTS, config='mask_rcnn_xcit_s12')"]),
        ("{}", {"device": "cuda:99"}, ["'cuda:99' is not available"]),
        ("{}", {"device": "gpu"}, ["'gpu' is not available"]),
        ("{}", {"options": {"model.bakcbone.depth": 3}}, ["bakcbone"]),
        ("{}/iter_4.pth", {"config": "sem_fpn_xcit_n12_p8_shapes"}, ["iter_4.pth", "the checkpoint is of"]),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_advice(work_dirs, what, options, words):
    with raises_user_error(*words):
        xcit_dense.load(what.format(work_dirs["detection"]), **options)


@each_task
def test_a_saved_model_needs_no_config(models, work_dirs, photos, tmp_path, task):
    from xcit_dense.mm.inference.publish import save_model

    save_model(tiny_config(task), str(work_dirs[task] / "iter_4.pth"), tmp_path / "saved")
    model = xcit_dense.load(tmp_path / "saved")
    expected = models[task].predict(photos / "2.png", score_thr=0)
    assert same(model.predict(photos / "2.png", score_thr=0), expected)
    assert list(model.classes) == list(models[task].classes)
