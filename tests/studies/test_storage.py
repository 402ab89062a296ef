"""A storage that can't be used is refused in one line, which says what would do."""

import importlib.util
import sqlite3
from pathlib import Path

import pytest

from lightning_optreg.studies.storage import check_storage, shown

sqlalchemy = pytest.importorskip("sqlalchemy", reason="the extra 'tune' is not installed")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("nonsense", "'nonsense' is not a database URL; did you mean sqlite:///nonsense?"),
        ("runs/study.db", "'runs/study.db' is not a database URL; did you mean sqlite:///runs/study.db?"),
        ("", "'' is not a database URL; did you mean sqlite:///study.db?"),
        ("sqlite://study.db", "names a host, and SQLite has none; did you mean sqlite:///study.db?"),
        ("sqlite://", "is in the memory of one process; did you mean sqlite:///study.db?"),
        ("sqlite:///:memory:", "is in the memory of one process; did you mean sqlite:///study.db?"),
        ("sqllite:///a.db", "'sqllite' is not a known database; did you mean sqlite:///a.db?"),
        ("sqlite:///no/such/a.db", "there is no folder 'no/such' for the file 'a.db'"),
        ("sqlite:////", "'/' is a folder; did you mean sqlite:////study.db?"),
        (
            "postgres://me:secret@host/db",
            "'postgres' is not a known database; did you mean postgresql+psycopg://me:***@host/db?",
        ),
        (
            "postgresql+psycopg3://host/db",
            "postgresql has no driver 'psycopg3'; did you mean postgresql+psycopg://host/db",
        ),
        (
            "postgresql://me:secret@host:port/db",
            "'postgresql://me:***@host:port/db' is not a database URL; did you mean postgresql+psycopg://",
        ),
        ("redis://host", "'redis' is not a known database"),
    ],
)
def test_wrong_urls(storage: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^storage: ") as caught:
        check_storage(storage)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def dialect(url: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(sqlalchemy.URL, "get_dialect", dialect)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^storage: postgresql") as caught:
        check_storage("postgresql://me:secret@host/db")
    assert str(caught.value) == (
        "storage: postgresql://: the driver psycopg is not installed; pip install 'psycopg[binary]' and give "
        "postgresql+psycopg://me:***@host/db"
    )
    # Another driver is there:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "psycopg2" or None)
    with pytest.raises(ValueError, match=r"psycopg2 is: give postgresql\+psycopg2://me:\*\*\*@host/db"):
        check_storage("postgresql://me:secret@host/db")


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise sqlite3.OperationalError("connection to server failed: Connection refused\n\tIs it running?\n")

    engine = sqlalchemy.create_engine("sqlite://", creator=refuse)
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda url, **options: engine)
    monkeypatch.setattr(sqlalchemy.URL, "get_dialect", lambda url: sqlalchemy.dialects.postgresql.dialect)
    with pytest.raises(ValueError, match=r"^storage: ") as caught:
        check_storage("postgresql+psycopg2://me:secret@host/db")
    assert str(caught.value) == (
        "storage: postgresql+psycopg2://me:***@host/db does not answer: "
        "connection to server failed: Connection refused"
    )


def test_a_file_that_is_no_data_base(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("SQLite? No: a text, and long enough to be looked at. " * 9)
    with pytest.raises(ValueError, match=r"a\.db' is not an SQLite database: file is not a database"):
        check_storage(f"sqlite:///{tmp_path / 'a.db'}")
    check_storage(f"sqlite:///{tmp_path / 'new.db'}")
    assert not (tmp_path / "new.db").exists()


def test_passwords_are_not_shown() -> None:
    assert shown("mysql+pymysql://me:s:e@c@host/a") == "mysql+pymysql://me:***@host/a"
    assert shown("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"
