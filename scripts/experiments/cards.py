"""Draws the pictures of the methods' cards, docs/images/methods/NAME.svg.

    python scripts/experiments/cards.py max_norm drop_connect
    python scripts/experiments/cards.py --all

Each is drawn by a function in card_pictures, from the package's own code on small synthetic input, and is the
same each time on one machine and one version of matplotlib.
"""

import argparse
import time
from pathlib import Path

from card_pictures import PICTURES
from card_pictures.style import save

FOLDER = Path(__file__).parents[2] / "docs" / "images" / "methods"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    parser.add_argument("--all", action="store_true", help="draw all of them")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in PICTURES]:
        parser.error(f"no picture is named {', '.join(unknown)}; there are {', '.join(PICTURES)}")
    for name in PICTURES if args.all else args.names:
        start = time.perf_counter()
        path = save(PICTURES[name](), args.folder / name)
        print(
            f"{path}: {path.stat().st_size / 1000:.0f} kB in {time.perf_counter() - start:.1f} s", flush=True
        )


if __name__ == "__main__":
    main()
