"""Streamed levels equal the levels of the complete image, for all sizes, strips and shapes of the backbone."""

import pytest
import torch
from torch import nn

from tests.helpers.marks import MATRIX
from tests.helpers.models import raises_user_error, random_images, randomise, tiny_coat, tiny_xcit
from xcit_dense import VARIANTS, TokenPyramid, XCiT, deploy, stream
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.rows import TensorRows
from xcit_dense.streaming.stream import stored_bytes

SIZES = ((1, 1), (7, 200), (33, 47), (64, 64), (95, 9), (130, 73))


def assert_same_levels(streamed, levels, tolerance=1e-4):
    """Compares complete levels to a fraction of their standard deviation."""
    assert streamed.shapes == [tuple(level.shape[1:]) for level in levels]
    for number, level in enumerate(levels):
        found = streamed.read(number, Window(0, 0, *level.shape[2:]))
        scale = level.std() if level.numel() > level.shape[1] else level.abs().max()
        assert (found - level).abs().max() <= tolerance * scale


def complete_levels(backbone, image):
    with torch.no_grad():
        return backbone(image)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch_size", [8, 16])
def test_levels_equal_the_complete_images_for_every_strip(patch_size, size):
    backbone = tiny_xcit(patch_size=patch_size).eval()
    image = random_images(1, 3, *size)
    levels = complete_levels(backbone, image)
    for strip in (1, 2, 3, 7, 100, None):
        with stream(backbone, image, strip=strip) as streamed:
            assert_same_levels(streamed, levels)


@pytest.mark.parametrize(
    "options",
    [
        {"out_strides": (4,), "out_indices": (1,)},
        {"out_strides": (8, 16, 32), "out_indices": (3, 3, 3)},
        {"out_strides": (8, 16, 32, 64), "out_indices": (0, 2, 2, 3)},
        {"patch_size": 16, "out_strides": (16,), "out_indices": (2,)},
        {"patch_size": 16, "out_strides": (32, 64), "out_indices": (0, 1)},
        {"in_channels": 5, "qkv_bias": False},
    ],
)
def test_all_choices_of_levels_equal_the_complete_images(options):
    backbone = tiny_xcit(**options).eval()
    image = random_images(1, backbone.in_channels, 150, 90)
    levels = complete_levels(backbone, image)
    with stream(backbone, image, strip=3) as streamed:
        assert streamed.strides == backbone.out_strides
        assert_same_levels(streamed, levels)


def test_a_deployed_backbone_is_streamed():
    backbone = tiny_xcit(patch_size=16).eval()
    image = random_images(1, 3, 150, 90)
    levels = complete_levels(backbone, image)
    with stream(deploy(backbone), image, strip=2) as streamed:
        assert_same_levels(streamed, levels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_of_the_weights_is_kept(dtype):
    backbone = tiny_xcit().eval().to(dtype)
    image = random_images(1, 3, 70, 50)
    levels = complete_levels(backbone, image)
    with stream(backbone, image, strip=2) as streamed:
        assert streamed.read(0, Window(0, 0, 1, 1)).dtype == dtype
        assert_same_levels(streamed, levels, tolerance=1e-10 if dtype == torch.float64 else 0.2)


def test_windows_are_parts_of_a_level():
    backbone = tiny_xcit(patch_size=16, out_strides=(4, 8, 16, 32, 64), out_indices=(0, 1, 2, 3, 3)).eval()
    image = random_images(1, 3, 300, 210)
    with stream(backbone, image) as streamed:
        for number, (_, rows, columns) in enumerate(streamed.shapes):
            complete = streamed.read(number, Window(0, 0, rows, columns))
            for row, column in ((0, 0), (1, 2), (rows - 1, columns - 1), (rows // 2, columns // 3)):
                if row >= rows or column >= columns:
                    continue
                window = Window(row, column, min(5, rows - row), min(3, columns - column))
                expected = complete[:, :, row : row + window.height, column : column + window.width]
                torch.testing.assert_close(streamed.read(number, window), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(300, 210), (33, 65), (7, 9)])
def test_tiles_cover_image_and_levels_once(size):
    backbone = tiny_xcit(patch_size=16).eval()
    image = random_images(1, 3, *size)
    with stream(backbone, image) as streamed:
        pixels = torch.zeros(size)
        levels = [torch.full(shape, torch.nan) for shape in streamed.shapes]
        for window, parts in streamed.tiles(64):
            pixels[window.row : window.row + window.height, window.column : window.column + window.width] += 1
            for level, part, stride in zip(levels, parts, streamed.strides):
                row, column = window.row // stride, window.column // stride
                place = level[:, row : row + part.shape[2], column : column + part.shape[3]]
                assert place.isnan().all()
                place.copy_(part[0])
        assert (pixels == 1).all()
        for number, level in enumerate(levels):
            complete = streamed.read(number, Window(0, 0, *level.shape[1:]))
            torch.testing.assert_close(level[None], complete, rtol=1e-4, atol=1e-5)


def test_token_maps_in_files_give_the_same_levels_and_leave_no_file(tmp_path):
    backbone = tiny_xcit().eval()
    image = random_images(1, 3, 70, 50)
    with stream(backbone, image, strip=2, directory=tmp_path / "new") as streamed:
        assert_same_levels(streamed, complete_levels(backbone, image))
        assert list((tmp_path / "new").iterdir()) == []  # the files do not have names


class Broken(TensorRows):
    """An image whose lower half cannot be read."""

    def read(self, top, bottom):
        if bottom > self.height // 2:
            raise OSError("unreadable")
        return super().read(top, bottom)


def test_an_error_of_the_image_leaves_no_file(tmp_path):
    with pytest.raises(OSError, match="unreadable"):
        stream(tiny_xcit().eval(), Broken(random_images(1, 3, 70, 50)), strip=2, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_space_is_refused_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with raises_user_error(tmp_path, "bytes on the disk, but 1,000 bytes are free", "free some space"):
        stream(tiny_xcit().eval(), Broken(random_images(1, 3, 160, 160)), directory=tmp_path)


def test_a_file_as_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with raises_user_error("token maps", tmp_path / "file", "another directory"):
        stream(tiny_xcit().eval(), random_images(1, 3, 70, 50), directory=tmp_path / "file")


def test_the_disk_is_stated_exactly(tmp_path):
    backbone = tiny_xcit(out_indices=(0, 2, 2, 3))  # three maps of 9 x 7 tokens of 16 channels in fp32
    assert stored_bytes(backbone, 70, 50) == 3 * 9 * 7 * 16 * 4


def test_a_nan_pixel_makes_all_levels_nan_as_in_the_model():
    image = random_images(1, 3, 70, 50)
    image[0, 0, 60, 10] = torch.nan
    with stream(tiny_xcit().eval(), image, strip=2) as streamed:
        for number in range(4):
            assert streamed.read(number, Window(0, 0, 1, 1)).isnan().all()


def test_training_mode_is_refused():
    backbone = tiny_xcit().eval()
    backbone.blocks[1].local_mp.bn.train()
    for model, name in ((backbone, "blocks.1.local_mp.bn"), (tiny_xcit(), "patch_embed")):
        with raises_user_error("training mode", name, "eval()"):
            stream(model, random_images(1, 3, 32, 32))


def test_other_backbones_are_refused_by_name():
    with raises_user_error("CoaT", "attention compares all tokens", "windows"):
        stream(tiny_coat().eval(), random_images(1, 3, 32, 32))
    with raises_user_error("Linear", "use an XCiT"):
        stream(nn.Linear(2, 2), random_images(1, 3, 32, 32))
    options = {"depth": 4, "embed_dim": 32, "num_heads": 2}
    plain = TokenPyramid("deit_tiny_patch16_224", norm_cfg="BN", model_options=options).eval()
    with raises_user_error("deit_tiny_patch16_224", "use an XCiT"):
        stream(plain, random_images(1, 3, 32, 32))


def test_hooks_and_replaced_layers_are_refused_by_name():
    class Adapter(nn.Linear):
        pass

    backbone = tiny_xcit().eval()
    backbone.blocks[2].mlp.fc1 = Adapter(16, 64).eval()
    with raises_user_error("blocks.2.mlp.fc1", "is a Adapter", "merge"):
        stream(backbone, random_images(1, 3, 32, 32))
    backbone = tiny_xcit().eval()
    backbone.blocks[1].register_forward_hook(lambda *_: None)
    with raises_user_error("blocks.1", "hook"):
        stream(backbone, random_images(1, 3, 32, 32))
    backbone = tiny_xcit().eval()
    nn.utils.parametrizations.weight_norm(backbone.blocks[0].mlp.fc2)
    with raises_user_error("blocks.0.mlp.fc2"):
        stream(backbone, random_images(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(3, 32, 32), ("(3, 32, 32)", "image[None]")),
        (torch.zeros(2, 3, 32, 32), ("(2, 3, 32, 32)",)),
        (torch.zeros(1, 3, 0, 32), ("(1, 3, 0, 32)",)),
        (torch.zeros(1, 4, 32, 32), ("(1, 4, 32, 32)", "(1, 3, 32, 32)")),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ("uint8", "floating-point")),
    ],
)
def test_invalid_images_are_refused(image, words):
    with raises_user_error(*words):
        stream(tiny_xcit().eval(), image)


def test_invalid_windows_are_refused():
    with stream(tiny_xcit().eval(), random_images(1, 3, 70, 50)) as streamed:
        for window in (Window(0, 0, 19, 4), Window(-1, 0, 2, 2), Window(0, 0, 0, 1), Window(0, 10, 1, 20)):
            with raises_user_error("18 rows and 14 columns", "inside of the level"):
                streamed.read(0, window)
        with raises_user_error("level=4", "0 to 3"):
            streamed.read(4, Window(0, 0, 1, 1))
        with raises_user_error("size=40", "multiple of 32"):
            next(streamed.tiles(40))
    with raises_user_error("closed"):
        streamed.read(0, Window(0, 0, 1, 1))


def test_a_strip_without_rows_is_refused():
    with raises_user_error("strip=0"):
        stream(tiny_xcit().eval(), random_images(1, 3, 70, 50), strip=0)


@pytest.mark.parametrize("variant", [pytest.param(name, marks=MATRIX) for name in VARIANTS])
def test_all_published_shapes_are_streamed(variant):
    backbone = randomise(XCiT(variant)).eval()
    image = random_images(1, 3, 110, 75)
    levels = complete_levels(backbone, image)
    for strip in (1, 3):
        with stream(backbone, image, strip=strip) as streamed:
            assert_same_levels(streamed, levels)
