"""Failures of the server, the keys and the disk, as errors for people."""

from collections.abc import Iterator
from contextlib import contextmanager

from argon2.exceptions import HashingError

from client_agent.adapters.account import SignedOut
from client_agent.adapters.secrets import KeystoreLocked
from client_agent.adapters.server import Insecure, Offline, ServerFault
from client_agent.cli.output import CliError, Exit, exit_of
from client_agent.crypto.devices import DeviceListBroken
from client_agent.crypto.keys import EpochMissing, WeakKdf
from client_agent.crypto.seal import SealBroken
from protocol.faults import MEANINGS


@contextmanager
def explained(server: str) -> Iterator[None]:
    """Turn what talking with the server may raise into a CliError."""
    try:
        yield
    except Offline as error:
        raise CliError(
            "offline", f"The server at {server} does not answer", str(error),
            "Your files are untouched. Check the address and the network, then try again.",
            Exit.TEMPORARY, True,
        ) from None
    except ServerFault as error:
        meaning = MEANINGS[error.code]
        raise CliError(
            error.fault.code, meaning.title, error.fault.about, meaning.hint,
            exit_of(error.fault.code), meaning.retryable, error.trace_id,
        ) from None
    except Insecure as error:
        raise CliError(
            "insecure", "The connection would not be encrypted", str(error),
            "Use an https:// address.", Exit.FATAL,
        ) from None
    except KeystoreLocked as error:
        raise CliError(
            "keystore_locked", "The keystore does not answer", str(error), "Unlock it.",
            Exit.SIGNED_OUT,
        ) from None
    except SignedOut as error:
        raise CliError(
            "signed_out", "This device is not signed in", str(error), "Run: syncline login",
            Exit.SIGNED_OUT,
        ) from None
    except (SealBroken, DeviceListBroken, EpochMissing, WeakKdf) as error:
        raise CliError(
            "keys_broken", "What the server sent does not fit the account's keys",
            f"{type(error).__name__}: {error}",
            "Nothing was changed here. Do not enter the password again until this is explained.",
            Exit.FATAL,
        ) from None
    except HashingError as error:
        raise CliError("memory", "The password could not be hashed", str(error)) from None
    except ValueError as error:
        raise CliError("usage", str(error), exit=Exit.USAGE) from None
