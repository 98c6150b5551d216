"""Exported backbones compute what the models compute, at batches and sizes that no export has seen."""

import json

import numpy as np
import pytest
import torch

from tests.helpers.exports import SIZES, assert_equal_outputs
from tests.helpers.models import raises_user_error, tiny_coat, tiny_xcit
from xcit_dense import TokenPyramid, deploy
from xcit_dense.export.graph import Normalised
from xcit_dense.export.metadata import Metadata, Resize
from xcit_dense.export.write import METADATA_FILE, check_out, write_model

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MEAN, STD = (120.0, 110.0, 100.0), (50.0, 55.0, 60.0)


def describe(**changes):
    options = {
        "outputs": ("stride_4", "stride_8", "stride_16", "stride_32"),
        "mean": MEAN,
        "std": STD,
        "normalise": "inside",
        "stride": 32,
        "classes": ("cat",),
        "palette": ((1, 2, 3),),
        "resize": Resize((64, 48), True),
        "version": "1",
    }
    return Metadata("features", **{**options, **changes})


def run_onnx(path):
    session = onnxruntime.InferenceSession(path)
    return session, lambda images: session.run(None, {"images": images.numpy()})


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_xcit, tiny_coat])
def test_an_onnx_file_equals_the_backbone_and_states_its_metadata(make, tmp_path):
    model = Normalised(deploy(make().eval()), MEAN, STD, "inside").eval()
    write_model(model, describe(), tmp_path / "model.onnx")
    session, run = run_onnx(tmp_path / "model.onnx")
    assert_equal_outputs(model, run)
    assert Metadata.from_text(session.get_modelmeta().custom_metadata_map, "model.onnx") == describe()
    assert session.get_inputs()[0].name == "images"
    assert [output.name for output in session.get_outputs()] == list(describe().outputs)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_pt2_file_equals_the_backbone_and_states_its_metadata(tmp_path):
    model = deploy(tiny_xcit().eval())
    write_model(model, describe(normalise="outside"), tmp_path / "model.pt2")
    files = {METADATA_FILE: ""}
    loaded = torch.export.load(tmp_path / "model.pt2", extra_files=files).module()
    with torch.no_grad():
        assert_equal_outputs(model, lambda images: [level.detach().numpy() for level in loaded(images)], SIZES[:2], 1)
    assert json.loads(files[METADATA_FILE])["stride"] == 32


@pytest.mark.slow
def test_an_openvino_file_equals_the_backbone(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = deploy(tiny_xcit().eval())
    write_model(model, describe(), tmp_path / "model.xml")
    compiled = openvino.Core().compile_model(tmp_path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert_equal_outputs(model, lambda images: [compiled(images.numpy())[index] for index in range(4)], scale=1)


@pytest.mark.slow
def test_fp16_has_half_the_size_and_nearly_the_same_outputs(tmp_path):
    model = deploy(tiny_xcit(embed_dim=192).eval())
    write_model(model, describe(), tmp_path / "full.onnx")
    write_model(model, describe(), tmp_path / "half.onnx", dtype="fp16")
    assert (tmp_path / "half.onnx").stat().st_size < 0.75 * (tmp_path / "full.onnx").stat().st_size
    images = torch.rand(1, 3, 64, 96)
    _, run = run_onnx(tmp_path / "half.onnx")
    with torch.no_grad():
        for one, other in zip(run(images), model(images)):
            assert (torch.from_numpy(one) - other).abs().max() < 0.02 * other.abs().max()


def test_beit_says_that_it_cannot_be_exported(tmp_path):
    options = {"embed_dim": 48, "depth": 4, "num_heads": 2}
    model = TokenPyramid("beit_base_patch16_224", model_options=options).eval()
    with raises_user_error("BEiT", "table of relative positions"):
        write_model(model, describe(), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_graph_that_is_valid_for_one_size_only_is_refused(tmp_path):
    class Fixed(torch.nn.Module):
        def forward(self, images):
            size = [int(side * 0.5) for side in images.shape[2:]]
            return torch.nn.functional.interpolate(images, size)

    with raises_user_error("not valid for images of another size", "shape"):
        write_model(Fixed().eval(), describe(outputs=("half",)), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("model.onx", {}, ("'.onx'", "'.onnx'")),
        ("model.pt2", {"dtype": "fp16"}, ("fp32 only", ".onnx")),
        ("model.onnx", {"dtype": "fp16", "int8": True}, ("int8 and fp16",)),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_export(name, options, words, tmp_path):
    with raises_user_error(*words):
        check_out(tmp_path / name, **options)


class XCA(torch.nn.Linear):
    """A layer whose class has the name of XCiT's attention."""


class Scaled(torch.nn.Module):
    """A convolution whose weight is multiplied by a parameter, and a layer of XCiT's attention."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(64, 3, 4, 4))
        self.scale = torch.nn.Parameter(torch.rand(64, 1, 1, 1))
        self.attention = XCA(64, 64)

    def forward(self, images):
        maps = torch.nn.functional.conv2d(images, self.weight * self.scale, stride=4)  # (B, 64, H / 4, W / 4)
        return self.attention(maps.permute(0, 2, 3, 1))


def test_int8_stores_each_weight_once_in_8_bits_and_leaves_the_attention_in_fp32(tmp_path):
    onnx = pytest.importorskip("onnx")
    model, images = Scaled().eval(), torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "model.onnx"
    write_model(model, describe(outputs=("map",), stride=4), path, calibrate=lambda _: iter([images[:1].numpy()]))
    graph = onnx.load(path).graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > 1000]
    types = sorted((list(tensor.dims), onnx.TensorProto.DataType.Name(tensor.data_type)) for tensor in large)
    assert types == [([64, 3, 4, 4], "INT8"), ([64, 64], "FLOAT")]
    _, run = run_onnx(path)
    with torch.no_grad():
        expected = model(images)
    assert 0 < (torch.from_numpy(run(images)[0]) - expected).abs().mean() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_does_not_contain_paths_of_the_machine_that_wrote_it(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    write_model(Scaled().eval(), describe(outputs=("map",), stride=4), path)
    assert __file__.encode() not in path.read_bytes()
