"""tools/predict.py and tools/browse.py run the commands of docs/predicting.md. tools/predict.py refuses wrong input."""

import json
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.models import randomise

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/predict.py"
PHOTOS, FRAMES = 3, 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Saves a config's model with random weights, as a training would."""
    import xcit_dense.mm  # noqa: F401  # isort: skip
    import importlib

    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    def save(config, path):
        config = Config.fromfile(config)
        init_default_scope(config.default_scope)
        model = importlib.import_module(f"{config.default_scope}.registry").MODELS.build(config.model)
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {"iter": 4, "time": "20260101"}
        torch.save({"state_dict": randomise(model).state_dict(), "meta": meta, "message_hub": {}}, path)
        config.dump(path.parent / Path(config.filename).name)

    return save


@pytest.fixture(scope="module")
def page():
    """The blocks of the page in a language."""
    text = (ROOT / "docs/predicting.md").read_text()
    return lambda language: "\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S))


@pytest.fixture(scope="module")
def walked(page, weights, tools, shapes, tmp_path_factory):
    """The page's commands, run in a directory outside the clone."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    root = tmp_path_factory.mktemp("outside")
    (root / "data").mkdir()
    (root / "data/shapes").symlink_to(shapes)
    weights(tools.shapes, root / "work_dirs/demo/iter_4.pth")
    weights(tools.segmentation["sem_fpn_xcit_n12_p8_shapes"], root / "work_dirs/demo-seg/iter_4.pth")
    images = sorted((shapes / "val2017").iterdir())
    (root / "photos").mkdir()
    (root / "more/deep").mkdir(parents=True)
    for image in images[:PHOTOS]:
        (root / "photos" / image.name).symlink_to(image)
    Image.open(images[3]).resize((60, 40)).save(root / "more/deep/last.png")
    video = cv2.VideoWriter(str(root / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 96))
    for _ in range(FRAMES):
        video.write(cv2.imread(str(images[0])))
    video.release()
    commands = page("bash")
    assert commands.count(" predict ") == 3
    assert commands.count("xcit-dense browse ") == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PET_MASTER_PORT": port}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=root,
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    return SimpleNamespace(root=root, out=process.stdout, err=process.stderr)


def files(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def read(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_input_is_drawn_and_listed(walked):
    found = walked.root / "found"
    names = [f"photos/{number:012d}" for number in range(1, PHOTOS + 1)]
    assert files(found / "pictures") == sorted(["clip.mp4", "more/deep/last.jpg", *(f"{name}.jpg" for name in names)])
    frames = [f"clip.mp4/{number:06d}" for number in range(FRAMES)]
    images = read(found / "images.json")["images"]
    expected = [*(f"{name}.jpg" for name in names), *frames, "more/deep/last.png"]
    assert [image["file_name"] for image in images] == expected
    assert sorted(path.name for path in found.iterdir()) == ["images.json", "pictures", "results.json"]


@pytest.mark.slow
def test_the_code_of_the_page_reads_the_results(walked, page, monkeypatch):
    monkeypatch.chdir(walked.root)
    names = {}
    exec(page("python"), names)
    assert len(names["results"].anns) > 10
    assert names["mask"].shape == (40, 60)
    assert names["name"] == "more/deep/last.png"


@pytest.mark.slow
def test_two_processes_write_what_one_writes(walked):
    one, two = walked.root / "found", walked.root / "together"
    assert files(one) == files(two)
    assert (one / "images.json").read_bytes() == (two / "images.json").read_bytes()
    for got, expected in zip(read(two / "results.json"), read(one / "results.json"), strict=True):
        assert (got["image_id"], got["category_id"]) == (expected["image_id"], expected["category_id"])
        assert [*got["bbox"], got["score"]] == pytest.approx([*expected["bbox"], expected["score"]], abs=1e-2)


@pytest.mark.slow
def test_labels_are_as_large_as_their_images_and_contain_classes(walked):
    labels = walked.root / "labelled/labels"
    assert files(labels) == [
        *(f"clip.mp4/{number:06d}.png" for number in range(FRAMES)),
        *(f"photos/{number:012d}.png" for number in range(1, PHOTOS + 1)),
    ]
    for name in files(labels):
        with Image.open(labels / name) as image:
            assert image.size == (96, 96)
            assert set(np.unique(image)) <= set(range(5))
    assert files(walked.root / "labelled/pictures")[0] == "clip.mp4"


@pytest.mark.slow
def test_training_images_are_drawn(walked):
    overviews = {"contact_sheet.jpg", "classes.png", "sizes.png"}
    assert len({Path(name).name for name in files(walked.root / "seen")} - overviews) == 8


@pytest.mark.slow
def test_outside_a_terminal_progress_is_plain_lines(walked):
    assert "\r" not in walked.err
    assert "\x1b" not in walked.err
    assert re.search(r"^8 images, \d+ objects of any score\nfound/results.json\n", walked.out, re.M)


# In this process, for speed


@pytest.fixture
def predict(monkeypatch, tmp_path):
    """Runs the tool on CPU, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LOCAL_RANK", "0")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments), "--device", "cpu"])
        runpy.run_path(str(TOOL), run_name="__main__")

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["w.pth", "a.png", "--batch", "0"], ("--batch 0", "1 or more")),
        (["w.pth", "a.png", "--score-thr", "30"], ("--score-thr 30", "from 0 to 1")),
        (["w.pth", "gone.png"], ("gone.png", "check the path")),
        (["gone.pth", "a.png"], ("gone.pth", "Check the path")),
        (["empty", "a.png"], ("does not contain an intact checkpoint", "empty")),
        (["w.pth", "empty"], ("empty", "no images or videos")),
        (["w.pth", "a.png", "--launcher", "pytorch"], ("torchrun", "--launcher none")),
    ],
)
def test_impossible_options_are_refused_at_once(predict, tools, tmp_path, arguments, words):
    (tmp_path / "w.pth").touch()
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as exit_:
        predict(tools.shapes, *arguments, "--out", "out")
    sentence = str(exit_.value)
    assert sentence.startswith("error: ")
    for word in words:
        assert word in sentence
    assert not (tmp_path / "out").exists()


def test_help_keeps_the_lines_of_its_text(predict, capsys):
    with pytest.raises(SystemExit):
        predict("--help")
    assert "has written\n\nDIR receives pictures/" in capsys.readouterr().out


@pytest.mark.slow
def test_a_name_of_the_zoo_and_an_image_that_cannot_be_read(predict, weights, tmp_path, monkeypatch, capsys):
    from xcit_dense.weights.zoo import ZOO

    name, config = "ade20k/sem_fpn/tiny_12_p16", ROOT / "configs/segmentation/sem_fpn_xcit_t12.py"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights(config, tmp_path / "hub/checkpoints" / ZOO[name].url.rsplit("/", 1)[-1])
    Image.new("RGB", (64, 48), (90, 120, 200)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    small = ["--cfg-options", "test_dataloader.dataset.pipeline.1.scale=(64,32)"]
    with pytest.raises(SystemExit) as exit_:
        predict(config, name, "a.png", "b.png", "--out", "out", *small)
    assert exit_.value.code == 1
    assert files(tmp_path / "out") == ["labels/a.png", "pictures/a.jpg"]
    printed = capsys.readouterr()
    assert "1 images\n" in printed.out
    assert "error: 1 could not be done, or only in part:\n  b.png: the file is not an image\n" in printed.err
