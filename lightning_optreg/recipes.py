"""The YAML files that come with the package: recipes, overlays and studies, found by name from any folder.

Only the standard library is imported: the program lists them before torch is loaded.
"""

import os
import re
from functools import cache
from itertools import takewhile
from pathlib import Path

from lightning_optreg._nearest import close_names

__all__ = ["FOLDER", "find", "head", "known_as", "names", "similar"]

_INSTALLED = Path(__file__).parent / "configs"  # where the wheel puts them
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"
"""The folder that holds them: in an installed package inside it, in a checkout beside it."""

_SUFFIXES = (".yaml", ".yml")
_CITATION = re.compile(r" \([^()]*\b(?:19|20)\d\d\b[^()]*\)")
_SENTENCE = re.compile(r"(.+?)(?<! al)\.(?: (?=[A-Z])|$)")


@cache
def names() -> tuple[str, ...]:
    """List the names, such as `fashion_mnist/lenet5` and `methods/ema`, in alphabetical order.

    Example:
        >>> "methods/ema" in names()
        True
    """
    files = FOLDER.glob("*/*.yaml")
    return tuple(sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in files))


def find(word: str) -> str:
    """Return the file that a word means: itself if there is such a file, else the one of that name here.

    The folder's own name and the suffix may be there or not, so what the documentation says works in any
    folder: `configs/fashion_mnist/lenet5.yaml`, `fashion_mnist/lenet5`.

    Args:
        word: A path or a name.

    Returns:
        The path as text; the word as it is if it means no file.

    Example:
        >>> Path(find("fashion_mnist/lenet5")).name, find("no_such_file.yaml")
        ('lenet5.yaml', 'no_such_file.yaml')
    """
    if os.path.isfile(os.path.expanduser(word)):
        return word
    name = known_as(word)
    if name not in names():
        return word
    path, here = FOLDER / f"{name}.yaml", Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def known_as(word: str) -> str:
    """Return the name that a word would be here.

    Example:
        >>> known_as("configs/methods/ema.yaml")
        'methods/ema'
    """
    word = word.removeprefix("./").removeprefix("configs/")
    return next((word.removesuffix(end) for end in _SUFFIXES if word.endswith(end)), word)


def similar(word: str) -> str:
    """Return the end of an error message: the names close to a wrong one; empty if there are none.

    Example:
        >>> similar("lenet5_1989"), similar("lars")
        ('; did you mean fashion_mnist/lenet5_1998?', '')
        >>> similar("resnet20.yaml")
        '; did you mean cifar10/resnet20 or fashion_mnist/resnet20?'
    """
    wanted = known_as(word)
    alike = [name for name in names() if name.rpartition("/")[2] == wanted]
    if alike:
        return f"; did you mean {' or '.join(alike)}?"
    if "/" in wanted:
        close = close_names(wanted, names())
        return f"; did you mean {close[0]}?" if close else ""
    close = close_names(wanted, [name.rpartition("/")[2] for name in names()])
    alike = [name for name in names() if close and name.rpartition("/")[2] == close[0]]
    return f"; did you mean {' or '.join(alike)}?" if alike else ""


def head(name: str) -> str:
    """Return the first sentence of the comment at the top of a file, without papers and full stop.

    Example:
        >>> head("methods/compile")
        'Compile the network'
    """
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    sentence = _SENTENCE.match(_CITATION.sub("", comment))
    return sentence[1] if sentence else comment
