"""`fit`, `validate`, `test`, `predict`: LightningCLI with this package's parts, run folders and reports."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

# so that configurations name them by their bare names
import lightning_optreg.optimizers
import lightning_optreg.schedulers  # noqa: F401
from lightning_optreg.callbacks import ExactResume, PredictionWriter, ResetOptimizer
from lightning_optreg.callbacks.resume.signals.launched import pass_on_sigterm
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.cli.added_callbacks import prediction_writer, without_validation
from lightning_optreg.cli.checkpoint_checks import check_training_state, check_weights, say_differences
from lightning_optreg.cli.console import console_callbacks
from lightning_optreg.cli.expected_warnings import without_expected_warnings
from lightning_optreg.cli.given import mentions, names_class, options, with_found_files
from lightning_optreg.cli.keep_others import KeepOthers
from lightning_optreg.cli.links import LINKED, settle_links
from lightning_optreg.cli.monitors import OURS, check_monitors
from lightning_optreg.cli.overlays import check_averages, check_overlays
from lightning_optreg.cli.own_settings import takes_own_settings, with_own_settings
from lightning_optreg.cli.parsed_before import ParsedBefore
from lightning_optreg.cli.parser import Parser, noted, plain
from lightning_optreg.cli.placement import DEFAULT_CALLBACKS, DEFAULT_LOGGER, place
from lightning_optreg.cli.processes import check_processes, check_started
from lightning_optreg.cli.ranges import check_ranges, try_optimizer
from lightning_optreg.cli.run_start import RunStart
from lightning_optreg.cli.safety import check_command, check_names, check_settings
from lightning_optreg.cli.save_config import SaveConfig, is_configured
from lightning_optreg.cli.trainer import Trainer
from lightning_optreg.data import ImageDataModule
from lightning_optreg.places import Place
from lightning_optreg.runs.checkpoints import read_checkpoint
from lightning_optreg.runs.run_folder import DEFAULT_ROOT
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trust import SAFE_HELP, Trust, build_nothing_unasked, split_options

__all__ = ["CLI", "SETTINGS", "run"]


class CLI(LightningCLI):
    """LightningCLI for `ImageClassifier` and this package's datamodules.

    Args:
        callbacks: Put behind those of the configuration, and not noted in it.
        trust: What a configuration may name. None: anything that its place takes.
        epilog: The end of a command's help.
        before: What this process has parsed for earlier runs; the parser and configuration of this one are
            added.
        kwargs: LightningCLI's own.
    """

    def __init__(
        self,
        *,
        callbacks: Sequence[Callback] = (),
        trust: Trust | None = None,
        epilog: str | None = None,
        before: ParsedBefore | None = None,
        **kwargs: Any,
    ) -> None:
        self.more_callbacks, self.trust, self._before = callbacks, trust, before
        command = next(iter(kwargs.get("args") or []), None)
        every = LightningCLI.subcommands()
        self._commands = {command: every[command]} if command in every else every
        self._began_at: int | None = None
        with ExitStack() as self._at_end:
            super().__init__(
                parser_kwargs={command: {"epilog": epilog} for command in self._commands}, **kwargs
            )

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a module, as averages of weights make one, reaches this by the optimizer's arguments. The
        # lock of the run's folder, the handlers of signals and what was parsed before are this process's.
        own = ("_at_end", "start", "_before", "_known")
        return {name: value for name, value in vars(self).items() if name not in own}

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's asks no instance
        """The command that comes first, or all: to make the parser of each takes a tenth of a second."""
        return self._commands

    @override
    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Make the parser, or take a copy of one that was made before."""
        set_up = super().setup_parser

        def make() -> dict[str, Any]:
            others = set(vars(self))
            set_up(*args, **kwargs)
            return {name: value for name, value in vars(self).items() if name not in others}

        if self._before is None:
            make()
        else:
            vars(self).update(self._before.made(" ".join(self._commands), make))

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_optimizer_args(nested_key="optimizer", link_to="model.optimizer")
        parser.add_lr_scheduler_args(nested_key="lr_scheduler", link_to="model.lr_scheduler")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.net.init_args.{name}", apply_on="instantiate")
        parser.set_defaults(
            {
                "trainer.default_root_dir": DEFAULT_ROOT,
                "trainer.callbacks": DEFAULT_CALLBACKS,
                "trainer.logger": DEFAULT_LOGGER,
                "optimizer": {
                    "class_path": "torch.optim.SGD",
                    "init_args": {"lr": 0.1, "momentum": 0.9},
                },
            }
        )
        parser.add_argument(
            "--reset_optimizer",
            type=bool,
            default=False,
            help="With fit and ckpt_path: keep weights, step, epoch and place in the schedule, and start the "
            "optimizer anew from the configuration.",
        )
        parser.add_argument(
            "--oversubscribe",
            type=bool,
            default=False,
            help="Start more processes than this machine has CPU cores.",
        )

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        words = list(args or [])
        self._known = None if self._before is None else self._before.find(words, self._parser(words[0]))
        if self._known is None:
            self._parse(parser, words)
        else:
            parser.args, self.config = words, self._known.config
        settings = self.settings
        check_ranges(settings, parser.args)
        check_processes(settings)
        check_started(settings.trainer)
        if self.config.subcommand == "fit" and _is_all_ours(self.more_callbacks):
            check_monitors(settings, parser.args)
        if self._known is None:
            check_overlays(words)
            if self._before is not None:
                self._before.keep(words, self.config, self._own)

    def _parse(self, parser: LightningArgumentParser, words: list[str]) -> None:
        if names_class(words, "optimizer"):
            # jsonargparse would hand the default's rate on to it: 0.1 to Adam
            for command in self.subcommands():
                # Private in Lightning 2.6: there is no public way to the parser of a subcommand.
                self._parser(command).set_defaults({"optimizer": None})
        if mentions(words, "strategy"):  # their import takes as long as that of all callbacks
            import lightning_optreg.strategies  # noqa: F401  # which makes their names known
        if any(option.name == "print_config" for option in options(words)):  # it prints, and ends
            check_overlays(words)
        super().parse_arguments(parser, words)

    @override
    def _parse_ckpt_path(self) -> None:
        # Private in Lightning 2.6: it lets a checkpoint's hyperparameters replace what the user configured,
        # without a word. Here the configuration stands, and `say_differences` reports what differs.
        pass

    @property
    def _own(self) -> LightningArgumentParser:
        # Private in Lightning 2.6: there is no public way to the parser of a subcommand.
        return self._parser(self.config.subcommand)

    @property
    def settings(self) -> Namespace:
        """The parsed configuration of the command."""
        settings: Namespace = self.config[self.config.subcommand]
        return settings

    @override
    def before_instantiate_classes(self) -> None:
        wanted = self.settings.get("ckpt_path")
        if wanted is None and self.settings.reset_optimizer:
            raise ValueError("reset_optimizer needs ckpt_path: the optimizer of a new run is new")
        self.plain_config = plain(self._own, self.settings) if self._known is None else self._known.plain
        check_names(self.plain_config["trainer"])
        if self.trust is not None:
            check_settings(self.plain_config, self.trust)
        is_same_run = partial(is_configured, config=self.plain_config)
        self.start = RunStart(str(self.subcommand), self.settings, is_same_run)
        self._at_end.callback(self.start.end)
        choice = self.start.choice
        self.run_folder, self.checkpoint_path = choice.folder, choice.checkpoint
        if not choice.goes_on:
            # so it is meant: what is written goes elsewhere, or nothing is
            warnings.filterwarnings("ignore", message="The dirpath has changed")
        if self.subcommand != "fit" and self.checkpoint_path is None:
            rank_zero_warn(
                f"{self.subcommand}: the network is untrained; pass --ckpt_path best, last or a file"
            )

    @override
    def instantiate_classes(self) -> None:
        """Build everything, with what a run writes placed in its folder; the configuration stays as given."""
        given = self.config
        self.config = given.clone()
        self._place(self.settings)
        known = self._known
        self.config_dump = noted(self._own, self.settings) if known is None else known.noted
        super().instantiate_classes()
        self.config = given

    def _place(self, settings: Namespace) -> None:
        trainer = settings.trainer
        if settings.model.net.get("init_args") is None:
            settings.model.net.init_args = Namespace()  # for what links give the network
        if self.subcommand != "fit":
            trainer.enable_autolog_hparams = False  # they are the fit's to write
        # Otherwise the figures would belong to no run.
        logs = self.subcommand == "fit" or self.checkpoint_path is not None
        if not self.start.keeps_figures:
            trainer.logger = False
        place(trainer, self.run_folder, logs=logs)
        finders = [c for c in trainer.callbacks if c.class_path.endswith("LearningRateFinder")]
        if finders and self.checkpoint_path is not None:
            # Lightning 2.6's would restart the run when it restores what it found
            rank_zero_info("the run goes on with its learning rate: LearningRateFinder is left out")
            trainer.callbacks = [c for c in trainer.callbacks if c not in finders]

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        callbacks: list[Callback] = self.config_init[self.subcommand]["trainer"].callbacks
        validates = self.datamodule.has_validation and self.settings.trainer.limit_val_batches != 0
        if self.subcommand == "fit" and not validates:
            callbacks = without_validation(callbacks)
        check_averages(callbacks)
        if self.subcommand == "predict" and not any(isinstance(c, PredictionWriter) for c in callbacks):
            callbacks.append(prediction_writer(self.run_folder, is_read_only=self.start.is_read_only))
        if self.subcommand == "fit" and self.settings.reset_optimizer:
            callbacks.append(ResetOptimizer())
        callbacks += [KeepOthers(), SaveConfig(self.plain_config, self.run_folder, self.start.made)]
        callbacks += self.more_callbacks
        # First, so that the last epoch's line stands before what others say at the end; the table of layers
        # is among them, if it is wanted.
        callbacks = [*console_callbacks(self.settings.trainer, callbacks), *callbacks]
        return super().instantiate_trainer(callbacks=callbacks, enable_model_summary=False, **kwargs)

    @override
    def after_instantiate_classes(self) -> None:
        settle_links(self.model, self.datamodule, self.settings.model.net, self.parser.args)
        if self.subcommand == "fit":
            try_optimizer(self.model)
        if self.checkpoint_path is not None:
            checkpoint = self._check(self.checkpoint_path)
            self._began_at = checkpoint.get("global_step")
            # Whatever the environment says: torch's TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD does not overrule it.
            self.config_init[self.subcommand]["weights_only"] = True
        path = self.checkpoint_path
        self.config_init[self.subcommand]["ckpt_path"] = None if path is None else str(path)
        callbacks = callbacks_of(self.trainer)
        answers = [c.answer_within for c in callbacks if isinstance(c, ExactResume)]
        # time to agree and to write a checkpoint, and to end
        self._at_end.enter_context(pass_on_sigterm(self.trainer, 2 * max(answers, default=25.0) + 10.0))

    def after_fit(self) -> None:
        """Say that there was nothing left to do; Lightning calls this when a fit has ended."""
        if self._began_at is not None and self.trainer.global_step == self._began_at:
            rank_zero_info(f"the run is complete, nothing was left to train: {self.run_folder}")

    def _check(self, path: Place) -> dict[str, Any]:
        """Refuse a checkpoint that this command cannot go on from, and say what differs; return it."""
        checkpoint = read_checkpoint(path)
        if self.settings.get("weights_only") is False:
            raise ValueError(
                "weights_only: false would let a checkpoint run code; checkpoints of `fit` don't need it"
            )
        if self.subcommand == "fit":
            keepers: list[Any] = self.trainer.checkpoint_callbacks
            folders = [str(keeper.dirpath) for keeper in keepers if getattr(keeper, "dirpath", None)]
            check_training_state(checkpoint, path, folders)
        check_weights(checkpoint, path, self.model)
        say_differences(
            checkpoint,
            path,
            self.plain_config,
            fitting=self.subcommand == "fit",
            reset_optimizer=self.settings.reset_optimizer,
        )
        return checkpoint


SETTINGS: dict[str, Any] = {
    "model_class": ImageClassifier,
    "datamodule_class": ImageDataModule,
    "subclass_mode_data": True,
    "trainer_class": Trainer,
    "save_config_callback": None,
    "seed_everything_default": 0,
    "parser_class": Parser,
    "auto_configure_optimizers": False,
}
"""What every command gives LightningCLI."""


def _is_all_ours(callbacks: Sequence[Callback]) -> bool:
    """Whether no callback is the user's, who may log more."""
    return all(type(c).__module__.startswith(OURS) for c in callbacks)


def run(argv: list[str], callbacks: Sequence[Callback] = (), before: ParsedBefore | None = None) -> CLI:
    """Run one of Lightning's commands.

    Args:
        argv: The command and its options, such as `["fit", "--config", "configs/fashion_mnist/lenet5.yaml"]`.
        callbacks: Put behind those of the configuration.
        before: What this process has parsed for earlier runs.

    For the whole process, jsonargparse builds nothing for arguments typed `Any` from then on.
    """
    build_nothing_unasked()
    argv = with_found_files(argv)
    own = takes_own_settings(argv)
    argv, trust = split_options(argv, safe=own)  # settings in a checkpoint may be a stranger's
    with without_expected_warnings(), ExitStack() as stack:
        if own and trust is not None:
            argv = stack.enter_context(with_own_settings(argv, trust))
        if trust is not None:
            check_command(argv, trust)
        # so it is meant: a resumed run goes on in its folder
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        # ImageClassifier's configure_model compiles the network and shards nothing
        warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with a model")
        return CLI(args=argv, callbacks=callbacks, trust=trust, epilog=SAFE_HELP, before=before, **SETTINGS)
