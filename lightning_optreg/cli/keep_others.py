"""A run that starts from another one's checkpoint leaves that one's files where they are."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from lightning_optreg.places import is_url, place_of
from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["KeepOthers"]


class KeepOthers(Callback):
    """Let no `ModelCheckpoint` remove a file by URL that is outside its folder.

    Lightning 2.6 restores the path of the best checkpoint also in another folder, and removes that file once
    there is a better one; unlike with a local path, it doesn't look whether it is in the folder.
    """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget such a path, which has just been restored."""
        for saver in callbacks_of(trainer):
            if isinstance(saver, ModelCheckpoint) and is_url(saver.best_model_path):
                folder = str(place_of(saver.dirpath)) if saver.dirpath else ""
                if str(place_of(saver.best_model_path).parent) != folder:
                    saver.best_model_path = ""
