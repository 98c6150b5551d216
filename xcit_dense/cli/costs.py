"""Parameters and multiply-adds of the published models, in prediction.

``python -m xcit_dense.cli.costs`` computes the table again. Multiply-adds are those of the literal form of XCA, as the
literature counts them, with the heads of the MM libraries. The covariance form, which xcit_dense uses for large images,
needs fewer, and so do fused heads.

- A backbone is counted without the pyramid, class attention and classifier, at the size of its training.
- Mask R-CNN and Cascade Mask R-CNN are counted at 800 x 1344 pixels, with 1000 boxes for each box head and 100 for each
  mask head.
- Semantic FPN and UperNet are counted at 512 x 512 pixels, without the auxiliary head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcit_dense.errors import UserError
from xcit_dense.variants import VARIANTS
from xcit_dense.weights.zoo import ZOO, Weights

if TYPE_CHECKING:
    from torch import nn

SIZES = {"detection": (800, 1344), "segmentation": (512, 512)}
"""Height and width of the image for each task of a complete model."""


@dataclass(frozen=True)
class Cost:
    """What a model costs in prediction.

    Attributes:
        parameters: Millions of parameters.
        multiply_adds: Billions (10^9) of multiply-adds for one image.
    """

    parameters: float
    multiply_adds: float


# For each variant of XCiT: millions of parameters, then billions of multiply-adds.
#            backbone     224     384   Mask R-CNN     Semantic FPN      UperNet
_TABLE = """
nano_12_p16       2.5     0.5     1.6    22.8   189.2     4.4    11.7    29.8   213.8
nano_12_p8        2.5     2.1     6.1    22.6   221.7     4.3    19.6    29.7   221.7
tiny_12_p16       5.6     1.2     3.5    26.2   206.9     8.9    21.7    33.7   218.5
tiny_12_p8        5.6     4.7    13.7    25.9   279.7     8.6    39.4    33.4   236.3
tiny_24_p16      11.0     2.3     6.7    31.6   230.3    14.3    27.4    39.1   224.3
tiny_24_p8       11.0     9.0    26.5    31.3   373.3    14.0    62.2    38.8   259.1
small_12_p16     22.3     4.7    13.7    44.4   296.9    32.2    71.4    53.3   241.8
small_12_p8      22.3    18.2    53.3    43.2   580.7    31.0   140.6    52.1   311.0
small_24_p16     43.7     8.9    26.3    65.8   388.3    53.6    93.7    74.7   264.1
small_24_p8      43.7    35.2   103.5    64.6   946.3    52.4   229.8    73.5   400.1
medium_24_p16    77.6    15.9    46.6   101.2   551.3    94.0   160.9   111.0   304.6
medium_24_p8     77.5    62.5   183.7    99.0  1542.0    91.9   402.5   108.8   546.2
large_24_p16    174.1    35.3   103.8   201.9  1006.7   208.8   348.2   213.6   417.4
large_24_p8     174.0   139.1   408.8   197.0  3210.8   203.9   885.6   208.7   954.7
"""

# For each shape of the other backbones, alone and in a complete model: as above.
_OTHERS = """
beit_base_patch16_224              85.8    17.6
beit_base_patch16_384              86.0    55.5
beit_large_patch16_224            303.4    61.6
beit_large_patch16_384            304.0   191.1
beit_large_patch16_512            304.6   362.0
beitv2_base_patch16_224            85.8    17.6
beitv2_large_patch16_224          303.4    61.6
upernet_beit_b                    161.6   605.1
upernet_beit_l                    438.9  1246.6
upernet_beitv2_b                  161.3   605.0
upernet_beitv2_l                  438.0  1246.4
cait_xxs24_224                     10.9     2.5
cait_xxs24_384                     10.9     9.5
cait_xxs36_224                     16.2     3.7
cait_xxs36_384                     16.3    14.2
cait_xs24_384                      24.4    19.0
cait_s24_224                       43.0     9.2
cait_s24_384                       43.1    31.8
cait_s36_384                       64.4    47.6
cait_m36_384                      256.3   171.6
cait_m48_448                      341.5   327.2
coat_lite_tiny                      5.4     1.6
coat_lite_mini                     10.5     2.0
coat_lite_small                    19.3     3.9
coat_lite_medium                   44.1     9.8
coat_lite_medium_384               44.1    28.6
coat_tiny                           5.3     4.3
coat_mini                          10.1     6.8
coat_small                         21.4    12.5
mask_rcnn_coat_lite_mini           30.7   217.6
mask_rcnn_coat_lite_small          39.5   259.3
mask_rcnn_coat_mini                30.2   321.7
mask_rcnn_coat_small               41.6   445.8
cascade_mask_rcnn_coat_lite_small  77.3   737.6
cascade_mask_rcnn_coat_small       79.4   924.0
"""

AT_800_X_1344 = {
    'XCiT("small_12_p16")': Cost(22.3, 100.2),
    'XCiT("small_12_p8")': Cost(22.3, 389.0),
    'CoaT("coat_lite_small")': Cost(19.3, 84.1),
    'CoaT("coat_small")': Cost(21.4, 268.3),
    'TokenPyramid("cait_xxs24_384")': Cost(10.9, 221.3),
    'TokenPyramid("cait_s24_384")': Cost(43.1, 558.9),
    'TokenPyramid("vit_base_patch14_dinov2")': Cost(86.5, 684.6),
    'TokenPyramid("beit_base_patch16_224")': Cost(85.8, 684.7),
    'TokenPyramid("beit_large_patch16_224")': Cost(303.4, 2139.6),
}
"""Costs of some backbones without pyramid, for an image of 800 x 1344 pixels."""


def cost_of(weights: Weights) -> Cost:
    """Looks up the cost of a published model.

    Args:
        weights: An entry of :data:`xcit_dense.weights.zoo.ZOO`.

    Example:
        >>> from xcit_dense.weights.zoo import ZOO
        >>> cost_of(ZOO["small_12_p16_224"])
        Cost(parameters=22.3, multiply_adds=4.7)
    """
    if weights.backbone != "XCiT":
        return Cost(*map(float, _row(_OTHERS, _key(weights))))
    row = _row(_TABLE, weights.variant)
    backbone, at_224, at_384, *models = map(float, row)
    if weights.config is None:
        return Cost(backbone, at_384 if "_384" in weights.name else at_224)
    head = next(number for number, part in enumerate(("coco/", "/sem_fpn/", "/upernet/")) if part in weights.name)
    return Cost(*models[2 * head : 2 * head + 2])


def _row(table: str, key: str) -> list[str]:
    return next(line.split()[1:] for line in table.splitlines() if line.split()[:1] == [key])


def _key(weights: Weights) -> str:
    """The name of a row of the second table. Weights of one shape have one row."""
    if weights.config:
        return re.sub("_1[xk]$", "", Path(weights.config).stem)
    return weights.name if weights.backbone == "CoaT" else weights.variant


def count_backbone(variant: str, size: int | tuple[int, int], backbone: str = "XCiT") -> Cost:
    """Counts a backbone without its pyramid, on the meta device.

    Args:
        variant: A variant of the backbone: for XCiT, a name of :data:`xcit_dense.VARIANTS`.
        size: The side of a square image, or height and width.
        backbone: The class of the backbone, a name of :mod:`xcit_dense`.
    """
    import torch
    from torch import nn

    import xcit_dense

    with torch.device("meta"):
        model = getattr(xcit_dense, backbone)(variant)
        for name in ("fpn1", "fpn2", "fpn3", "fpn4"):
            if hasattr(model, name):
                setattr(model, name, nn.Identity())
        image = torch.empty(1, 3, *((size, size) if isinstance(size, int) else size))
    return _count([model], lambda: model(image))


def count_model(config: Any) -> Cost:
    """Counts a detector or a segmentor, on the meta device.

    Args:
        config: A complete config of Mask R-CNN, of Cascade Mask R-CNN or of an encoder-decoder.

    Raises:
        UserError: The model is of another kind.
    """
    from importlib import import_module

    import torch
    from mmengine.registry import init_default_scope

    from xcit_dense.mm.config.walk import as_list, name_of

    scope = config.default_scope
    init_default_scope(scope)
    described = deepcopy(config.model)
    for head in as_list(described.get("decode_head")):
        head["type"] = name_of(head).removeprefix("Fused")
    with torch.device("meta"):
        model = import_module(f"{scope}.registry").MODELS.build(described)
        image = torch.empty(1, 3, *SIZES["detection" if scope == "mmdet" else "segmentation"])
        boxes, masks = torch.empty(1000, 256, 7, 7), torch.empty(100, 256, 14, 14)
    parts = [model.backbone]
    if model.with_neck:
        parts.append(model.neck)
    if type(model).__name__ in ("MaskRCNN", "CascadeRCNN"):
        box_heads, mask_heads = (_stages(head) for head in (model.roi_head.bbox_head, model.roi_head.mask_head))

        def run() -> None:
            model.rpn_head(model.extract_feat(image))
            for head in box_heads:
                head(boxes)
            for head in mask_heads:
                head(masks)

        return _count([*parts, model.rpn_head, *box_heads, *mask_heads], run)
    if type(model).__name__ in ("EncoderDecoder", "FusedEncoderDecoder", "ShardedEncoderDecoder"):
        return _count([*parts, model.decode_head], lambda: model.decode_head(model.extract_feat(image)))
    raise UserError(
        f"{type(model).__name__} cannot be counted; give a config of MaskRCNN, CascadeRCNN or EncoderDecoder."
    )


def _stages(head: Any) -> list[Any]:
    """The heads of a cascade, or the one head of another detector."""
    from torch import nn

    return list(head) if isinstance(head, nn.ModuleList) else [head]


def _count(parts: Sequence[nn.Module], run: Callable[[], object]) -> Cost:
    """Counts the parameters of parts of a model, and the multiply-adds of a call."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from xcit_dense.models.xca import XCA

    for part in parts:
        part.eval()
        for module in part.modules():
            if isinstance(module, XCA):
                module.form = "literal"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    return Cost(round(parameters / 1e6, 1), round(counter.get_total_flops() / 2e9, 1))


def _rows() -> list[str]:
    """Computes the table of XCiT."""
    from xcit_dense.cli.options import start_mm
    from xcit_dense.cli.shipped_configs import find_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.weights.zoo import FAMILIES, expand

    start_mm()
    patterns = [str(family.config).rpartition("/")[2] for family in FAMILIES if family.config]
    rows = []
    for variant in VARIANTS:
        small, large = count_backbone(variant, 224), count_backbone(variant, 384)
        cells = [small.parameters, small.multiply_adds, large.multiply_adds]
        for pattern in patterns:
            cost = count_model(load_config(find_config(expand(pattern, variant))))
            cells += [cost.parameters, cost.multiply_adds]
        rows.append(f"{variant:13}" + "".join(f" {cell:7.1f}" for cell in cells))
    return rows


def count_weights(weights: Weights) -> Cost:
    """Counts the model of published weights, on the meta device. Complete models need the MM libraries.

    Args:
        weights: An entry of :data:`xcit_dense.weights.zoo.ZOO`.
    """
    if weights.config is None:
        sizes = re.findall(r"_(\d{3})(?=_|$)", f"{weights.variant}_{weights.name}")
        return count_backbone(weights.variant, int(sizes[-1]) if sizes else 224, weights.backbone)
    from xcit_dense.cli.options import start_mm
    from xcit_dense.cli.shipped_configs import find_config

    start_mm()
    from xcit_dense.mm.config.load import load_config

    return count_model(load_config(find_config(Path(weights.config).stem)))


def _other_rows(published: Iterable[Weights]) -> Iterator[str]:
    """Computes the table of the other backbones."""
    for key, weights in {_key(one): one for one in published if one.backbone != "XCiT"}.items():
        cost = count_weights(weights)
        yield f"{key:33} {cost.parameters:5.1f} {cost.multiply_adds:7.1f}"


if __name__ == "__main__":
    print("\n".join([*_rows(), "", *_other_rows(ZOO.values())]))
