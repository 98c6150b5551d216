"""The fourteen published XCiT variants, one table.

A name says width, depth and patch size: ``small_12_p16`` is 384 channels wide, 12 blocks deep, one token per
16 x 16 pixels. Source: El-Nouby et al. 2021, table 1 and the original model definitions.
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
        patch_size: Pixels per token along each side, 8 or 16.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int

    @property
    def eta(self) -> float:
        """First value of the LayerScale gains: 1 up to 12 blocks; 1e-5 beyond, to start deep trunks near identity."""
        return 1.0 if self.depth <= 12 else 1e-5

    @property
    def out_indices(self) -> tuple[int, int, int, int]:
        """Blocks that feed the pyramid: those after a third, a half, two thirds and all of the depth."""
        return self.depth // 3 - 1, self.depth // 2 - 1, (2 * self.depth + 2) // 3 - 1, self.depth - 1


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
    """Looks a published variant up by name.

    Args:
        name: For example ``'small_12_p16'``; ``'xcit_small_12_p16'`` is understood too.

    Raises:
        UserError: The name is not a published one; the message lists those and the nearest.
    """
    try:
        return VARIANTS[name.removeprefix("xcit_")]
    except KeyError:
        raise UserError(did_you_mean("XCiT variant", name, VARIANTS)) from None


def variant_name(embed_dim: int, depth: int, patch_size: int) -> str | None:
    """Name of the published variant with this shape, or None."""
    for name, variant in VARIANTS.items():
        if (variant.embed_dim, variant.depth, variant.patch_size) == (embed_dim, depth, patch_size):
            return name
    return None
