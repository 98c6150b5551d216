"""The fourteen published XCiT variants and the seven published CoaT variants, one table each.

A name of an XCiT gives width, depth and patch size: ``small_12_p16`` has 384 channels, 12 blocks, and one token for
each 16 x 16 pixels. Source: El-Nouby et al. 2021, table 1, and the original model definitions.

CoaT Lite variants have serial blocks only. The others also have parallel blocks, which join the levels at strides 8, 16
and 32. Source: Xu et al. 2021, tables 1 and 2, and the original model definitions.
"""

from __future__ import annotations

from dataclasses import dataclass

from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.moved import old_names

__getattr__ = old_names("variants")


@dataclass(frozen=True)
class Variant:
    """Hyper-parameters of one published XCiT.

    Attributes:
        embed_dim: Width C, channels of a token.
        depth: Number of XCA blocks.
        num_heads: Heads of the cross-covariance attention; divides ``embed_dim``.
        patch_size: Pixels of a token along each side, 8 or 16.

    Example:
        >>> from xcit_dense import VARIANTS
        >>> VARIANTS["small_12_p16"]
        Variant(embed_dim=384, depth=12, num_heads=8, patch_size=16)
        >>> VARIANTS["small_12_p16"].out_indices
        (3, 5, 7, 11)
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int

    @property
    def eta(self) -> float:
        """Initial LayerScale gain: 1 for up to 12 blocks. Deeper models start near the identity, with 1e-5."""
        return 1.0 if self.depth <= 12 else 1e-5

    @property
    def out_indices(self) -> tuple[int, int, int, int]:
        """Blocks whose outputs make the pyramid: after a third, a half, two thirds and all of the depth."""
        return spread_levels(self.depth)


def spread_levels(depth: int) -> tuple[int, int, int, int]:
    """Chooses the blocks whose outputs make the pyramid: after a third, a half, two thirds and all of the depth.

    Args:
        depth: The number of blocks.

    Returns:
        Numbers of blocks, counted from 0.
    """
    return depth // 3 - 1, depth // 2 - 1, (2 * depth + 2) // 3 - 1, depth - 1


VARIANTS: dict[str, Variant] = {
    f"{size}_{depth}_p{patch_size}": Variant(embed_dim, depth, num_heads, patch_size)
    for size, depth, embed_dim, num_heads in (
        ("nano", 12, 128, 4),
        ("tiny", 12, 192, 4),
        ("tiny", 24, 192, 4),
        ("small", 12, 384, 8),
        ("small", 24, 384, 8),
        ("medium", 24, 512, 8),
        ("large", 24, 768, 16),
    )
    for patch_size in (16, 8)
}


def get_variant(name: str) -> Variant:
    """Returns a published variant by its name.

    Args:
        name: For example ``'small_12_p16'`` or ``'xcit_small_12_p16'``.

    Raises:
        UserError: The name is not the name of a published variant. The message lists the names.

    Example:
        >>> from xcit_dense.variants import get_variant
        >>> get_variant("nano_12_p8").embed_dim
        128
    """
    try:
        return VARIANTS[name.removeprefix("xcit_")]
    except KeyError:
        raise UserError(did_you_mean("XCiT variant", name, VARIANTS)) from None


def variant_name(embed_dim: int, depth: int, patch_size: int) -> str | None:
    """Returns the name of the published variant with this shape, or None.

    Example:
        >>> from xcit_dense.variants import variant_name
        >>> variant_name(embed_dim=384, depth=12, patch_size=16)
        'small_12_p16'
    """
    for name, variant in VARIANTS.items():
        if (variant.embed_dim, variant.depth, variant.patch_size) == (embed_dim, depth, patch_size):
            return name
    return None


@dataclass(frozen=True)
class CoaTVariant:
    """Hyper-parameters of one published CoaT.

    Attributes:
        embed_dims: Channels of the four levels.
        serial_depths: Number of serial blocks of each level.
        parallel_depth: Number of parallel blocks.
        mlp_ratios: Hidden channels of the MLPs of each level, divided by the channels of the level.

    Example:
        >>> from xcit_dense.variants import COAT_VARIANTS
        >>> COAT_VARIANTS["coat_mini"].embed_dims
        (152, 216, 216, 216)
        >>> COAT_VARIANTS["coat_mini"].depth
        14
    """

    embed_dims: tuple[int, ...]
    serial_depths: tuple[int, ...]
    parallel_depth: int
    mlp_ratios: tuple[float, ...]

    @property
    def depth(self) -> int:
        """Number of all blocks, serial and parallel."""
        return sum(self.serial_depths) + self.parallel_depth


COAT_VARIANTS: dict[str, CoaTVariant] = {
    "coat_tiny": CoaTVariant((152, 152, 152, 152), (2, 2, 2, 2), 6, (4, 4, 4, 4)),
    "coat_mini": CoaTVariant((152, 216, 216, 216), (2, 2, 2, 2), 6, (4, 4, 4, 4)),
    "coat_small": CoaTVariant((152, 320, 320, 320), (2, 2, 2, 2), 6, (4, 4, 4, 4)),
    "coat_lite_tiny": CoaTVariant((64, 128, 256, 320), (2, 2, 2, 2), 0, (8, 8, 4, 4)),
    "coat_lite_mini": CoaTVariant((64, 128, 320, 512), (2, 2, 2, 2), 0, (8, 8, 4, 4)),
    "coat_lite_small": CoaTVariant((64, 128, 320, 512), (3, 4, 6, 3), 0, (8, 8, 4, 4)),
    "coat_lite_medium": CoaTVariant((128, 256, 320, 512), (3, 6, 10, 8), 0, (4, 4, 4, 4)),
}


def get_coat_variant(name: str) -> CoaTVariant:
    """Returns a published CoaT variant by its name.

    Args:
        name: For example ``'coat_lite_mini'`` or ``'lite_mini'``.

    Raises:
        UserError: The name is not the name of a published variant. The message lists the names.

    Example:
        >>> from xcit_dense.variants import get_coat_variant
        >>> get_coat_variant("coat_tiny").parallel_depth
        6
    """
    try:
        return COAT_VARIANTS[f"coat_{name.removeprefix('coat_')}"]
    except KeyError:
        raise UserError(did_you_mean("CoaT variant", name, COAT_VARIANTS)) from None


def coat_variant_name(variant: CoaTVariant) -> str | None:
    """Returns the name of the published variant with these hyper-parameters, or None.

    Example:
        >>> from xcit_dense.variants import COAT_VARIANTS, coat_variant_name
        >>> coat_variant_name(COAT_VARIANTS["coat_small"])
        'coat_small'
    """
    return next((name for name, published in COAT_VARIANTS.items() if published == variant), None)
