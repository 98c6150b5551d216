"""``python -m xcit_dense``: the same command as ``xcit-dense``."""

from xcit_dense.cli.main import main

if __name__ == "__main__":
    main()
