"""Configurations that nobody would write: each ends at once, with status 2 and one sentence."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401  # its log keeps the stream that it finds when it is imported
import pytest
import yaml
from hypothesis import strategies as st

from lightning_optreg.__main__ import main
from lightning_optreg.cli.yaml_mapping import to_mapping
from lightning_optreg.trust import Trust, check_values, read_yaml, sprawl
from tests.cli.mistake import BASE, Mistake
from tests.hardening.search import by_effort, search

SECONDS = 20.0  # parsing the command line takes a second or two of them


def lists(levels: int, width: int = 10) -> list[str]:
    """Lines that each repeat the line before."""
    first = f"a0: &a0 [{', '.join(['1'] * width)}]"
    return [first, *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels))]


def mappings(levels: int, width: int = 6) -> list[str]:
    keys = [f"k{i}" for i in range(width)]
    rows = [", ".join(f"{key}: *a{i - 1}" for key in keys) for i in range(1, levels)]
    return ["a0: &a0 {k: 1}", *(f"a{i + 1}: &a{i + 1} {{{row}}}" for i, row in enumerate(rows))]


def below(key: str, lines: list[str]) -> str:
    """Lines as a mapping in a section."""
    return "\n".join([key, *("  " * key.count(":") + line for line in lines), ""])


NETWORK = "model: {net: {class_path: MLP, init_args: {hidden: %s}}}\n"
HOSTILE: dict[str, tuple[str, str]] = {
    "a bomb of lists": ("\n".join(lists(9)), "anchors"),
    "a bomb of mappings": ("\n".join(mappings(10)), "anchors"),
    "a bomb in a section": (below("trainer:", lists(9)), "anchors"),
    "a bomb of merges": (
        "a0: &a0 {k: 1}\n"
        + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9)),
        "anchors",
    ),
    "deep lists": ("trainer: " + "[" * 3000 + "]" * 3000, "nested"),
    "deep mappings": ("trainer: " + "{a: " * 400 + "1" + "}" * 400, "nested"),
    "deep lists of a part": (NETWORK % ("[" * 90 + "]" * 90), "nested"),
    "a text of deep lists": (f"trainer: {{callbacks: '{'[' * 500 + ']' * 500}'}}\n", "callbacks"),
    "a huge number": (f"trainer: {{max_epochs: {'9' * 5000}}}\n", "number of 5000 digits"),
    "a huge hexadecimal number": (f"trainer: {{max_epochs: 0x{'f' * 5000}}}\n", "digits"),
    "a huge sexagesimal number": (f"trainer: {{max_epochs: {':'.join(['1'] * 3000)}}}\n", "digits"),
    "a huge sexagesimal fraction": (f"trainer: {{max_epochs: {':'.join(['1'] * 3000)}.5}}\n", "digits"),
    "beyond 64 bits": (f"trainer: {{max_epochs: {'9' * 30}}}\n", "64 bits"),
    "infinity": ("trainer: {max_epochs: 1e999}\n", "max_epochs"),
    "no date": ("trainer: {max_epochs: 2024-13-45}\n", "max_epochs"),
    "bytes": ("trainer: {max_epochs: !!binary aGVsbG8=}\n", "max_epochs"),
    "a set": ("trainer: {callbacks: !!set {a, b}}\n", "callbacks"),
    "pairs": ("trainer: !!pairs [a: 1]\n", "trainer"),
    "a list for a key": ("? [a]\n: 1\n", "unhashable"),
    "nothing for a key": ("~: 2\n", "string"),
    "a key that is no text, without a value": ("true: \n", "keys must be text"),
    "no number for a key": (".nan: 1\n", "string"),
    "a long text": (f"trainer: {{max_epochs: {'x' * 200_000}}}\n", "max_epochs"),
    "half a character": ('trainer: {max_epochs: "\\ud800"}\n', "Unicode"),
}
FIRST = ("a bomb of lists", "deep lists", "a huge number", "a key that is no text, without a value")
CASES = [
    pytest.param(name, safe, marks=[] if name in FIRST and not safe else pytest.mark.slow)
    for name in HOSTILE
    for safe in (False, True)
]


def answer(text: str, safe: bool, capfd: pytest.CaptureFixture[str]) -> str:
    Path("b.yaml").write_text(text)
    begun = time.monotonic()
    status = main(["fit", *(["--safe"] if safe else []), *BASE, "--config", "b.yaml"])
    assert time.monotonic() - begun < SECONDS
    out, err = capfd.readouterr()
    assert status == 2, out + err
    assert "Traceback" not in out + err
    (found,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert len(found) < 600
    return found


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Mistake("", ()).make_files()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("name", "safe"), CASES)
def test_a_hostile_configuration_is_answered(
    name: str, safe: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    text, says = HOSTILE[name]
    assert says in answer(text, safe, capfd)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_read_or_refused(name: str) -> None:
    read_or_refused(HOSTILE[name][0])


def read_or_refused(text: str) -> None:
    """Read it in all ways, none of which may take long or raise anything else."""
    begun = time.monotonic()
    for read in (lambda: to_mapping(text, "a file"), lambda: checked(text)):
        with suppress(ValueError, yaml.YAMLError):
            read()
    assert time.monotonic() - begun < SECONDS


def checked(text: str) -> None:
    check_values(read_yaml(text), trust=Trust(bare=True), what="a file")


NODES = st.recursive(
    st.one_of(
        st.text(max_size=8),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.none(),
        st.binary(max_size=5),
        st.dates(),
        st.sampled_from(
            ["torch.nn.ReLU", "os.system", "MLP", "a.yaml", "[1, {a: b}]", "class_path: x", "s3://a"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["class_path", "init_args", "trainer", "model", "net", "dict_kwargs", "a.b"]),
                st.text(max_size=4),
                st.integers(),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
MARKS = [
    "&a ",
    "*a",
    "<<: *a\n",
    "!!set ",
    "!!python/name:os.system ",
    "? ",
    "- ",
    ": ",
    "{",
    "[",
    "\n",
    "\t",
    "|\n",
]


def spoilt(found: tuple[Any, list[tuple[float, str]]]) -> str:
    """YAML of values, with marks put into it."""
    text = str(yaml.safe_dump(found[0], allow_unicode=True))
    for place, mark in found[1]:
        at = int(place * len(text))
        text = text[:at] + mark + text[at:]
    return text


TEXTS = st.tuples(NODES, st.lists(st.tuples(st.floats(0.0, 1.0), st.sampled_from(MARKS)), max_size=4)).map(
    spoilt
)


@by_effort(few=30, many=3_000)
def test_any_text_is_read_or_refused(examples: int) -> None:
    search(examples, TEXTS, read_or_refused)


@pytest.mark.slow
@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("safe", [False, True])
def test_any_configuration_is_answered(safe: bool, capfd: pytest.CaptureFixture[str]) -> None:
    search(201, TEXTS, lambda text: answer(text, safe, capfd))


def test_what_people_write_is_no_sprawl() -> None:
    for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml"):
        assert sprawl(path.read_text()) is None, path
    assert sprawl("a: &a [1, 2]\nb: [*a, *a]\n") is None
    assert sprawl("a: &a [*a]\n") is None
    assert sprawl(f"[{'1, ' * 25_000}]") is None  # long, but no longer than it is
    assert sprawl(f"a: '{'9' * 1000}'") is None  # text
    assert sprawl("a: [") is None  # which the parser says
