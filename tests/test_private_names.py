"""Private names of other packages: each is in the table below, with the reason, and no other is used."""

import ast
from functools import cache
from typing import NamedTuple

import pytest

from tests.private_names import PACKAGE, PUBLIC, files, inherited, nodes, own_names, uses, uses_of_bases


class Use(NamedTuple):
    """A private name that this package uses.

    Attributes:
        name: The name.
        files: Where, below the package's folder.
        of: The package whose it is, and the version it was seen in, as the comment beside it says.
        reason: Why there is no public way.
    """

    name: str
    files: tuple[str, ...]
    of: str
    reason: str


USES = (
    Use("_BatchNorm", ("trainer/noise_left.py",), "torch 2.14", "the base of all batch normalisations"),
    Use(
        "_MultiProcessingLauncher",
        ("callbacks/resume/signals/launched.py",),
        "Lightning 2.6",
        "tells launchers apart",
    ),
    Use(
        "_Metadata", ("callbacks/resume/progress/logged_values.py",), "Lightning 2.6", "how a value is logged"
    ),
    Use(
        "_ResultMetric",
        ("callbacks/resume/progress/logged_values.py",),
        "Lightning 2.6",
        "the sums behind `self.log`",
    ),
    Use(
        "_Sync",
        ("callbacks/resume/progress/logged_values.py",),
        "Lightning 2.6",
        "how a logged value is reduced over processes",
    ),
    Use("_actions", ("cli/actions.py",), "Python 3.11", "the arguments of a parser"),
    Use(
        "_batches_that_stepped",
        ("callbacks/resume/progress/logged_values.py", "callbacks/resume/progress/loop_progress.py"),
        "Lightning 2.6",
        "a key of the training loop's state",
    ),
    Use(
        "_checkpoint_io",
        ("cli/trainer.py",),
        "Lightning 2.6",
        "the public property makes one where none was given",
    ),
    Use(
        "_class_path",
        ("trust/checkpoints.py", "trust/values.py"),
        "Lightning 2.6",
        "a key of a checkpoint's hyperparameters",
    ),
    Use(
        "_compiled_call_impl",
        ("strategies/split/_refusals.py", "callbacks/privacy/_layers.py"),
        "torch 2.14",
        "whether a module was compiled in place",
    ),
    Use(
        "_combined_loader",
        ("callbacks/resume/_loaders_resumed.py",),
        "Lightning 2.6",
        "the loaders, flattened",
    ),
    Use(
        "_data_fetcher",
        ("callbacks/resume/_loaders_resumed.py",),
        "Lightning 2.6",
        "what asks the loaders for batches",
    ),
    Use(
        "_evaluate_stopping_criteria",
        ("callbacks/steps/early_stopping.py",),
        "Lightning 2.6",
        "the base's decision",
    ),
    Use("_extra_state", ("runs/checkpoints.py",), "torch 2.14", "a key of a module's state"),
    Use(
        "_fabric",
        ("randomness/own_generators.py",),
        "Lightning 2.6",
        "an attribute that leads out of a module",
    ),
    Use(
        "_first_loop_iter",
        ("callbacks/resume/progress/logged_values.py",),
        "Lightning 2.6",
        "whether `self.log` begins anew",
    ),
    Use(
        "_forward_cache",
        ("callbacks/resume/progress/logged_values.py",),
        "Lightning 2.6",
        "the value of a step",
    ),
    Use(
        "_instantiator",
        ("classifier/image_classifier.py", "trust/checkpoints.py"),
        "Lightning 2.6",
        "a key of a checkpoint's hyperparameters",
    ),
    Use("_iterator", ("randomness/own_generators.py",), "torch 2.14", "a loader's running iterator"),
    Use(
        "_last_lr",
        ("callbacks/steps/reset_optimizer.py", "schedulers/warmup.py"),
        "torch 2.14",
        "what `get_last_lr` returns",
    ),
    Use("_layer_sync", ("strategies/split/pipeline.py",), "Lightning 2.6", "the Trainer's `sync_batchnorm`"),
    Use(
        "_log_info", ("callbacks/steps/early_stopping.py",), "Lightning 2.6", "how the base says why it stops"
    ),
    Use(
        "_logger_connector",
        ("callbacks/resume/progress/logged_values.py",),
        "Lightning 2.6",
        "the sums behind `self.log`",
    ),
    Use("_milestones", ("trainer/schedule_parts.py",), "torch 2.14", "when SequentialLR changes over"),
    Use(
        "_module_mode",
        ("callbacks/resume/_module_flags.py",),
        "Lightning 2.6",
        "the modes before a validation",
    ),
    Use(
        "_modules",
        ("analysis/_unregistered.py", "randomness/own_generators.py"),
        "torch 2.14",
        "where a module keeps its parts",
    ),
    Use("_parse_ckpt_path", ("cli/main_cli.py",), "Lightning 2.6", "would take settings from a checkpoint"),
    Use(
        "_parser",
        ("cli/command_parser.py", "cli/main_cli.py"),
        "Lightning 2.6",
        "the parser of a subcommand",
    ),
    Use("_orig_mod", ("callbacks/privacy/_layers.py",), "torch 2.14", "the module in a compiled one"),
    Use(
        "_pytree",
        ("callbacks/weights/_non_finite.py", "callbacks/privacy/differential_privacy.py"),
        "torch 2.14",
        "maps over nested values",
    ),
    Use(
        "_reductions",
        ("callbacks/resume/_partial_state.py",),
        "torchmetrics 1.9",
        "how states of processes are merged",
    ),
    Use(
        "_restarting",
        ("callbacks/resume/progress/loop_progress.py",),
        "Lightning 2.6",
        "the public property changes it again",
    ),
    Use(
        "_results",
        ("callbacks/resume/progress/logged_values.py",),
        "Lightning 2.6",
        "the sums behind `self.log`",
    ),
    Use(
        "_run_early_stopping_check",
        ("callbacks/steps/early_stopping.py",),
        "Lightning 2.6",
        "between the value and the decision",
    ),
    Use("_run_sanity_check", ("cli/errors.py",), "Lightning 2.6", "tells the sanity check in a traceback"),
    Use(
        "_schedulers",
        ("callbacks/steps/reset_optimizer.py", "trainer/schedule_parts.py"),
        "torch 2.14",
        "what a chain of schedules holds",
    ),
    Use(
        "_should_skip_check",
        ("callbacks/steps/early_stopping.py",),
        "Lightning 2.6",
        "whether the base checks now",
    ),
    Use(
        "_step_supports_amp_scaling",
        ("trainer/queries.py",),
        "torch 2.14",
        "whether an optimizer unscales gradients",
    ),
    Use(
        "_trainer",
        ("randomness/own_generators.py",),
        "Lightning 2.6",
        "an attribute that leads out of a module",
    ),
    Use(
        "_typehint",
        ("cli/actions.py", "cli/whole_numbers.py"),
        "jsonargparse 4.53",
        "the type that an argument is read as",
    ),
    Use(
        "_update_count",
        ("callbacks/resume/_partial_state.py", "callbacks/resume/progress/logged_values.py"),
        "torchmetrics 1.9",
        "means of batches are weighted with it",
    ),
    Use(
        "_validate_condition_metric",
        ("callbacks/steps/early_stopping.py",),
        "Lightning 2.6",
        "whether the value is there",
    ),
    Use(
        "_version",
        ("callbacks/resume/signals/stop_signals.py",),
        "torch 2.14",
        "counts a tensor's changes in place",
    ),
)


@cache
def found() -> dict[tuple[str, str], int]:
    """The first line of each private name of others in each file."""
    trees = {path: ast.parse(path.read_text()) for path in files()}
    own = own_names(trees) - {use.name for use in USES}
    result: dict[tuple[str, str], int] = {}
    for path, tree in trees.items():
        for name, line in sorted((*uses(tree, own), *uses_of_bases(path, tree)), key=lambda use: use[1]):
            if name not in PUBLIC:
                result.setdefault((name, str(path.relative_to(PACKAGE))), line)
    nodes.cache_clear()  # a third of a million
    return result


def test_no_private_name_is_used_that_is_not_in_the_table() -> None:
    listed = {(use.name, file) for use in USES for file in use.files}
    unlisted = {
        f"{file}:{line}: {name}" for (name, file), line in found().items() if (name, file) not in listed
    }
    assert not unlisted


def test_the_table_lists_nothing_that_is_gone() -> None:
    listed = {(use.name, file) for use in USES for file in use.files}
    assert not listed - set(found())


@pytest.mark.parametrize("use", USES, ids=lambda use: use.name)
def test_the_file_says_whose_it_is_and_in_which_version(use: Use) -> None:
    for file in use.files:
        assert use.of in (PACKAGE / file).read_text(), file


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import torch._dynamo", ["_dynamo"]),
        ("from lightning.pytorch import _x, y", ["_x"]),
        ("from torch.utils._pytree import tree_map", ["_pytree"]),
        ("from lightning_optreg.data._cache import cached", []),
        ("optimizer._a", ["_a"]),
        ("class C:\n    def f(self):\n        self._own = self._foreign", ["_foreign"]),
        ("class C:\n    _own = 1\n\nC._own", []),
        ("trainer.loop._own", ["_own"]),
        ("getattr(x, '_a')", ["_a"]),
        ("f'{x}_a'", []),
        ("x.__dict__, '__name__'", []),
        ("torch._foreach_add_(a, b), os._exit(1)", []),
    ],
)
def test_private_names_are_found(code: str, names: list[str]) -> None:
    assert [name for name, _ in uses(ast.parse(code), {"_own"})] == names


def test_private_names_of_a_base_are_found() -> None:
    class Base:
        def _hook(self) -> None:
            self._kept = 1

    assert inherited(Base) == {"_hook", "_kept"}
