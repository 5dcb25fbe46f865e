"""Which certificate nginx serves: that of certbot, of the person, or a self-signed one until there is another.

nginx never reads the files of others: what it serves is a checked copy in the container's own folder, so that a
half-written, expired or mismatched pair cannot keep it from starting. The copy is replaced when the original changes;
that is how a renewal by the container `certbot` becomes known.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .settings import GatewayError, Settings

OPENSSL = "/usr/bin/openssl"
# The name under which certbot keeps it, whatever the domain.
LINEAGE = "media-pipeline"
_OWN_DAYS = 3650
# In the place of one that is missing or has expired: too short for the alert "certificate below 14 days" to be content.
_STOPGAP_DAYS = 7
# It may expire without changing.
_LOOK_S = 3600.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, and its key, as PEM."""

    chain: bytes
    key: bytes


class Certificates:
    """Args: settings; `say` is told, once, what is served and why."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._served: Pair | None = None
        self._good: Pair | None = None
        self._seen: object = None
        self._look_again = 0.0
        self.said = ""

    @property
    def wanted(self) -> tuple[Path, Path] | None:
        """Where chain and key are expected; None for the self-signed one."""
        settings = self._settings
        if settings.tls == "acme":
            folder = settings.certificates / "live" / LINEAGE
        elif settings.tls == "files":
            folder = settings.secrets / "tls"
        else:
            return None
        return folder / "fullchain.pem", folder / "privkey.pem"

    def refresh(self) -> bool:
        """Copy what is to be served; True when it is another one than before."""
        seen = [_stamp(path) for path in self.wanted or ()]
        if self._served and seen == self._seen and time.time() < self._look_again:
            return False
        self._seen, self._look_again = seen, time.time() + _LOOK_S
        pair, self.said = self._choose()
        if pair == self._served:
            return False
        target = self._settings.run / "tls"
        for name, content in (("fullchain.pem", pair.chain), ("privkey.pem", pair.key)):
            temporary = target / f".{name}"
            temporary.touch(mode=0o600)
            temporary.write_bytes(content)
            temporary.replace(target / name)
        self._served = pair
        return True

    def _choose(self) -> tuple[Pair, str]:
        wanted = self.wanted
        if wanted is None:
            return self._own(), (
                "certificate: self-signed, browsers warn of it; MEDIA_PIPELINE_SERVER__TLS=acme or files replaces it"
            )
        try:
            pair = read(*wanted)
        except GatewayError as error:
            if self._good and end_of(self._good) > time.time():
                # One of the two files has been replaced, the other one will be.
                return self._good, f"certificate: the one before, for now: {error}"
            return self._own(), f"certificate: self-signed for now: {error}"
        end = end_of(pair)
        if end < time.time():
            return self._own(), f"certificate: self-signed: {wanted[0]} has expired on {_day(end)}; {self._remedy()}"
        self._good = pair
        return pair, f"certificate: {wanted[0]}, until {_day(end)}"

    def _remedy(self) -> str:
        if self._settings.tls == "acme":
            return "docker compose logs certbot says why it was not renewed"
        return "put a new pair into secrets/gateway/tls"

    def _own(self) -> Pair:
        """Kept where the other certificates are, so that what a person has told the browser about it stays true."""
        folder = self._settings.certificates / "own"
        domain = self._settings.domain
        stopgap = self.wanted is not None
        name = f"{domain}.stopgap" if stopgap else domain
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        try:
            pair = read(chain, key)
            if end_of(pair) > time.time():
                return pair
        except GatewayError:
            pass
        made = self_signed(domain, _STOPGAP_DAYS if stopgap else _OWN_DAYS)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for path, content in ((key, made.key), (chain, made.chain)):
                path.unlink(missing_ok=True)
                path.touch(mode=0o600)
                path.write_bytes(content)
        except OSError:
            # A new one at every start is better than none.
            return made
        return made


def read(chain: Path, key: Path) -> Pair:
    """
    Raises:
        GatewayError: missing, unreadable, or not a pair
    """
    try:
        pair = Pair(chain.read_bytes(), key.read_bytes())
    except FileNotFoundError as error:
        remedy = "certbot is at it, or says in its log why not" if LINEAGE in chain.parts else "put the pair there"
        raise GatewayError(f"{error.filename} is not there", remedy) from None
    except OSError as error:
        raise GatewayError(
            f"{error.filename} cannot be read: {error.strerror}", f"give it to user {os.getuid()}"
        ) from None
    with tempfile.TemporaryDirectory() as scratch:
        chain_copy, key_copy = Path(scratch, "chain"), Path(scratch, "key")
        chain_copy.write_bytes(pair.chain)
        key_copy.touch(mode=0o600)
        key_copy.write_bytes(pair.key)
        try:
            # An empty password rather than a question at a terminal that nobody sees.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain_copy, key_copy, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            raise GatewayError(
                f"{chain} and {key.name} are no certificate with its key ({error})",
                "fullchain.pem holds the certificate and its chain, privkey.pem the key without a password, as PEM",
            ) from None
    return pair


def end_of(pair: Pair) -> float:
    """Seconds since 1970."""
    done = subprocess.run(  # noqa: S603
        [OPENSSL, "x509", "-noout", "-enddate"], input=pair.chain, capture_output=True, timeout=30, check=True
    )
    return ssl.cert_time_to_seconds(done.stdout.decode().strip().partition("=")[2])


def self_signed(domain: str, days: int = _OWN_DAYS) -> Pair:
    names = f"DNS:{domain},DNS:localhost,IP:127.0.0.1"
    if domain.replace(".", "").isdigit():
        names += f",IP:{domain}"
    with tempfile.TemporaryDirectory() as scratch:
        chain, key = Path(scratch, "chain"), Path(scratch, "key")
        # More than 64 characters do not fit into a common name, and nobody looks there any more.
        subprocess.run(  # noqa: S603
            [
                *(OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", str(days), "-subj", f"/CN={domain[:64]}", "-addext", f"subjectAltName={names}"),
                *("-keyout", str(key), "-out", str(chain)),
            ],
            capture_output=True,
            timeout=60,
            check=True,
        )
        return Pair(chain.read_bytes(), key.read_bytes())


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
