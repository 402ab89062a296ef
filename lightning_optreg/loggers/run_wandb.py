"""A W&B logger that continues its run, where Lightning's own starts a new one with every process."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg.files import check_inside, check_name, replacing
from lightning_optreg.places import Place, UrlPath, local_copy, place_of

__all__ = ["RunWandbLogger"]


class RunWandbLogger(WandbLogger):
    """Log to Weights & Biases; a resumed run continues the W&B run that it started.

    The W&B run's id is kept in `wandb_run_id.txt` in the run's folder, where the next process finds it: the
    resumed fit, and `test` after `fit`. Without a folder every logger starts a new run, unless an `id` is
    given, and writes no such file. All local files go to `wandb/` in the folder; if that is a URL
    (`s3://bucket/runs`), to `wandb/` in the current folder.

    Checkpoints become artifacts when a fit ends. The alias `best` is set on the best checkpoint of the
    trainer's first `ModelCheckpoint` with a `monitor` (if there is one), `latest` on the last checkpoint.

    W&B keeps what it was sent: steps that a killed run logged past its last checkpoint stay in its history,
    and the resumed run logs them again. `metrics.csv` has no duplicates.

    Args:
        save_dir: The run's folder, a path or a URL. The command line sets it. None: no folder; local files
            go to `wandb/` in the current folder.
        project: W&B project. Default: the environment variable `WANDB_PROJECT`, else `lightning_logs`.
        name: The run's name on W&B's pages. Default: W&B makes one up.
        id: The W&B run's id. Default: the one kept in the run's folder, else W&B makes one up.
        entity: W&B user or team. Default: as W&B is set up.
        group: Name that groups several runs, such as the folds of a cross-validation.
        job_type: Kind of run within a group.
        tags: Tags to find the run by.
        notes: A note shown with the run.
        mode: `online`, `offline` (upload later with `wandb sync`) or `disabled`. Default: the environment
            variable `WANDB_MODE`, else `online`.
        log_model: True: the best and last checkpoints become artifacts when a fit ends (those of a
            `ModelCheckpoint` with `save_top_k=-1` as soon as they are saved). `all`: every checkpoint, as
            soon as it is saved. False: none.

    Raises:
        ValueError: If project, name or id would lead out of the folder, as `../x` does.
        ModuleNotFoundError: If wandb is not installed (`pip install lightning-optreg[wandb]`).
        MisconfigurationException: When the run starts, if W&B refuses it, for example without an account.

    Example:
        In a configuration: `trainer.logger: RunWandbLogger`. In Python:

        >>> RunWandbLogger("runs/version_0", id="3fdk2x9a").version
        '3fdk2x9a'
    """

    def __init__(
        self,
        save_dir: str | Path | UrlPath | None = None,
        *,
        project: str | None = None,
        name: str | None = None,
        id: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        log_model: Literal["all"] | bool = True,
    ) -> None:
        for argument, text in (("project", project), ("id", id)):
            if text is not None:  # Lightning names folders for checkpoints after them
                check_name(text, f"RunWandbLogger: {argument}")
        if name is not None:
            check_inside(name, "RunWandbLogger: name")
        folder = None if save_dir is None else place_of(save_dir)
        self._id_file: Place | None = None if folder is None else folder / "wandb_run_id.txt"
        if id is None and self._id_file is not None and self._id_file.exists():
            id = check_name(self._id_file.read_text(errors="replace").strip(), str(self._id_file))
        super().__init__(
            save_dir=folder if isinstance(folder, Path) else ".",
            project=project,
            name=name,
            id=id,
            log_model=False,  # ours below: Lightning's sets `best` for each callback, monitored or not
            entity=entity,
            group=group,
            job_type=job_type,
            tags=tags,
            notes=notes,
            # Lightning's own `offline` refuses artifacts, although `wandb sync` uploads them later.
            mode=mode,
        )
        self.log_model = log_model
        self._savers: list[ModelCheckpoint] = []
        self._logged: dict[str, float] = {}
        self._has_config = False
        self._id_is_kept = False

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; started or continued when it is first accessed."""
        if self._id_is_kept:
            return super().experiment
        import wandb  # optional; the constructor checked that it is installed

        folder = self._id_file.parent if isinstance(self._id_file, Path) else Path(".")
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)  # wandb writes to /tmp if it is missing
        try:
            run = super().experiment
        except wandb.Error as error:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
            raise MisconfigurationException(
                f"RunWandbLogger: Weights & Biases did not start: {error} "
                "With mode: offline (or WANDB_MODE=offline) it needs no account; "
                "upload with `wandb sync` later."
            ) from error
        if self._id_file is not None and not run.disabled:
            with replacing(self._id_file) as temporary:
                temporary.write_text(f"{run.id}\n")
        self._id_is_kept = True
        return run

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Set the run's config to the whole configuration; `log_hyperparams` adds nothing afterwards."""
        self.experiment.config.update(dict(config), allow_val_change=True)
        self._has_config = True

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Add the module's hyperparameters to the run's config, unless it has the whole configuration."""
        if not self._has_config:
            super().log_hyperparams(params)

    @override
    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:
        """Note, at the start of a fit, whose checkpoints become artifacts; no graph is logged."""
        self._savers = []
        if isinstance(model, LightningModule) and model.trainer.state.fn == TrainerFn.FITTING:
            found = model.trainer.checkpoint_callbacks
            self._savers = [callback for callback in found if isinstance(callback, ModelCheckpoint)]

    @override
    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Send what was saved to W&B, unless `log_model` says to wait for the end of the fit."""
        if all(checkpoint_callback is not saver for saver in self._savers):  # added during the fit
            self._savers.append(checkpoint_callback)
        if self.log_model == "all" or (self.log_model and checkpoint_callback.save_top_k == -1):
            self._log_checkpoints([checkpoint_callback])

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send the checkpoints of a fit that succeeded."""
        super().finalize(status)
        if status == "success" and self.log_model and self._id_is_kept:
            self._log_checkpoints(self._savers)

    def _log_checkpoints(self, savers: Sequence[ModelCheckpoint]) -> None:
        """Log files that W&B does not have yet as artifacts; an alias moves to the one it is set on last."""
        compared = [saver for saver in self._savers if saver.monitor is not None]
        best = compared[0].best_model_path if compared else None
        found: dict[str, tuple[bool, float, ModelCheckpoint]] = {}
        for saver in savers:
            for path in (*saver.best_k_models, saver.best_model_path, saver.last_model_path):
                if path and place_of(path).is_file():
                    is_last = saver.monitor is None or path == saver.last_model_path
                    found[path] = is_last, place_of(path).stat().st_mtime, saver
        # The last one comes last, even if a best one was written after it: W&B sets `latest` on the newest.
        ordered = sorted(found, key=lambda path: found[path][:2])
        pending = [path for path in ordered if self._logged.get(path) != found[path][1]]
        newest = ordered[-1:]
        if newest != pending[-1:] and (pending or newest != [*self._logged][-1:]):
            pending += newest
        for path in pending:
            _, time, saver = found[path]
            aliases = ["best"] * (path == best) + ["latest"] * (path in newest)
            self.experiment.log_artifact(self._artifact(path, saver), aliases=aliases)
            self._logged.pop(path, None)  # so that the dictionary ends with the newest
            self._logged[path] = time

    def _artifact(self, path: str, saver: ModelCheckpoint) -> Any:
        import wandb

        score = saver.best_k_models.get(path)
        settings = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only")
        metadata = {
            "score": None if score is None else float(score),
            "original_filename": place_of(path).name,
            type(saver).__name__: {setting: getattr(saver, setting) for setting in settings},
        }
        artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model", metadata=metadata)
        artifact.add_file(str(local_copy(place_of(path))), name="model.ckpt")
        return artifact
