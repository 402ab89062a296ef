"""Files and folders by path or by URL: `runs`, `s3://bucket/runs`, `memory://runs`.

A place is a `pathlib.Path` if it is on this machine, and a `UrlPath` if not. The second has those of the
first's methods that this package uses, on the file systems of fsspec, so what reads and writes runs is
written once. Both are read by `local_copy` and written whole by `files.replacing`.
"""

from lightning_optreg.places.copies import local_copy
from lightning_optreg.places.place import Place, check_place, folders_in, place_of, remove_tree
from lightning_optreg.places.url_path import UrlPath, is_url

__all__ = ["Place", "UrlPath", "check_place", "folders_in", "is_url", "local_copy", "place_of", "remove_tree"]
