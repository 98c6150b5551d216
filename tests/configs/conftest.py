"""Fixtures of the tests of the configs: each config is built once and compared with its published recipe."""

import copy
import functools
import json
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

# The published config of this name has patch size 8. Its file name and its AP mean patch size 16.
MISTAKEN_PATCH_SIZE = "mask_rcnn_xcit_medium_24_p16_3x_coco"
# Fields that are compared with the recipe by their effect: the decay of each parameter, the rate at each step.
BY_EFFECT = ("optimizer.paramwise_cfg.", "lr_config.")
# Options of an optimizer that give parameters different rates and decays.
PER_PARAMETER = ("constructor", "paramwise_cfg")


def flatten(node, prefix=""):
    """Flattens nested dictionaries to one dictionary with dotted keys."""
    if not isinstance(node, dict) or not node:
        return {prefix.removesuffix("."): node}
    return {key: value for name, child in node.items() for key, value in flatten(child, f"{prefix}{name}.").items()}


def optim_wrapper_of_one_layer(config):
    """The optimizer of a config, for a model of one layer: all parameters have the same rate."""
    from mmengine.optim import build_optim_wrapper

    options = {name: value for name, value in config.optim_wrapper.items() if name not in PER_PARAMETER}
    return build_optim_wrapper(torch.nn.Linear(1, 1), options)


@pytest.fixture(scope="session")
def read():
    """Reads a config. Each config is read once."""
    from mmengine.config import Config

    return functools.cache(Config.fromfile)


@pytest.fixture(scope="session")
def built(read):
    """A config, its model on the meta device and its optimizer. Each config is built once."""
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, DefaultScope

    @functools.cache
    def build(path):
        config = read(path)
        with DefaultScope.overwrite_default_scope(config.default_scope), torch.device("meta"):
            model = MODELS.build(copy.deepcopy(config.model))  # a detector changes its config
            optim = build_optim_wrapper(model, config.optim_wrapper)
        return SimpleNamespace(config=config, model=model, optim=optim)

    return build


@pytest.fixture(scope="session")
def everything_builds(built):
    """Builds the model, optimizer, pipelines, hooks and schedulers of a config."""
    from mmengine.dataset import Compose
    from mmengine.registry import HOOKS, PARAM_SCHEDULERS, DefaultScope

    def build(path):
        config, optim = built(path).config, built(path).optim
        assert optim.optimizer.param_groups
        pipelines = [config[f"{loader}_dataloader"].dataset.pipeline for loader in ("train", "val", "test")]
        with DefaultScope.overwrite_default_scope(config.default_scope):
            for pipeline in [*pipelines, config.get("tta_pipeline") or pipelines[0]]:
                assert len(Compose(pipeline).transforms) == len(pipeline) > 1
            for hook in config.custom_hooks:
                HOOKS.build(hook)
            wrapper = optim_wrapper_of_one_layer(config)
            for scheduler in config.param_scheduler:
                PARAM_SCHEDULERS.build({**scheduler, "optimizer": wrapper, "epoch_length": 100})

    return build


@pytest.fixture(scope="session")
def learning(built):
    """Rate and decay with which each parameter of a config's model learns, by its name."""

    def rates_and_decays(path):
        names = {id(parameter): name for name, parameter in built(path).model.named_parameters()}
        got = {}
        for group in built(path).optim.optimizer.param_groups:
            for parameter in group["params"]:
                got[names.pop(id(parameter))] = group["lr"], group["weight_decay"]
        assert not names, "parameters that do not learn"
        assert any(name.startswith("backbone.") for name in got)
        return got

    return rates_and_decays


@pytest.fixture(scope="session")
def learning_rates():
    """The learning rates of every iteration of a training, stepped as a Runner steps its schedulers."""
    from mmengine.hooks import ParamSchedulerHook
    from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

    stepped = {}

    def step(config, epoch_length):
        with DefaultScope.overwrite_default_scope(config.default_scope):
            wrapper = optim_wrapper_of_one_layer(config)
            schedulers = [
                PARAM_SCHEDULERS.build({**scheduler, "optimizer": wrapper, "epoch_length": epoch_length})
                for scheduler in config.param_scheduler
            ]
        runner, hook = SimpleNamespace(param_schedulers=schedulers), ParamSchedulerHook()
        by_epoch = "max_epochs" in config.train_cfg
        for iteration in range(config.train_cfg.max_epochs * epoch_length if by_epoch else config.train_cfg.max_iters):
            rates = {group["lr"] for group in wrapper.optimizer.param_groups}
            assert len(rates) == 1
            yield rates.pop()
            hook.after_train_iter(runner, iteration)
            if by_epoch and (iteration + 1) % epoch_length == 0:
                hook.after_train_epoch(runner)

    def rates(config, epoch_length=100):
        # Configs with the same schedule share its steps. The schedules multiply the rate of the optimizer.
        assert all(scheduler.get("eta_min", 0) == 0 for scheduler in config.param_scheduler)
        highest = config.optim_wrapper.optimizer.lr
        key = json.dumps([dict(config.train_cfg), list(config.param_scheduler), epoch_length])
        if key not in stepped:
            stepped[key] = [rate / highest for rate in step(config, epoch_length)]
        return [highest * factor for factor in stepped[key]]

    return rates


# What was published


@pytest.fixture(scope="session")
def recipe_name(read, reference):
    """Name of the published recipe with a leaf's head and variant."""
    recipes = reference("recipes")

    def find(path):
        start = f"{path.stem.partition('_xcit_')[0]}_xcit_{read(path).model.backbone.variant}_"
        (name,) = (name for name in recipes if name.startswith(start))
        return name

    return find


@pytest.fixture(scope="session")
def recipe(recipe_name, reference):
    """The published recipe of a leaf, with its one known mistake corrected."""

    def find(path):
        name = recipe_name(path)
        published = reference("recipes")[name]
        if name == MISTAKEN_PATCH_SIZE:
            assert published["backbone"]["patch_size"] == 8, "no longer mistaken"
            published["backbone"]["patch_size"] = 16
        return published

    return find


@pytest.fixture(scope="session")
def published_fields(recipe):
    """The fields of a leaf's recipe by dotted keys, without those that are tested by their effect."""

    def fields(path):
        every = flatten(recipe(path))
        kept = {key: value for key, value in every.items() if not key.startswith(BY_EFFECT)}
        assert len(every) > len(kept) > 15
        return kept

    return fields


@pytest.fixture(scope="session")
def published_learning(recipe, built):
    """Expected result of :func:`learning`. As in mmcv, the longest key in a name applies, or the first of equals."""

    def rates_and_decays(path):
        optimizer = recipe(path)["optimizer"]
        assert optimizer["paramwise_cfg"].keys() == {"custom_keys"}
        keys = optimizer["paramwise_cfg"]["custom_keys"]
        assert all(value.keys() == {"decay_mult"} for value in keys.values())

        def decay(name):
            found = (keys[key]["decay_mult"] for key in sorted(sorted(keys), key=len, reverse=True) if key in name)
            return optimizer["weight_decay"] * next(found, 1)

        return {name: (optimizer["lr"], decay(name)) for name, _ in built(path).model.named_parameters()}

    return rates_and_decays


@pytest.fixture(scope="session")
def fields(built):
    """The fields that every published recipe has, read from the objects that a config builds."""
    from mmengine.registry import MODELS, DefaultScope

    def eta(config):
        """First value of the gains. To be quick, other values are left out."""
        skipped = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_")
        with mock.patch.multiple(torch.nn.init, **dict.fromkeys(skipped, lambda tensor, *_, **__: tensor)):
            with DefaultScope.overwrite_default_scope(config.default_scope):
                backbone = MODELS.build(config.model.backbone)
            gains = torch.cat([value for name, value in backbone.named_parameters() if "gamma" in name])
        assert len(gains) == 3 * len(backbone.blocks) * backbone.embed_dim
        assert gains.unique().numel() == 1
        return pytest.approx(gains[0].item(), rel=1e-6)

    def read_off(path):
        config, model, optim = vars(built(path)).values()
        backbone, block = model.backbone, model.backbone.blocks[0]
        (drop_path,) = {getattr(each.drop_path, "drop_prob", 0.0) for each in backbone.blocks}
        defaults = optim.optimizer.defaults
        runner = {
            ("EpochBasedTrainLoop", "AutoAmpOptimWrapper"): "EpochBasedRunnerAmp",
            ("IterBasedTrainLoop", "OptimWrapper"): "IterBasedRunner",
        }
        length = {key: value for key, value in config.train_cfg.items() if key.startswith("max_")}
        return flatten(
            {
                "backbone": {
                    "patch_size": backbone.patch_size,
                    "embed_dim": backbone.embed_dim,
                    "depth": len(backbone.blocks),
                    "num_heads": block.attn.num_heads,
                    "mlp_ratio": block.mlp.fc1.out_features / backbone.embed_dim,
                    "qkv_bias": block.attn.qkv.bias is not None,
                    "eta": eta(config),
                    "drop_path_rate": drop_path,
                    "out_indices": list(backbone.out_indices),
                },
                "neck": described(model.neck, "type in_channels out_channels num_outs") if model.with_neck else None,
                "optimizer": {
                    "type": type(optim.optimizer).__name__,
                    **{key: defaults[key] for key in ("lr", "weight_decay")},
                    "betas": list(defaults["betas"]),
                },
                "runner": {"type": runner[config.train_cfg.type, config.optim_wrapper.type], **length},
                "samples_per_gpu": config.train_dataloader.batch_size,
            }
        )

    return read_off


@pytest.fixture(scope="session")
def describe():
    """Reads the named attributes of a module. ``type`` is its class."""
    return described


def described(module, names):
    values = {name: type(module).__name__ if name == "type" else getattr(module, name) for name in names.split()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


# Leaves


@pytest.fixture(scope="session")
def changes(read):
    """Keys in which two configs differ."""
    absent = object()

    def differ(path, other):
        ours, theirs = (flatten(read(each)._cfg_dict.to_dict()) for each in (path, other))
        return {key for key in ours | theirs if ours.get(key, absent) != theirs.get(key, absent)}

    return differ


@pytest.fixture(scope="session")
def starts_from(read):
    """The published weights that a config starts from, None for random ones."""
    from xcit_dense.weights.zoo import SCHEME, ZOO

    def weights(path):
        backbone = read(path).model.backbone
        if not backbone.get("init_cfg"):
            return None
        assert backbone.init_cfg.keys() == {"type", "checkpoint"}
        assert backbone.init_cfg.type == "Pretrained"
        assert backbone.init_cfg.checkpoint.startswith(SCHEME)
        return ZOO[backbone.init_cfg.checkpoint.removeprefix(SCHEME)]

    return weights
