"""jsonargparse's settings of this program, in one place."""

import jsonargparse

__all__ = ["build_nothing_unasked"]


def build_nothing_unasked() -> None:
    """Let jsonargparse build nothing for an argument typed `Any` or untyped, and import no way to run code.

    The settings hold for the whole process, so the commands call this and importing the package does not:
    another program's parsers are its own matter. jsonargparse before 4.51 builds whatever class a value names
    for such an argument, and before 4.52 it lets a value name `os.system` where any function will do; nothing
    public changes that, which is why this package asks for 4.52.

    Example:
        >>> build_nothing_unasked()
        >>> parser = jsonargparse.ArgumentParser()
        >>> _ = parser.add_argument("--anything", type=object)
        >>> values = parser.parse_object({"anything": {"class_path": "logging.Formatter"}})
        >>> parser.instantiate(values).anything.class_path
        'logging.Formatter'
    """
    # An empty list adds nothing to jsonargparse's own of what no value may name, and puts it in force.
    jsonargparse.set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=[])
