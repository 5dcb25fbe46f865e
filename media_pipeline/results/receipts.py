"""Signed receipts: what was erased when, without saying what it was.

A receipt names nothing in clear. A medium appears as HMAC-SHA256 of its id under a salt of the receipt: whoever has
the id, or the file, can check that it is meant, and nobody else learns it. Ids of persons and voices are short and
could be tried out one after the other, so they go through scrypt (RFC 7914) first. The body is canonical JSON, signed
with Ed25519 (RFC 8032); the key is made at the first receipt and stays in `<home>/keys`, readable to its owner only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from filelock import FileLock

from media_pipeline.errors import UsageError

FORMAT = "media-pipeline erasure receipt 1"
KEY_FILE = "receipts.ed25519"
_SALT_BYTES = 16
_SCRYPT = {"n": 1 << 14, "r": 8, "p": 1, "dklen": 32}


@dataclass(frozen=True, slots=True)
class Target:
    """Something that was erased."""

    kind: str  # medium, person, voice
    identity: str  # media_id, person_id or voice_id


class Signer:
    """The key of one home."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / KEY_FILE

    def sign(self, facts: Mapping[str, Any], targets: Sequence[Target]) -> dict[str, Any]:
        """A receipt: these facts, the targets in blind form, the public key and the signature."""
        key, salt = self._key(), secrets.token_bytes(_SALT_BYTES)
        body = {
            **facts,
            "format": FORMAT,
            "salt": salt.hex(),
            "erased": sorted((_blinded(target, salt) for target in targets), key=lambda one: (one["kind"], one["id"])),
            "public_key": _public(key.public_key()),
        }
        return body | {"signature": base64.b64encode(key.sign(canonical(body))).decode()}

    def public_key(self) -> str | None:
        """Of this home, base64; None as long as it has signed nothing."""
        return _public(self._key().public_key()) if self._file.exists() else None

    def _key(self) -> Ed25519PrivateKey:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self._file.with_suffix(".lock"), mode=0o600):
            if not self._file.exists():
                _write_private(self._file, Ed25519PrivateKey.generate())
            key = serialization.load_pem_private_key(self._file.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"{self._file} is no Ed25519 key", "move it away; a new one is made")
        return key


def verify(receipt: Mapping[str, Any]) -> str:
    """The public key (base64) that signed this receipt as it stands.

    Raises:
        UsageError: it is no receipt, or was changed since.
    """
    body = {name: value for name, value in receipt.items() if name != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(str(body["public_key"]), validate=True))
        key.verify(base64.b64decode(str(receipt["signature"]), validate=True), canonical(body))
    except (KeyError, ValueError):
        raise UsageError("this is no receipt of an erasure", "name a file of the folder `receipts`") from None
    except InvalidSignature:
        raise UsageError("the signature does not fit: the receipt was changed", "trust the original only") from None
    return str(body["public_key"])


def names(receipt: Mapping[str, Any], identity: str) -> str | None:
    """The kind of target under which a receipt speaks of this id; None where it does not."""
    salt = bytes.fromhex(receipt["salt"])
    for target in receipt["erased"]:
        expected = _blinded(Target(target["kind"], identity), salt)["id"]
        if hmac.compare_digest(expected, target["id"]):
            return str(target["kind"])
    return None


def canonical(body: Mapping[str, Any]) -> bytes:
    """JSON in the one form that is signed: sorted keys, no blanks, UTF-8, finite numbers."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _blinded(target: Target, salt: bytes) -> dict[str, str]:
    secret = target.identity.encode()
    if target.kind != "medium":
        secret = hashlib.scrypt(secret, salt=salt, **_SCRYPT)
    return {"kind": target.kind, "id": hmac.digest(salt, secret, "sha256").hex()}


def _public(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes_raw()).decode()


def _write_private(file: Path, key: Ed25519PrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(file, pem)


def write_private(file: Path, data: bytes) -> None:
    """A file that only its owner may read, complete and on the disk or not there at all; folders likewise."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as sink:
        sink.write(data)
        sink.flush()
        os.fsync(sink.fileno())
    partial.replace(file)
