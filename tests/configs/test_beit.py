"""The segmentation configs of BEiT and BEiT v2 equal their published recipes, field by field."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.registry import TRANSFORMS, DefaultScope

from tests.helpers.recipes import config_steps, head_fields, library_parts, pipeline_steps, plain
from tests.helpers.reference import read_reference
from tests.helpers.seeds import read_names
from xcit_dense.models.loading import COUNTER
from xcit_dense.weights.zoo import ZOO

DIRECTORY = Path(__file__).parents[2] / "configs" / "segmentation"
PUBLISHED = read_reference("seeds/beit_ade20k")
WEIGHTS = {
    Path(ZOO[name].config).stem: entry
    for entry in PUBLISHED["segmentation_weights"]
    for name in ZOO
    if ZOO[name].url == entry["url"]
}
RECIPES = {name: PUBLISHED["recipes"][entry["config"]] for name, entry in WEIGHTS.items()}
of_each = pytest.mark.parametrize("name", RECIPES)


def path_of(name):
    return DIRECTORY / f"{name}.py"


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def test_every_published_recipe_has_its_config_and_no_other_config_has_the_name():
    assert {path.stem for path in DIRECTORY.glob("upernet_beit*.py")} == set(RECIPES)
    assert len(RECIPES) == 6


@of_each
def test_the_backbone_is_the_published_one(name, read, built):
    fields, published = read(path_of(name)).model.backbone, dict(RECIPES[name]["backbone"])
    published.pop("rel_pos_bias_interpolation_type", None)  # the published backbone does not take this argument
    with torch.device("meta"):
        trunk = timm.create_model(fields.variant, **fields.get("model_options", {}))
    block, backbone = trunk.blocks[0], built(path_of(name)).model.backbone
    assert published == {
        "patch_size": trunk.patch_embed.patch_size[0],
        "embed_dim": trunk.embed_dim,
        "depth": len(trunk.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / trunk.embed_dim,
        "qkv_bias": block.attn.q_bias is not None,
        "use_abs_pos_emb": trunk.pos_embed is not None,
        "use_rel_pos_bias": block.attn.relative_position_bias_table is not None,
        "img_size": fields.img_size,
        "init_values": published["init_values"],
        "drop_path_rate": fields.drop_path_rate,
        "out_indices": list(backbone.out_indices),
    }
    assert len(backbone.list_blocks()) == published["depth"]
    assert fields.init_cfg == {"type": "Pretrained", "checkpoint": f"xcit://{WEIGHTS[name]['init']}"}


@of_each
def test_a_file_with_the_published_names_fills_the_model(name, built):
    entries = {
        entry: torch.zeros(()).expand(shape) for entry, shape in read_names("beit_keys")[WEIGHTS[name]["keys"]].items()
    }
    model = built(path_of(name)).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model on the meta device keeps no values
        result = model.load_state_dict(entries, strict=False)
    assert [entry for entry in result.missing_keys if not entry.endswith(COUNTER)] == []
    assert result.unexpected_keys == []


@of_each
def test_the_gains_start_at_the_published_value(name, read):
    fields = read(path_of(name)).model.backbone
    options = {**fields.get("model_options", {}), "depth": 1, "img_size": 32}
    trunk = timm.create_model(fields.variant, **options)
    assert trunk.blocks[0].gamma_1.unique().tolist() == pytest.approx([RECIPES[name]["backbone"]["init_values"]])


@of_each
def test_the_heads_and_the_windows_are_the_published_ones(name, read):
    model, recipe = library_parts(plain(read(path_of(name)).model.to_dict())), RECIPES[name]
    assert model["decode_head"] == head_fields(recipe["decode_head"])
    assert model["auxiliary_head"] == head_fields(recipe["auxiliary_head"])
    assert model["test_cfg"] == recipe["test_cfg"]


def resized(pipeline, crop):
    """The published pipeline of crop 640, for another crop."""
    assert crop in (512, 640)
    sizes = {640: crop, 2560: 4 * crop}

    def change(node):
        if isinstance(node, dict):
            return {key: change(value) for key, value in node.items()}
        if isinstance(node, list):
            return [change(value) for value in node]
        return sizes.get(node, node)

    return change(pipeline)


@of_each
def test_images_are_prepared_as_published(name, read):
    config, recipe = read(path_of(name)), RECIPES[name]
    (crop,) = set(recipe["crop_size"])
    assert WEIGHTS[name]["crop"] == crop
    for loader in ("train", "test"):
        steps, preprocessor = pipeline_steps(resized(PUBLISHED[f"pipeline_{loader}"], crop))
        got = config_steps(config[f"{loader}_dataloader"].dataset.pipeline)
        if loader == "test":  # the published pipeline does not read the ground truth
            got = [step for step in got if step["type"] != "LoadAnnotations"]
            assert steps[1]["scale"] == recipe["resize_scale"]
        assert got == steps
        given = plain(config.model.data_preprocessor.to_dict())
        assert {key: given[key] for key in preprocessor} == preprocessor
    assert config.val_dataloader == config.test_dataloader


@pytest.mark.parametrize("name", ["upernet_beit_b", "upernet_beit_l"])
def test_no_size_of_the_augmented_test_has_a_short_side_below_the_crop(name, read):
    (published,) = (step for step in PUBLISHED["pipeline_test_multi_scale"] if step["type"] == "MultiScaleFlipAug")
    resizes = read(path_of(name)).tta_pipeline[1].transforms[0]
    image = np.zeros((300, 500, 3), np.uint8)
    sides = []
    for step in resizes:
        result = TRANSFORMS.build(step)({"img": image, "img_shape": image.shape[:2], "seg_fields": []})
        height, width = result["img"].shape[:2]
        assert width == round(height * 500 / 300)
        sides.append(height)
    assert sides == [max(int(640 * ratio), 640) for ratio in published["img_ratios"]]
    flips = read(path_of(name)).tta_pipeline[1].transforms[1]
    assert [flip.prob for flip in flips] == [0.0, 1.0]


@of_each
def test_each_parameter_learns_and_decays_as_published(name, learning, built):
    optimizer, model = RECIPES[name]["optimizer"], built(path_of(name)).model
    rule = optimizer["paramwise_cfg"]
    last = rule["num_layers"] + 1

    def layer(parameter):
        block = re.search(r"^backbone\.(?:\w+\.)*?blocks\.(\d+)\.", parameter)
        if block:
            return int(block[1]) + 1
        return 0 if re.search(r"^backbone\..*(patch_embed|cls_token)", parameter) else last

    expected = {}
    for parameter, value in model.named_parameters():
        rate = optimizer["lr"] * rule["layer_decay_rate"] ** (last - layer(parameter))
        decays = value.ndim > 1 and not parameter.endswith(".bias")
        expected[parameter] = rate, optimizer["weight_decay"] * decays
    got = learning(path_of(name))
    assert got.keys() == expected.keys()
    for parameter, values in expected.items():
        assert got[parameter] == pytest.approx(values, rel=1e-12), parameter
    assert len({rate for rate, _ in got.values()}) == rule["num_layers"] + 2
    defaults = built(path_of(name)).optim.optimizer.defaults
    assert (list(defaults["betas"]), optimizer["type"]) == (optimizer["betas"], "AdamW")


@of_each
def test_batches_and_updates_are_the_published_ones(name, read, built):
    config, recipe = read(path_of(name)), RECIPES[name]
    assert config.train_dataloader.batch_size == recipe["samples_per_gpu"]
    assert config.train_cfg.max_iters == recipe["max_iters"]
    accumulated = built(path_of(name)).optim._accumulative_counts
    assert accumulated == recipe["update_interval"]
    assert config.train_cfg.max_iters // accumulated == recipe["updates"]
    assert config.auto_scale_lr.base_batch_size == 8 * recipe["samples_per_gpu"]
    assert config.optim_wrapper.type == "AutoAmpOptimWrapper"
    assert not built(path_of(name)).optim.clip_grad_kwargs


@of_each
def test_the_rate_falls_in_a_line_times_the_warm_up_as_published(name, read, learning_rates):
    rule, highest, length = RECIPES[name]["lr_config"], RECIPES[name]["optimizer"]["lr"], RECIPES[name]["max_iters"]
    assert [rule[key] for key in ("policy", "warmup", "by_epoch")] == ["poly", "linear", False]
    assert (rule["power"], rule["min_lr"]) == (1, 0)
    iteration = np.arange(length)
    expected = highest * (1 - iteration / length)
    expected *= 1 - (1 - np.minimum(iteration / rule["warmup_iters"], 1)) * (1 - rule["warmup_ratio"])
    np.testing.assert_allclose(learning_rates(read(path_of(name))), expected, rtol=1e-7)


@of_each
def test_a_leaf_contains_only_what_differs_from_its_base(name):
    assert len(path_of(name).read_text().splitlines()) <= 21


# No published figures

OTHERS = {
    "upernet_cait_s24": "segmentation/upernet_xcit_s24",
    "sem_fpn_cait_s24": "segmentation/sem_fpn_xcit_s24",
    "upernet_dinov2_b": "segmentation/upernet_beitv2_b",
    "mask_rcnn_cait_xxs24": "detection/mask_rcnn_xcit_t24",
    "mask_rcnn_dinov2_b": "detection/mask_rcnn_xcit_s12",
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_config_without_published_figures_says_so_and_takes_the_recipe_of_a_published_one(name, changes):
    other = DIRECTORY.parent / f"{OTHERS[name]}.py"
    path = other.with_stem(name)
    assert path.read_text().startswith("# No figures were published for this one.")
    own = ("model.backbone.", "model.neck.in_channels", "model.neck.out_channels")
    own += ("model.decode_head.in_channels", "model.auxiliary_head.in_channels")
    if name == "mask_rcnn_dinov2_b":
        own += ("optim_wrapper.constructor", "optim_wrapper.paramwise_cfg.layer_decay")
    assert not [key for key in changes(path, other) if not key.startswith(own)]
    rates = "model.backbone.drop_path_rate"
    assert rates not in changes(path, other) or name == "mask_rcnn_dinov2_b"
    assert path.stem not in {Path(weights.config).stem for weights in ZOO.values() if weights.config}
