"""Changes a config to read images with any number of bands and any depth."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS

from xcit_dense.datasets.checks.sample import mark_sample
from xcit_dense.datasets.statistics import Statistics, measure
from xcit_dense.errors import UserError
from xcit_dense.media.bands import read_bands
from xcit_dense.media.images import open_image
from xcit_dense.mm.bands import LoadBands
from xcit_dense.mm.config.dataset_class import is_a, type_of
from xcit_dense.mm.config.libraries import prints_logged
from xcit_dense.mm.config.walk import datasets_in, dicts_in, name_of
from xcit_dense.utils.progress import tracked
from xcit_dense.utils.ranks import is_local_rank_zero

MEASURED = 200
"""This many training images, evenly spread, give the mean and the standard deviation of the bands."""

_FOR_COLOURS = {
    *("Albu", "AutoAugment", "RandAugment", "Corrupt", "PhotoMetricDistortion", "YOLOXHSVRandomAug"),
    *("AutoContrast", "Brightness", "Color", "ColorTransform", "Contrast", "Equalize", "Invert", "Posterize"),
    *("Sharpness", "Solarize", "SolarizeAdd", "AdjustGamma", "CLAHE", "Rerange", "RGB2Gray"),
}
"""Transforms of the libraries for three channels with values from 0 to 255."""


def read_numbers(text: str, option: str) -> list[int]:
    """Reads the numbers of bands from the command line.

    Args:
        text: Numbers with commas between them.
        option: The name of the option.

    Returns:
        The numbers.

    Raises:
        UserError: The text is something else.

    Example:
        >>> read_numbers("4,3,2", "--bands")
        [4, 3, 2]
    """
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdecimal() and int(number) >= 1 for number in numbers):
        raise UserError(
            f"{option} {text} does not name bands; write their numbers, counted from 1, for example {option} 4,3,2."
        )
    return [int(number) for number in numbers]


def bands_of(config: Config) -> list[int] | None:
    """Returns the bands that a config reads, in their order. None if the config reads ordinary images.

    Args:
        config: A complete config.
    """
    loader = next((node for node in dicts_in(config._cfg_dict) if _loads_bands(node)), None)
    return list(loader["bands"]) if loader else None


def use_bands(config: Config, bands: str | None, drawn: str | None = None, normalize: str | None = None) -> None:
    """Changes a config to read bands of the images, and prints what changes.

    The loader of each pipeline and the backbone's ``in_channels`` change, and augmentations for three channels with 8
    bits are left out. The images are normalised by the mean and the standard deviation of the training images, which
    then are part of the config.

    Args:
        config: A complete config, which is changed. Its data sets exist if ``normalize`` is ``'data'``.
        bands: Numbers with commas between them, as for :func:`xcit_dense.media.bands.read_bands`. None keeps the loader
            of the config.
        drawn: The bands that drawings show, as for :class:`xcit_dense.mm.bands.LoadBands`.
        normalize: ``'data'`` measures the mean and the standard deviation. ``'config'`` keeps the values of the config.
            ``'auto'`` keeps the values of a config that reads these bands already, and measures otherwise. None keeps
            them too, and refuses otherwise.

    Raises:
        UserError: The bands do not fit the images or the config, or the normalisation is not known.
    """
    before = bands_of(config)
    if bands is not None:
        numbers = read_numbers(bands, "--bands")
        if numbers != before:
            if normalize is None:
                raise UserError(
                    f"--bands {bands} needs the mean and the standard deviation of each band; give the work directory "
                    "of the training, whose config contains them, or write --normalize data to measure them."
                )
            normalize = "data" if normalize == "auto" else normalize
            _set_loader(config, numbers)
            _set_channels(config, len(numbers))
            _leave_out_colours(config)
    numbers = bands_of(config) or []
    if drawn is not None:
        if not numbers:
            raise UserError("--draw-bands chooses among the bands of --bands; write --bands too.")
        _set_loader(config, numbers, read_numbers(drawn, "--draw-bands"))
    if normalize == "data":
        _set_statistics(config, numbers)
    elif numbers:
        _keep_statistics(config, len(numbers))


def _loads_bands(node: Any) -> bool:
    kind = node.get("type")
    return kind is LoadBands or (isinstance(kind, str) and kind.rpartition(".")[2] == "LoadBands")


def _set_loader(config: Config, bands: list[int], drawn: list[int] | None = None) -> None:
    loader = LoadBands(bands, drawn)  # raises an error if the bands do not fit
    for node in list(dicts_in(config._cfg_dict)):
        if _loads_bands(node) or is_a(config, node, "LoadImageFromFile", TRANSFORMS):
            node.clear()
            node.update(type="LoadBands", bands=loader.bands, drawn=loader.drawn)


def _set_channels(config: Config, count: int) -> None:
    backbone = (config.get("model") or {}).get("backbone")
    if not isinstance(backbone, dict):
        raise UserError("--bands sets model.backbone.in_channels, but the config has no model.backbone; write one.")
    kind = type_of(config, backbone, MODELS)
    bases: tuple[Any, ...] = inspect.getmro(kind) if inspect.isclass(kind) else ()
    if not any("in_channels" in inspect.signature(base.__init__).parameters for base in bases):
        raise UserError(
            f"--bands sets model.backbone.in_channels, but {backbone.get('type')} has no argument in_channels; take a "
            "backbone that has one, for example XCiT."
        )
    backbone["in_channels"] = count


def _leave_out_colours(config: Config) -> None:
    found: set[str] = set()

    def without(node: Any) -> Any:
        if isinstance(node, dict):
            for key, value in node.items():
                node[key] = without(value)
        elif isinstance(node, list | tuple):
            return type(node)(without(item) for item in node if not is_for_colours(item))
        return node

    def is_for_colours(item: Any) -> bool:
        name = name_of(item) if isinstance(item, dict) else ""
        if name in _FOR_COLOURS:
            found.add(name)
        return name in _FOR_COLOURS

    without(config._cfg_dict)
    if found:
        _report(f"Left out, because they need three channels of 8 bits: {', '.join(sorted(found))}.")


def _preprocessor_of(config: Config) -> Any:
    settings = config.model.get("data_preprocessor") or config.get("data_preprocessor")
    if not settings:
        raise UserError("The config has no model.data_preprocessor; take one of configs/_base_/models into its _base_.")
    return settings


def _keep_statistics(config: Config, count: int) -> None:
    settings = _preprocessor_of(config)
    mean, std = list(settings.get("mean") or []), list(settings.get("std") or [])
    if len(mean) != count or len(std) != count:
        raise UserError(
            f"The config reads {count} bands, but has {len(mean)} means and {len(std)} standard deviations in "
            "model.data_preprocessor; write --normalize data to measure them."
        )
    _set_preprocessor(settings, mean, std)


def _set_statistics(config: Config, bands: list[int]) -> None:
    settings = _preprocessor_of(config)
    found = _measure(config, bands)
    mean, std = found.mean, found.std
    numbers = f"mean {_listed(mean)}, standard deviation {_listed(std)}"
    if bands:
        _report(f"Bands {','.join(map(str, bands))} of {found.images} training images: {numbers}.")
        _set_preprocessor(settings, mean, std)
        return
    _report(f"Red, green and blue of {found.images} training images: {numbers}.")
    is_rgb = settings.get("bgr_to_rgb") or settings.get("rgb_to_bgr")  # both swap channels, and images are read as BGR
    settings.update(mean=mean if is_rgb else mean[::-1], std=std if is_rgb else std[::-1])


def _set_preprocessor(settings: Any, mean: list[float], std: list[float]) -> None:
    if settings["type"] != "BandsPreprocessor":
        settings["base"] = settings["type"]
    settings.update(type="BandsPreprocessor", mean=mean, std=std, bgr_to_rgb=False, rgb_to_bgr=False)


def _measure(config: Config, bands: list[int]) -> Statistics:
    paths: list[str] = []
    for leaf in datasets_in(config.get("train_dataloader")):
        with prints_logged(), DATASETS.switch_scope_and_registry(config.get("default_scope")) as registry:
            dataset = registry.build({**leaf, "pipeline": [], "serialize_data": False})
        paths += [dataset.get_data_info(number)["img_path"] for number in range(len(dataset))]
    chosen = [path for path, is_sampled in mark_sample(paths, MEASURED) if is_sampled]

    def read() -> Iterator[npt.NDArray[Any]]:
        for path in tracked("images measured", chosen):
            yield read_bands(path, bands) if bands else np.asarray(open_image(Path(path)))

    return measure(read())


def _listed(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _report(line: str) -> None:
    if is_local_rank_zero():
        print(line, flush=True)
