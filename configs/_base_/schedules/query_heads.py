# What detectors with queries share: the optimizer of XCiT's published detection recipe. As in the recipes of these
# heads, the backbone learns at a tenth of the rate, and embeddings of queries and levels do not have weight decay.
_base_ = "./mask_rcnn_3x.py"

embedding = dict(decay_mult=0.0)
backbone_norm = dict(lr_mult=0.1, decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(
        # Of the keys in a parameter's name, the longest applies. So the norms of the backbone have keys of their own.
        custom_keys={
            "backbone": dict(lr_mult=0.1),
            "backbone.norm": backbone_norm,
            **{f"backbone.blocks.{block}.norm": backbone_norm for block in range(24)},
            "query_embed": embedding,
            "query_feat": embedding,
            "level_embed": embedding,
        }
    )
)
