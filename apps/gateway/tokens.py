"""Tokens: short-lived signed access tokens, and refresh tokens that can be made again.

An access token is an EdDSA JWT of type `at+jwt` (RFC 9068). A refresh token is opaque to its
device; here it is `family || n || HMAC(secret, LP("sl1/refresh-token", family, n))`, so that the
successor of a lost answer can be given again without keeping it. Only its hash is stored.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.codec import lp
from protocol.faults import Code, refuse
from protocol.ids import ID_BYTES, new_id, parse_hex

TYPE = "at+jwt"
AUDIENCE = "syncline"
LEEWAY_S = 5
READ_MAX = 10_000  # verified tokens that are remembered
_MAC_BYTES = 32
_REFRESH_BYTES = ID_BYTES + 8 + _MAC_BYTES


class Secrets(NamedTuple):
    """What only the server knows. Kept together, because losing any of them ends all sessions."""

    keys: Mapping[str, Ed25519PrivateKey]  # by kid; the first one signs
    pepper: bytes
    refresh: bytes


class Access(NamedTuple):
    """What a good access token says."""

    account: bytes
    device: bytes
    family: bytes


def parse_keys(text: str) -> dict[str, Ed25519PrivateKey]:
    """Read `kid:seed,…`; seeds are 32 bytes as hex or base64url. Raises ValueError.

    A seed alone gets its public key's hash as kid.
    """
    keys = {}
    for part in text.split(","):
        kid, _, seed = part.strip().rpartition(":")
        raw = _bytes_of(seed)
        if len(raw) != 32:
            raise ValueError("JWT_KEYS: expected kid:seed,… with seeds of 32 bytes")
        kid = kid or _kid_of(raw)
        if kid in keys:
            raise ValueError(f"JWT_KEYS: the kid {kid!r} stands there twice")
        keys[kid] = Ed25519PrivateKey.from_private_bytes(raw)
    return keys


def _kid_of(seed: bytes) -> str:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return hashlib.sha256(public).hexdigest()[:16]


def _bytes_of(text: str) -> bytes:
    raw = parse_hex(text, 32)
    if raw is not None:
        return raw
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


def secrets_from(jwt_keys: str, secret: str, folder: Path | None) -> Secrets:
    """Return the server's secrets: as set, else as kept in `folder` (made there once, 0600).

    Raises ValueError when something is neither set nor can be kept.
    """
    kept: dict[str, str] = {}
    if not jwt_keys or not secret:
        if folder is None:
            raise ValueError("set SYNCLINE_JWT_KEYS and SYNCLINE_SECRET, or SYNCLINE_STORAGE_DIR")
        kept = _kept(folder / "secrets.json")
    root = secret.encode() if secret else bytes.fromhex(kept["secret"])
    return Secrets(
        keys=parse_keys(jwt_keys or kept["jwt_keys"]),
        pepper=_derive(root, b"sl1/pepper"),
        refresh=_derive(root, b"sl1/refresh"),
    )


def _derive(root: bytes, label: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label).derive(root)


def _kept(path: Path) -> dict[str, str]:
    """Read the secrets file, after making it if need be. Two that start at once agree on one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
        made = {"jwt_keys": f"k1:{os.urandom(32).hex()}", "secret": os.urandom(32).hex()}
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, json.dumps(made).encode())
            os.fsync(file)
        finally:
            os.close(file)
        try:
            os.link(fresh, path)  # never replaces: the first one wins
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


class Tokens:
    """Makes and reads tokens. Knows nothing of sessions that were ended; `sessions` does."""

    def __init__(self, secrets: Secrets, issuer: str, ttl_s: int) -> None:
        self._secrets = secrets
        self._kid, self._key = next(iter(secrets.keys.items()))
        self._public = {kid: key.public_key() for kid, key in secrets.keys.items()}
        self._issuer = issuer
        self._ttl_s = ttl_s
        self._read: OrderedDict[str, tuple[int, Access]] = OrderedDict()

    def access(self, access: Access, now_ms: int) -> tuple[str, int]:
        """Return a signed token and its end in ms."""
        now_s = now_ms // 1000
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": access.account.hex(),
            "did": access.device.hex(),
            "sid": access.family.hex(),
            "jti": new_id(os.urandom).hex(),
            "iat": now_s,
            "exp": now_s + self._ttl_s,
        }
        headers = {"typ": TYPE, "kid": self._kid}
        token = jwt.encode(claims, self._key, algorithm="EdDSA", headers=headers)
        return token, (now_s + self._ttl_s) * 1000

    def read(self, token: str) -> Access:
        """Verify an access token. Raises Refusal: TOKEN_EXPIRED, UNAUTHENTICATED.

        A good one is remembered while it lasts: the same device asks many times a minute.
        """
        known = self._read.get(token)
        if known is not None and known[0] > time.time():
            return known[1]
        expires_s, access = self._verify(token)
        self._read[token] = (expires_s, access)
        if len(self._read) > READ_MAX:
            self._read.popitem(last=False)
        return access

    def _verify(self, token: str) -> tuple[int, Access]:
        try:
            header = jwt.get_unverified_header(token)
            key = self._public.get(str(header.get("kid")))
            if header.get("typ") != TYPE or header.get("alg") != "EdDSA" or key is None:
                raise refuse(Code.UNAUTHENTICATED)
            claims = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["iss", "aud", "exp", "iat", "jti", "sid", "did", "sub"]},
            )
            found = [parse_hex(str(claims[name])) for name in ("sub", "did", "sid")]
        except jwt.ExpiredSignatureError:
            raise refuse(Code.TOKEN_EXPIRED) from None
        except (jwt.PyJWTError, ValueError):
            raise refuse(Code.UNAUTHENTICATED) from None
        account, device, family = found
        if account is None or device is None or family is None:
            raise refuse(Code.UNAUTHENTICATED)
        return int(claims["exp"]), Access(account, device, family)

    def refresh(self, family: bytes, n: int) -> str:
        """Return refresh token number `n` of a family: always the same one."""
        raw = family + n.to_bytes(8, "big") + self._mac(family, n)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def read_refresh(self, token: str) -> tuple[bytes, int] | None:
        """Return (family, n) of a token that this server made, else None."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(raw) != _REFRESH_BYTES:
            return None
        family, n = raw[:ID_BYTES], int.from_bytes(raw[ID_BYTES : ID_BYTES + 8], "big")
        good = hmac.compare_digest(raw[-_MAC_BYTES:], self._mac(family, n))
        return (family, n) if good else None

    def _mac(self, family: bytes, n: int) -> bytes:
        said = lp("sl1/refresh-token", family, n)
        return hmac.digest(self._secrets.refresh, said, "sha256")


def token_hash(token: str) -> bytes:
    """Return what is stored of a refresh token."""
    return hashlib.sha256(token.encode()).digest()


# The y coordinates of the eight points of small order, and what encodes them besides: for such a
# key anybody can make signatures, and OpenSSL takes them.
_WEAK_KEYS = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


def verified(public: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether an Ed25519 signature is good; False for keys that are none, or weak."""
    if public[:-1] + bytes([public[-1] & 0x7F]) in _WEAK_KEYS:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
