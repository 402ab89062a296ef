"""What a row of the tables of mistyped command lines is."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["GOOD", "STUDY", "Mistake", "rows", "wrong"]

GOOD = "trainer:\n  max_epochs: 2\n"
STUDY = """\
name: small
base: [{data: {class_path: FashionMNISTDataModule}, model: {net: {class_path: MLP}}}]
methods:
  sgd: {optimizer: {class_path: torch.optim.SGD}}
values: [0.1, 0.01]
seeds: [0]
epochs: 1
"""
# Before the options of a row that trains or measures. The files of the data are broken: an answer that names
# them came too late.
BASE = [
    "--data=FashionMNISTDataModule",
    "--data.data_dir=data",
    "--data.verify_checksum=false",
    "--model.net=SoftmaxRegression",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
]
IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@dataclass(frozen=True)
class Mistake:
    """A mistyped command line.

    Attributes:
        line: What was typed; `fit` and its like get `BASE` behind the command.
        says: Words that the answer must hold: the culprit, and the right value where there is one near.
        files: What files hold, beside `good.yaml` and `study.yaml`, by their names. None: it is a folder.
        slow: Whether it is left to the slow tests: another row is like it.
    """

    line: str
    says: tuple[str, ...]
    files: dict[str, str | bytes | None] = field(default_factory=dict)
    slow: bool = False

    @property
    def argv(self) -> list[str]:
        command, *options = shlex.split(self.line)
        return [command, *(BASE if command in ("fit", "validate", "test", "predict") else []), *options]

    def make_files(self) -> None:
        """Write what the row finds in the working directory."""
        Path("data").mkdir()
        for file in IDX:
            Path("data", f"{file}-ubyte.gz").write_bytes(b"no data")
        for file, content in {"good.yaml": GOOD, "study.yaml": STUDY, **self.files}.items():
            if content is None:
                Path(file).mkdir()
            else:
                Path(file).write_bytes(content.encode() if isinstance(content, str) else content)


def wrong(line: str, *says: str, **files: str | bytes | None) -> Mistake:
    """A row with files; `b=...` is the content of `b.yaml`."""
    return Mistake(line, says, {f"{name}.yaml": content for name, content in files.items()})


def rows(text: str) -> list[Mistake]:
    """Rows without files: `line => word | word`, in one or more lines; those with ~ are slow."""
    made, line = [], ""
    for part in text.strip("\n").splitlines():
        before, arrow, says = part.partition("=>")
        line = f"{line} {before.strip()}".strip()
        if arrow:
            words = tuple(word.strip() for word in says.split(" | "))
            made.append(Mistake(line.removeprefix("~").strip(), words, slow=line.startswith("~")))
            line = ""
    assert not line
    return made
