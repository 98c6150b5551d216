"""Writes a checkpoint of any dialect anew, as weights alone: python tools/convert_checkpoint.py IN OUT.safetensors."""

import argparse

from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.cli.options import find_checkpoint


@exit_with_sentence
def main() -> None:
    """Reads the command line, converts, and says what was written."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint of any dialect anew, as weights alone. What else it holds is not kept: the "
        "optimizer's state, and meta such as class names."
    )
    parser.add_argument(
        "checkpoint", metavar="IN", help="a file, a work directory, an address, or a name as coco/small_12_p16"
    )
    parser.add_argument("out", metavar="OUT", help="file to write, .safetensors or .pth")
    parser.add_argument("--whole", action="store_true", help="keep neck and heads; by default the backbone alone")
    args = parser.parse_args()

    from xcit_dense.models.convert import convert_checkpoint

    report = convert_checkpoint(find_checkpoint(args.checkpoint), args.out, args.whole)
    print(f"{args.out}: {report}")


if __name__ == "__main__":
    main()
