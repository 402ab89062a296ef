"""Says which YAML files cannot be read, and where: scripts/check_yaml.py FILE..."""

import sys
from collections.abc import Iterator, Sequence

import yaml


def problems(paths: Sequence[str]) -> Iterator[str]:
    """What is wrong with files, one line each: what can't be parsed, and keys that occur twice."""
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                documents = list(yaml.compose_all(file, yaml.SafeLoader))  # parsed, not built
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            yield f"{path}: {' '.join(str(error).split())}"
            continue
        for node in documents:
            yield from (f"{path}:{line}: the key {key!r} occurs twice" for key, line in repeated(node))


def repeated(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys that occur twice in one mapping, and the line of the second; YAML's readers take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key.value, key.start_mark.line + 1
                seen.add(key.value)
            yield from repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from repeated(each)


if __name__ == "__main__":
    found = list(problems(sys.argv[1:]))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
