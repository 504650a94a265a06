"""Names of the two PostgreSQL schemas, and the session settings by which SQL finds its tables.

Our SQL names tables without a schema: every connection's `search_path` holds the installation's
two schemas, so that several installations (`SYNCLINE_NAMESPACE`) share one database. Table names
are unique across both.
"""

import re
from typing import NamedTuple

IDLE_TURN_MS = 30_000  # a host that hangs in mid turn loses its locks; above limits.TURN_TIMEOUT_S

_NAMESPACE = re.compile(r"[a-z0-9_]{0,40}")  # leaves room below PostgreSQL's 63 bytes of a name


class Schemas(NamedTuple):
    """The schemas of one installation."""

    accounts: str
    metadata: str

    @property
    def search_path(self) -> str:
        """The value of `search_path`. New unqualified tables would land in `metadata`."""
        return f'"{self.metadata}", "{self.accounts}"'

    def put_into(self, script: str) -> str:
        """Return SQL with the names for `{accounts}` and `{metadata}`."""
        return script.replace("{accounts}", f'"{self.accounts}"').replace(
            "{metadata}", f'"{self.metadata}"'
        )


def schemas(namespace: str) -> Schemas:
    """Return the names: `accounts`, `metadata`, or with a namespace `<namespace>_accounts` …

    Raises:
        ValueError: not lower-case letters, digits and underscores, or longer than 40.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"a namespace has 0 to 40 of a-z, 0-9, _: {namespace!r}")
    prefix = f"{namespace}_" if namespace else ""
    return Schemas(f"{prefix}accounts", f"{prefix}metadata")


def server_settings(namespace: str, name: str = "syncline") -> dict[str, str]:
    """Return what a connection tells the server when it starts."""
    return {
        "application_name": name,
        "search_path": schemas(namespace).search_path,
        "timezone": "UTC",
        "jit": "off",  # our statements touch few rows: compiling them costs more than running
        "enable_seqscan": "off",  # a plan that was made while a table was small stays good
        "idle_in_transaction_session_timeout": f"{IDLE_TURN_MS}ms",
    }
