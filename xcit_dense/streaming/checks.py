"""Whether a backbone can be computed by parts of an image: only plain XCiTs in evaluation mode."""

from __future__ import annotations

from timm.layers import DropPath, LayerNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from xcit_dense.errors import UserError
from xcit_dense.models.backbone import Backbone
from xcit_dense.models.blocks import LPI, MLP, ConvPatchEmbed, PositionalEncodingFourier, XCABlock
from xcit_dense.models.pyramid import Level, MaxPool
from xcit_dense.models.xca import XCA
from xcit_dense.models.xcit import XCiT
from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.norms import SyncBatchNorm

_PARTS = frozenset(
    (
        *(ConvPatchEmbed, PositionalEncodingFourier, XCABlock, XCA, LPI, MLP, Level, MaxPool),
        *(nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.GELU, nn.Identity, nn.Dropout, DropPath),
        *(nn.LayerNorm, LayerNorm2d, nn.BatchNorm2d, SyncBatchNorm, nn.Sequential, nn.ModuleList),
    )
)
"""The modules of an XCiT. Only of these modules it is known on which neighbours a token depends."""


def check_parts(backbone: nn.Module) -> XCiT:
    """Checks that a backbone is an XCiT whose modules are its own, without hooks.

    A hook would get a part of the image in place of the image. A layer of another type may look further than the
    layer that it replaces.

    Args:
        backbone: A backbone.

    Returns:
        The same backbone.

    Raises:
        UserError: The backbone is another one, or one of its modules is replaced, wrapped, quantized, parametrized or
            has a hook. The message names the module.
    """
    if not isinstance(backbone, XCiT):
        name = backbone.name if isinstance(backbone, Backbone) else type(backbone).__name__
        raise UserError(
            f"{name} cannot be computed by parts of an image, because its attention compares all tokens with each "
            "other; use an XCiT, or predict by windows."
        )
    for name, module in backbone.named_modules():
        kind = plain_type(module)
        if kind is None or (kind not in _PARTS and module is not backbone):
            reason = "has a hook or a parametrized weight" if kind is None else f"is a {kind.__name__}"
            raise UserError(
                f"{backbone.name} cannot be computed by parts of an image, because the module {name or 'backbone'!r} "
                f"{reason}; merge adapters into the weights and remove hooks."
            )
    return backbone


def check_eval(backbone: XCiT, drops_blocks: bool = False) -> None:
    """Checks that no module of a backbone depends on the complete image because of its training mode.

    Args:
        backbone: The backbone.
        drops_blocks: Whether stochastic depth in training mode is allowed, because the caller draws once for an image.

    Raises:
        UserError: A batch norm, or a dropout with a probability above 0, is in training mode.
    """
    for name, module in backbone.named_modules():
        if not module.training:
            continue
        if isinstance(module, _BatchNorm):
            remedy = "norm_eval=True"
        elif isinstance(module, nn.Dropout) and module.p > 0:
            remedy = "drop_rate=0 and attn_drop_rate=0"
        elif isinstance(module, DropPath) and module.drop_prob > 0 and not drops_blocks:
            remedy = "drop_path_rate=0"
        else:
            continue
        raise UserError(
            f"The module {name!r} of {backbone.name} is in training mode, in which it depends on the complete image; "
            f"call backbone.eval() first. For training, build the backbone with {remedy}."
        )
