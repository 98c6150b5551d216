"""The detection configs of CoaT equal their published recipes, field by field."""

from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.registry import DefaultScope

from tests.helpers.recipes import config_steps, head_fields, library_parts, pipeline_steps, plain
from tests.helpers.reference import read_reference

DIRECTORY = Path(__file__).parents[2] / "configs" / "detection"
PUBLISHED = read_reference("seeds/coat_coco")
RECIPES = {
    f"{recipe['head']}_{recipe['arch']}{'_1x' if recipe['schedule'] == '1x' else ''}": recipe
    for recipe in PUBLISHED["detection"].values()
}
SHARED = PUBLISHED["shared"]
of_each = pytest.mark.parametrize("name", RECIPES)


def path_of(name):
    return DIRECTORY / f"{name}.py"


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def test_every_published_recipe_has_its_config_and_no_other_config_has_the_name():
    configs = {path.stem for path in DIRECTORY.glob("*_coat_*.py") if not path.stem.endswith("_shapes")}
    assert configs == set(RECIPES)
    assert len(RECIPES) == 12


@of_each
def test_the_heads_and_their_settings_are_the_published_ones(name, read):
    model = library_parts(plain(read(path_of(name)).model.to_dict()))
    published = head_fields(PUBLISHED[RECIPES[name]["head"]])
    assert {part: model[part] for part in published} == published
    assert published.keys() == {"rpn_head", "roi_head", "train_cfg", "test_cfg"}
    assert model["type"] == {"mask_rcnn": "MaskRCNN", "cascade_mask_rcnn": "CascadeRCNN"}[RECIPES[name]["head"]]


@of_each
def test_the_backbone_and_the_neck_are_the_published_ones(name, read, built, describe):
    recipe, backbone = RECIPES[name], read(path_of(name)).model.backbone
    assert backbone.variant == recipe["arch"]
    assert backbone.get("drop_path_rate", 0.0) == recipe["backbone"]["drop_path_rate"]
    assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": f"xcit://{recipe['arch']}"}
    model = built(path_of(name)).model
    assert list(model.backbone.out_channels) == recipe["backbone"]["embed_dims"]
    assert describe(model.neck, "in_channels out_channels num_outs") == recipe["fpn"]


@of_each
def test_images_are_prepared_as_published(name, read):
    config = read(path_of(name))
    assert SHARED["samples_per_gpu"] == config.train_dataloader.batch_size
    assert SHARED["samples_per_gpu"] * SHARED["gpus"] == config.auto_scale_lr.base_batch_size
    for loader, published in (("train", SHARED["pipeline_train"]), ("test", SHARED["pipeline_test"])):
        steps, preprocessor = pipeline_steps(published)
        got = config_steps(config[f"{loader}_dataloader"].dataset.pipeline)
        if loader == "test":  # the published pipeline does not read the ground truth
            got = [step for step in got if step["type"] != "LoadAnnotations"]
        assert got == steps
        given = plain(config.model.data_preprocessor.to_dict())
        assert {key: given[key] for key in preprocessor} == preprocessor


@of_each
def test_every_parameter_learns_and_decays_as_published(name, learning, built):
    optimizer = SHARED["optimizer"]
    assert optimizer["paramwise_cfg"] is None
    assert set(learning(path_of(name)).values()) == {(optimizer["lr"], optimizer["weight_decay"])}
    optim = built(path_of(name)).optim
    assert type(optim.optimizer).__name__ == optimizer["type"]
    assert list(optim.optimizer.defaults["betas"]) == optimizer["betas"]
    assert SHARED["optimizer_config"]["use_fp16"] is True
    assert built(path_of(name)).config.optim_wrapper.type == "AutoAmpOptimWrapper"
    assert not optim.clip_grad_kwargs
    assert optim._accumulative_counts == SHARED["optimizer_config"]["update_interval"]


@of_each
def test_the_rate_warms_up_and_falls_as_published(name, read, learning_rates):
    rule, recipe = SHARED["lr_policy"], RECIPES[name]
    assert (rule["policy"], rule["warmup"]) == ("step", "linear")
    epoch_length = 20
    rates = learning_rates(read(path_of(name)), epoch_length)
    assert len(rates) == recipe["max_epochs"] * epoch_length
    for iteration, rate in enumerate(rates):
        warm_up = 1 - (1 - min(iteration / rule["warmup_iters"], 1)) * (1 - rule["warmup_ratio"])
        fallen = sum(iteration // epoch_length >= epoch for epoch in recipe["lr_steps"])
        assert rate == pytest.approx(SHARED["optimizer"]["lr"] * warm_up * 0.1**fallen, rel=1e-9), iteration


@of_each
def test_a_leaf_contains_only_what_differs_from_its_base(name):
    assert len(path_of(name).read_text().splitlines()) <= 10
