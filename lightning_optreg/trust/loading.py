"""`load_from_checkpoint` that builds only trusted classes, for modules and data modules."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from typing_extensions import Self

from lightning_optreg.trust.checkpoints import vetted_checkpoint

__all__ = ["VettedLoading"]


class VettedLoading:
    """A base class to put in front of LightningModule or LightningDataModule.

    Lightning builds whatever class a checkpoint names. Here the file is checked first.

    Example:
        >>> from lightning.pytorch import LightningModule
        >>> class Mine(VettedLoading, LightningModule):
        ...     pass
        >>> Mine.load_from_checkpoint("no_such.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: '...no_such.ckpt'
    """

    CHECKPOINT_HYPER_PARAMS_KEY: str

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        *args: Any,
        weights_only: bool | None = None,
        allow: Sequence[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Build an object from a checkpoint as Lightning does, unless the file names something untrusted.

        Args:
            checkpoint_path: See Lightning's method, as for the other arguments.
            map_location: Where tensors go.
            hparams_file: YAML or CSV with hyperparameters that replace the checkpoint's.
            args: Further arguments of Lightning's method.
            weights_only: None means True, also for a checkpoint from an address. With False, torch runs
                code from the file.
            allow: Packages of yours whose classes the file may name too.
            kwargs: Arguments that replace the checkpoint's.

        Raises:
            UntrustedError: If the file names a class that may not be built; none of it is imported then.
            ValueError: If the file cannot be read.
        """
        with vetted_checkpoint(
            checkpoint_path,
            owner=cls,
            key=cls.CHECKPOINT_HYPER_PARAMS_KEY,
            given=kwargs,
            allow=allow,
            hparams_file=hparams_file,
            weights_only=weights_only is not False,
        ) as file:
            more = {} if len(args) > 1 else {"weights_only": weights_only is not False}
            loaded: Self = super().load_from_checkpoint(  # type: ignore[misc]  # of the class behind this one
                file, map_location, hparams_file, *args, **more, **kwargs
            )
            return loaded
