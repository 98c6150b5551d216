"""Published recipes in the fields of MMDetection 3.x and MMSegmentation 1.x.

The recipes were written for MMDetection 2.x and MMSegmentation 0.x. The functions here rename their fields, so that a
test can compare a config with a recipe field by field.
"""

NORMALISED = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}
IGNORED = ("nms_across_levels", "nms_post")  # MMDetection 3.x reads max_per_img instead


def plain(node):
    """Nested dictionaries and lists, with lists in place of tuples."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list | tuple) else node


def library_parts(node):
    """Names the parts of the libraries in the place of the faster parts. Their own tests compare the two.

    The overlaps of an assigner are left out where they are the default.
    """
    if isinstance(node, list):
        return [library_parts(value) for value in node]
    if not isinstance(node, dict):
        return node
    fields = {key: library_parts(value) for key, value in node.items()}
    if isinstance(fields.get("type"), str):
        fields["type"] = fields["type"].removeprefix("Fused")
    if fields.get("iou_calculator") == {"type": "BboxOverlaps2D"}:
        del fields["iou_calculator"]
    return fields


def head_fields(node):
    """The fields of heads, and of their training and test settings."""
    if isinstance(node, list):
        return [head_fields(value) for value in node]
    if not isinstance(node, dict):
        return node
    fields = {key: head_fields(value) for key, value in node.items() if key not in IGNORED}
    for key in IGNORED:
        if key in node:
            assert node[key] in (False, node["max_per_img"])
    if fields.get("type") == "SyncBN":
        assert fields.pop("requires_grad") is True  # the default
    return fields


def pipeline_steps(published):
    """The steps of a pipeline, and the options that the data preprocessor now has."""
    steps, preprocessor = [], {}
    for step in published:
        options = {key: value for key, value in step.items() if key != "type"}
        match step["type"]:
            case "MultiScaleFlipAug":
                assert options["flip"] is False
                inner, more = pipeline_steps(options["transforms"])
                preprocessor |= more
                steps += [{**inner[0], "scale": options["img_scale"]}, *inner[1:]]
            case "AutoAugment":
                transforms = [pipeline_steps(policy)[0] for policy in options["policies"]]
                steps.append({"type": "RandomChoice", "transforms": transforms})
            case "Resize" if options.pop("multiscale_mode", None) == "value":
                options.pop("override", None)
                scales = options.pop("img_scale")
                steps.append({"type": "RandomChoiceResize", "scales": scales, **options})
            case "Resize" if "ratio_range" in options:
                scale = options.pop("img_scale")
                steps.append({"type": "RandomResize", "scale": scale, **options, "keep_ratio": True})  # the default
            case "RandomFlip":
                if options:  # without a probability, a test does not flip
                    steps.append({"type": "RandomFlip", "prob": options.get("prob", options.get("flip_ratio"))})
            case "Normalize":
                assert options == NORMALISED
                preprocessor |= {"mean": options["mean"], "std": options["std"], "bgr_to_rgb": options["to_rgb"]}
            case "Pad":
                names = {"size_divisor": "pad_size_divisor"}
                preprocessor |= {names.get(name, name): value for name, value in options.items()}
            case "DefaultFormatBundle" | "ImageToTensor" | "Collect":
                pass  # one step at the end
            case _:
                steps.append(step)
    return steps, preprocessor


def config_steps(pipeline):
    """The steps of a config's pipeline that change images: without the last step, which packs them."""
    *steps, last = plain(pipeline)
    assert last["type"].startswith("Pack")
    return steps
