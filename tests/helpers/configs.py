"""What the tests of configs share."""

SIZES = {"n12": "nano_12", "t12": "tiny_12", "t24": "tiny_24", "s12": "small_12", "s24": "small_24"}
SIZES |= {"m24": "medium_24", "l24": "large_24"}


def config_named(head):
    """The variants by the names that the leaves of a head must have."""
    return {
        f"{head}_xcit_{short}{suffix}": f"{size}_{patch}"
        for short, size in SIZES.items()
        for suffix, patch in (("", "p16"), ("_p8", "p8"))
    }
