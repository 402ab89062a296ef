"""Check the URL of a study's database before anything is done, and suggest what would work."""

import importlib.util
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_optreg._nearest import close_names
from lightning_optreg.studies.journal import check_journal, journal_file

if TYPE_CHECKING:  # optuna, which brings SQLAlchemy, is imported when a study is run
    from sqlalchemy import URL

__all__ = ["check_storage", "connection_options", "first_line", "shown", "sqlite_file"]

# Drivers by database, the first one to be recommended: SQLAlchemy's name, the module, the package.
_DRIVERS = {
    "postgresql": (
        ("psycopg", "psycopg", "psycopg[binary]"),
        ("psycopg2", "psycopg2", "psycopg2-binary"),
        ("pg8000", "pg8000", "pg8000"),
    ),
    "mysql": (("pymysql", "pymysql", "pymysql"), ("mysqldb", "MySQLdb", "mysqlclient")),
    "mariadb": (("pymysql", "pymysql", "pymysql"), ("mysqldb", "MySQLdb", "mysqlclient")),
    "sqlite": (),
}
_CONNECT = 10  # seconds to wait for an answer to a connection


def check_storage(storage: str) -> None:
    """Raise an error if a storage can't be used: wrong URL, missing driver, no answer from the database.

    Nothing is written.

    Args:
        storage: URL of a database, in SQLAlchemy's form, or of a journal.

    Raises:
        ValueError: If it can't be used; the message names the URL or package that would work.

    Example:
        >>> check_storage("study.db")
        Traceback (most recent call last):
        ValueError: storage: 'study.db' is not a database URL; did you mean sqlite:///study.db?
    """
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    journal = journal_file(storage)
    if journal is not None:
        check_journal(journal)
        return
    url = _parse(storage)
    try:
        dialect = url.get_dialect()
        if getattr(dialect, "is_async", False):
            raise _wrong_driver(url, f"the driver {url.get_driver_name()} is for asynchronous programs")
        if dialect.name == "sqlite":
            _check_file(url)
            return
        engine = sqlalchemy.create_engine(url, **connection_options(storage))
    except NoSuchModuleError:
        raise _unknown(url) from None
    except ImportError as error:
        raise _wrong_driver(url, f"the driver {error.name or error} is not installed") from None
    except ArgumentError as error:
        raise ValueError(f"storage: {first_line(error)}") from None
    try:
        engine.connect().close()
    except (SQLAlchemyError, OSError) as error:
        raise ValueError(f"storage: {shown(storage)} does not answer: {first_line(error)}") from None
    finally:
        engine.dispose()


def connection_options(storage: str, wait: float = 60.0) -> dict[str, Any]:
    """Return the arguments of SQLAlchemy's `create_engine` for a storage.

    Args:
        storage: Its URL.
        wait: Seconds that a call waits for others to finish writing to an SQLite file, above 0.
    """
    url = _parse(storage)
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": min(60.0, wait)}}
    options: dict[str, Any] = {"pool_pre_ping": True}  # a restart has cut the connections that were kept
    if url.get_driver_name() in ("psycopg", "psycopg2", "pymysql", "mysqldb"):
        options["connect_args"] = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT}
    return options


def sqlite_file(storage: str) -> Path | None:
    """Return the file of an SQLite database; None for any other storage.

    Example:
        >>> sqlite_file("sqlite:///study.db").name
        'study.db'
    """
    if journal_file(storage) is not None:
        return None
    url = _parse(storage)
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def shown(storage: str) -> str:
    """Return a storage's URL without its password.

    Example:
        >>> shown("postgresql+psycopg://me:secret@host/studies")
        'postgresql+psycopg://me:***@host/studies'
    """
    return re.sub(r"(://[^/@]*?):.*@", r"\1:***@", storage)


def _parse(storage: str) -> "URL":
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):
        near = f"sqlite:///{storage.strip()}" if storage.strip() else "sqlite:///study.db"
        if "://" in storage or storage.partition(":")[0].partition("+")[0] in _DRIVERS:
            near = "postgresql+psycopg://user@host:5432/name"
        raise ValueError(f"storage: {shown(storage)!r} is not a database URL; did you mean {near}?") from None
    if url.drivername.partition("+")[0] == "sqlite":
        if url.host:
            near = f"sqlite:///{url.host}{'/' + url.database if url.database else ''}"
            raise ValueError(f"storage: {storage!r} names a host, and SQLite has none; did you mean {near}?")
        if url.database in (None, "", ":memory:"):
            raise ValueError(
                f"storage: {storage!r} is in the memory of one process; did you mean sqlite:///study.db?"
            )
    return url


def _unknown(url: "URL") -> ValueError:
    """Suggest a database or driver in place of one that SQLAlchemy doesn't know."""
    kind, _, driver = url.drivername.partition("+")
    if kind in _DRIVERS and driver:
        drivers = [name for name, _, _ in _DRIVERS[kind]] or ["pysqlite"]
        near = close_names(driver, drivers) or drivers
        return ValueError(
            f"storage: {kind} has no driver {driver!r}; did you mean "
            f"{_with_driver(url, kind, near[0])} (known: {', '.join(drivers)})?"
        )
    near = close_names(kind, _DRIVERS) or ["postgresql"]
    drivers = [name for name, _, _ in _DRIVERS[near[0]]]
    example = _with_driver(url, near[0], drivers[0]) if drivers else f"sqlite:///{url.database or 'study.db'}"
    known = ", ".join([*_DRIVERS, "journal"])
    return ValueError(f"storage: {kind!r} is not a known database; did you mean {example}? (known: {known})")


def _wrong_driver(url: "URL", what: str) -> ValueError:
    kind = url.get_backend_name()
    known = _DRIVERS.get(kind, ())
    for name, module, _ in known:
        if importlib.util.find_spec(module) is not None:
            return ValueError(
                f"storage: {url.drivername}://: {what}; {name} is: give {_with_driver(url, kind, name)}"
            )
    if not known:
        return ValueError(f"storage: {url.drivername}://: {what}")
    name, _, package = known[0]
    return ValueError(
        f"storage: {url.drivername}://: {what}; pip install '{package}' and give "
        f"{_with_driver(url, kind, name)}"
    )


def _with_driver(url: "URL", kind: str, driver: str) -> str:
    return url.set(drivername=f"{kind}+{driver}").render_as_string(hide_password=True)


def _check_file(url: "URL") -> None:
    """Raise an error if this can't be an SQLite file, without creating one."""
    path = Path(str(url.database))
    if str(path).startswith("file:"):  # SQLite's own form of a URL
        return
    if path.is_dir():
        raise ValueError(f"storage: {str(path)!r} is a folder; did you mean sqlite:///{path / 'study.db'}?")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"storage: there is no folder {str(path.parent)!r} for the file {path.name!r}")
    writable = path if path.exists() else path.absolute().parent
    if not os.access(writable, os.W_OK):
        raise ValueError(f"storage: {str(writable)!r} may not be written to")
    if not path.exists():
        return
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):  # another process holds it, and will release it
            raise ValueError(f"storage: {str(path)!r} can't be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        raise ValueError(f"storage: {str(path)!r} is not an SQLite database: {error}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of what a driver says of an error, or of the error itself."""
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return said.splitlines()[0].strip().rstrip(".")
