"""The rule for positional arguments, the same for all subcommands: ``[CONFIG] [WEIGHTS] [INPUT ...]``.

The first argument is a config if it ends in ``.py`` or is the name of a shipped config. Otherwise it is weights: a
checkpoint, a work directory, a saved model, an address or a published name. Weights of a detector or segmentor lead to
the config (:func:`xcit_dense.weights.locate.locate_model`). All that follows the weights is input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xcit_dense.cli.shipped_configs import find_config, is_config
from xcit_dense.errors import UserError
from xcit_dense.export import SUFFIXES
from xcit_dense.utils.configs import config_in
from xcit_dense.weights.zoo import SCHEME, ZOO


@dataclass(frozen=True)
class Positionals:
    """What the positional arguments of a command mean.

    Attributes:
        config: The file that contains the config: the config's own file, or the file of weights.
        weights: The weights as the user wrote them; None where a command takes none.
        inputs: What follows the weights.
        work_dir: The work directory that the config comes from; None where the user named the config.
    """

    config: Path
    weights: str | None
    inputs: tuple[str, ...]
    work_dir: Path | None = None


def read_config_argument(words: Sequence[str]) -> Positionals:
    """Reads the arguments of a command that takes only a config: train, browse, config.

    Args:
        words: The positional arguments. A work directory means the config in it.

    Raises:
        UserError: There is no such config, or more than one argument.

    Example:
        >>> read_config_argument(["mask_rcnn_xcit_s12"]).config.name
        'mask_rcnn_xcit_s12.py'
    """
    _refuse_more(words[1:])
    text = words[0]
    if not is_config(text):
        weights = ZOO.get(text.removeprefix(SCHEME))
        if weights:
            remedy = f"write its config {Path(weights.config).stem!r}" if weights.config else "write a config's name"
            raise UserError(
                f"{text} names weights, and this command takes a config; {remedy}. To start a training from these "
                f"weights, add --cfg-options load_from={SCHEME}{weights.name}."
            )
        if Path(text, "model.safetensors").is_file():
            raise UserError(
                f"{text} is a saved model, which has no settings of a training; write a config. To start a training "
                f"from its weights, add --cfg-options load_from={text}."
            )
        if Path(text).is_dir():
            return Positionals(config_in(Path(text)), None, (), Path(text))
    return Positionals(find_config(text), None, ())


def read_model_arguments(words: Sequence[str], takes_inputs: bool) -> Positionals:
    """Reads the arguments of a command that takes a model: test, predict.

    An exported model has no config. It needs one for a test, so what leads to a config may come before it.

    Args:
        words: The positional arguments.
        takes_inputs: Whether input follows the weights.

    Raises:
        UserError: An argument is missing, is one too many, or does not lead to a config.

    Example:
        >>> read_model_arguments(["coco/small_12_p16", "photos"], takes_inputs=True).config.name
        'mask_rcnn_xcit_s12.py'
    """
    exported = len(words) > 1 and is_exported(words[1])
    if exported and takes_inputs:
        raise UserError(f"{words[1]} is an exported model, which needs no config; leave {words[0]} out.")
    if is_config(words[0]):
        config, rest, work_dir = find_config(words[0]), words[1:], None
        if not rest:
            raise UserError(
                f"{words[0]} is a config, and the weights after it are missing; write a checkpoint, a work directory "
                "or a published name after it."
            )
    else:
        if is_exported(words[0]):
            raise UserError(
                f"{words[0]} is an exported model, which has no config; write the config or the work directory of its "
                "training before it."
            )
        rest = words[1:] if exported else words
        from xcit_dense.weights.locate import locate_model  # imports torch

        model = locate_model(words[0])
        config, work_dir = model.config, model.work_dir
    inputs = tuple(rest[1:])
    if takes_inputs and not inputs:
        raise UserError(f"No input after {rest[0]}; write images, videos or directories after the weights.")
    if not takes_inputs:
        _refuse_more(inputs)
    return Positionals(config, rest[0], inputs, work_dir)


def is_exported(text: str) -> bool:
    """Returns whether an argument means an exported model. The suffix decides.

    Args:
        text: The argument.

    Example:
        >>> is_exported("model.onnx"), is_exported("work_dirs/mine")
        (True, False)
    """
    return text.lower().endswith(SUFFIXES)


def _refuse_more(words: Sequence[str]) -> None:
    if words:
        raise UserError(f"{' '.join(words)} is more than this command takes; leave it out.")
