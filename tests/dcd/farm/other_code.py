"""A daemon whose checkpoints have other code: `python other_code.py ARGUMENTS` is `dcd ARGUMENTS`."""

import sys

from dcd.planning import labels
from dcd.platform.host_labels import of_code

CODE = "0123456789ab"

if __name__ == "__main__":
    labels.code_label = lambda: of_code(CODE)  # type: ignore[assignment]
    from dcd.main import main

    sys.exit(main(sys.argv[1:]))
