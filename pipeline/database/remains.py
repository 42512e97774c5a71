"""What was deleted from a SQLite file stays in it until it is wiped: in free pages, in the index of words, in the log.

`DELETE` gives pages back to the file as they are. FTS5 writes that a word is gone, with the word. The write-ahead log
holds whatever was written lately. So the index is merged into one piece, in which nothing needs a word that is
gone, VACUUM writes the whole file anew, and the log is emptied into it.

The transaction that deletes says in the file's `user_version` that this is still to be done; so a wipe that a full disk
or a kill prevented is made up for by the next one. On a server all this is its owner's: VACUUM, archived logs, backups.
"""

from __future__ import annotations

from sqlalchemy import Connection

from pipeline.database.engine import Database
from pipeline.errors import Unavailable

_NOTHING, _REMAINS = 0, 1


def mark_remains(connection: Connection) -> None:
    """In the transaction that deletes."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {_REMAINS}")


def has_remains(db: Database) -> bool:
    """Whether something was deleted, and the file not wiped since. False on a server."""
    if db.dialect != "sqlite":
        return False
    with db.read() as connection:
        return bool(connection.exec_driver_sql("PRAGMA user_version").scalar() == _REMAINS)


def wipe(db: Database) -> None:
    """Leave nothing of what was deleted in the file and those beside it. Takes as much room again, and no writer.

    Raises:
        DiskFull: the copy has no room. Unavailable: somebody reads the file. What was deleted is deleted all the same;
            the next call wipes.
    """
    with db.write() as connection:
        connection.exec_driver_sql("INSERT INTO page_search (page_search) VALUES ('optimize')")
    with db.alone() as connection:
        connection.exec_driver_sql("VACUUM")
        _empty_log(db, connection)
        connection.exec_driver_sql(f"PRAGMA user_version = {_NOTHING}")
        _empty_log(db, connection)


def _empty_log(db: Database, connection: Connection) -> None:
    is_busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    if is_busy:
        raise Unavailable(
            f"{db.name} is read by another process, so remains of what was forgotten stay in it; run the same command "
            "again when that has ended"
        )
