"""Writes a checkpoint of any dialect anew, as weights alone: python tools/convert_checkpoint.py IN OUT.safetensors."""

import argparse

from xcit_dense.errors import exit_with_sentence


@exit_with_sentence
def main() -> None:
    """Reads the command line, converts, and says what was written."""
    parser = argparse.ArgumentParser(description="Write a checkpoint of any dialect anew, as weights alone.")
    parser.add_argument("checkpoint", metavar="IN", help="a file, an address, or a name as in xcit://coco/small_12_p16")
    parser.add_argument("out", metavar="OUT", help="file to write, .safetensors or .pth")
    parser.add_argument("--whole", action="store_true", help="keep neck and heads; by default the backbone alone")
    args = parser.parse_args()

    from xcit_dense.convert import convert_checkpoint

    report = convert_checkpoint(args.checkpoint, args.out, args.whole)
    left_out = f", {len(report.left_out)} of the classifier left out" if report.left_out else ""
    missing = f"; {len(report.missing)} of the pyramid were not in it" if report.missing else ""
    print(f"{args.out}: {len(report.matched)} entries of {args.checkpoint}{left_out}{missing}")


if __name__ == "__main__":
    main()
