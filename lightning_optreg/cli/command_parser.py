"""The parser of one of Lightning's commands, without running it."""

from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from lightning_optreg.cli.expected_warnings import without_expected_warnings
from lightning_optreg.cli.main_cli import CLI, SETTINGS
from lightning_optreg.trust import build_nothing_unasked

__all__ = ["command_parser"]


def command_parser(command: str) -> LightningArgumentParser:
    """Return the parser of a command.

    Args:
        command: `fit`, `validate`, `test` or `predict`.

    Example:
        >>> command_parser("test").get_defaults(skip_validation=True).trainer.devices
        'auto'
    """
    build_nothing_unasked()
    try:
        with without_expected_warnings():
            _ParserOnly(args=[command], **SETTINGS)
    except _NotRunError as made:
        return made.parser
    raise RuntimeError(f"command_parser: {command} has no parser")  # unreachable: parsing comes first


class _NotRunError(Exception):
    """The parser is there."""

    def __init__(self, parser: LightningArgumentParser) -> None:
        super().__init__("the parser is there")
        self.parser = parser


class _ParserOnly(CLI):
    """Ends where the arguments would be parsed."""

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> NoReturn:
        command = next(iter(self.subcommands()))
        # Private in Lightning 2.6: there is no public way to the parser of a subcommand.
        raise _NotRunError(self._parser(command))
