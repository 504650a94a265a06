"""What goes wrong in the database, in the words of the ports."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from actors.ports import Overtaken, Unreachable

# Somebody else was at work on the same rows: a turn that is run again sees what they did.
_OVERTAKEN = (
    asyncpg.UniqueViolationError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,  # a migration changed a table under a prepared statement
)

# The database is away, going, full or too slow; nothing about the message is wrong.
_UNREACHABLE = (
    OSError,  # and TimeoutError, its subclass: a connection or statement took too long
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,  # a failover left us on a standby
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.InternalClientError,  # used between the server's last words and the end of the stream
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise Overtaken or Unreachable for what the database raises; leave bugs as they are."""
    try:
        yield
    except _OVERTAKEN as error:
        raise Overtaken(f"database: {error}") from error
    except _UNREACHABLE as error:
        raise Unreachable(f"database: {type(error).__name__}: {error}") from error
    except asyncpg.InterfaceError as error:
        if "clos" not in str(error):  # "connection is closed", "pool is closing": not our mistake
            raise
        raise Unreachable(f"database: {error}") from error
