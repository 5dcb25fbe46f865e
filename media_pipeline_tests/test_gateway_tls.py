"""Certificates: self-signed, files that change, and Let's Encrypt by a real ACME server that fetches its challenge."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from media_pipeline_tests._gateway import (
    OPERATOR,
    ROOT,
    Stack,
    free_port,
    needs_acme,
    needs_nginx,
    prepare,
    stack,
    start,
    stop,
    wait_for,
)

sys.path.insert(0, str(ROOT / "deploy"))

from gateway.certificates import self_signed

pytestmark = [pytest.mark.slow, needs_nginx]
DOMAIN = "media.example.org"


def served(gateway: Stack, name: str = DOMAIN) -> x509.Certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", gateway.https), timeout=20)
    with plain, context.wrap_socket(plain, server_hostname=name) as connection:
        found = connection.getpeercert(binary_form=True)
        assert found
        return x509.load_der_x509_certificate(found)


def pair(common_name: str, days: int = 30) -> tuple[bytes, bytes]:
    """Chain and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def subject(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_its_own_certificate_stays_the_same(tmp_path: Path) -> None:
    made = prepare(tmp_path, MEDIA_PIPELINE_SERVER__DOMAIN=DOMAIN)
    try:
        made.start()
        first = served(made)
        assert subject(first) == DOMAIN and first.issuer == first.subject
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert DOMAIN in names.get_values_for_type(x509.DNSName)
        assert "self-signed" in made.log() and "MEDIA_PIPELINE_SERVER__TLS" in made.log()
        stop(made.processes["run"])
        made.processes["run"] = start("run", made.environment, tmp_path / "gateway.log")
        made.await_ready()
        assert served(made).serial_number == first.serial_number, "what a browser was told about it stays true"
        keys = [*(tmp_path / "certificates").rglob("*.key"), *(tmp_path / "run" / "tls").glob("priv*")]
        assert len(keys) == 2 and all(path.stat().st_mode & 0o077 == 0 for path in keys)
    finally:
        made.close()


def test_files_are_served_and_watched(tmp_path: Path) -> None:
    with stack(tmp_path, MEDIA_PIPELINE_SERVER__TLS="files", MEDIA_PIPELINE_SERVER__DOMAIN=DOMAIN) as gateway:
        folder = gateway.secrets / "tls"
        assert "self-signed for now" in gateway.log() and str(folder) in gateway.log()
        folder.mkdir()

        def write(chain: bytes, key: bytes) -> None:
            (folder / "fullchain.pem").write_bytes(chain)
            (folder / "privkey.pem").write_bytes(key)

        write(*pair("one"))
        wait_for(lambda: subject(served(gateway)) == "one", "the files are served")
        # Only one of the two has been replaced so far.
        chain, key = pair("two")
        (folder / "fullchain.pem").write_bytes(chain)
        wait_for(lambda: "the one before, for now" in gateway.log(), "it says that they are no pair")
        assert subject(served(gateway)) == "one"
        (folder / "privkey.pem").write_bytes(key)
        wait_for(lambda: subject(served(gateway)) == "two", "the pair is complete")
        write(b"nonsense", b"nonsense")
        wait_for(lambda: gateway.log().count("the one before, for now") >= 2, "nonsense is no pair")
        assert subject(served(gateway)) == "two"
        write(*pair("three", days=-1))
        wait_for(lambda: "has expired on" in gateway.log(), "an expired one is named")
        # While nginx reloads, the next connection may still meet a worker with the former one.
        own = wait_for(
            lambda: found if subject(found := served(gateway)) == DOMAIN else None,
            "its own in the place of an expired one",
        )
        left = own.not_valid_after_utc - datetime.now(UTC)
        assert left < timedelta(days=14), "the alert for a certificate that ends must not be silenced by it"
        with gateway.client(OPERATOR) as client:
            assert client.get("/").status_code == 200
        assert gateway.processes["run"].poll() is None


@pytest.mark.parametrize("content", [pair("late", days=-1), (b"", b""), (pair("a")[0], pair("b")[1])])
def test_a_bad_certificate_does_not_keep_it_from_starting(tmp_path: Path, content: tuple[bytes, bytes]) -> None:
    made = prepare(tmp_path, MEDIA_PIPELINE_SERVER__TLS="files", MEDIA_PIPELINE_SERVER__DOMAIN=DOMAIN)
    try:
        (made.secrets / "tls").mkdir()
        (made.secrets / "tls" / "fullchain.pem").write_bytes(content[0])
        (made.secrets / "tls" / "privkey.pem").write_bytes(content[1])
        made.start()
        assert subject(served(made)) == DOMAIN
        assert "certificate: self-signed" in made.log()
    finally:
        made.close()


@contextmanager
def acme_server(gateway: Stack) -> Iterator[dict[str, str]]:
    """pebble, which looks names up at our DNS server and fetches the challenge from our nginx. Yields settings."""
    folder = gateway.folder / "pebble"
    folder.mkdir()
    own = self_signed("localhost")
    (folder / "ca.pem").write_bytes(own.chain)
    (folder / "key.pem").write_bytes(own.key)
    port = free_port()
    configuration = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{free_port()}",
        "certificate": str(folder / "ca.pem"),
        "privateKey": str(folder / "key.pem"),
        "httpPort": gateway.http,
        "tlsPort": free_port(),
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    (folder / "config.json").write_text(json.dumps({"pebble": configuration}))
    environment = os.environ | {"PEBBLE_VA_ALWAYS_VALID": "0", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["pebble", "-config", str(folder / "config.json"), "-dnsserver", gateway.names.address],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close() is None, "pebble listens")
        yield {
            "MEDIA_PIPELINE_SERVER__ACME_URL": f"https://127.0.0.1:{port}/dir",
            "GATEWAY_ACME_CA": str(folder / "ca.pem"),
        }
    finally:
        stop(server)


@needs_acme
def test_acme_obtain_serve_renew_reload(tmp_path: Path) -> None:
    with stack(
        tmp_path,
        MEDIA_PIPELINE_SERVER__TLS="acme",
        MEDIA_PIPELINE_SERVER__DOMAIN=DOMAIN,
        MEDIA_PIPELINE_SERVER__ACME_EMAIL="admin@example.org",
        GATEWAY_RENEW_SECONDS="2",
    ) as gateway:
        assert subject(served(gateway)) == DOMAIN and served(gateway).issuer == served(gateway).subject
        assert "self-signed for now" in gateway.log()
        with acme_server(gateway) as settings:
            certbot_log = tmp_path / "certbot.log"
            gateway.processes["certbot"] = start("certbot", gateway.environment | settings, certbot_log)
            # The name does not resolve yet: the challenge is truly looked for, and failing is no end.
            wait_for(
                lambda: f"no certificate for {DOMAIN} this time" in certbot_log.read_text(), "a failure with remedy"
            )
            assert "port 80" in certbot_log.read_text()
            assert gateway.processes["certbot"].poll() is None
            gateway.names.known[DOMAIN] = "127.0.0.1"
            wait_for(lambda: "Pebble" in served(gateway).issuer.rfc4514_string(), "the certificate is served", 120)
            assert "/.well-known/acme-challenge/" in gateway.log()
            first = served(gateway)
            names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == [DOMAIN]
            master = (tmp_path / "run" / "nginx.pid").read_text()

            # Far from its end it is left alone; what makes it due is certbot's own setting.
            wait_for(lambda: "not yet due" in certbot_log.read_text(), "nothing is renewed without need", 120)
            assert served(gateway).serial_number == first.serial_number
            renewal = next((tmp_path / "certificates" / "renewal").glob("*.conf"))
            text = renewal.read_text()
            renewal.write_text(
                re.sub(r"^# renew_before_expiry.*$", "renew_before_expiry = 9999 days", text, flags=re.M)
            )
            assert "9999" in renewal.read_text()
            wait_for(lambda: served(gateway).serial_number != first.serial_number, "the renewed one is served", 120)
            assert "Pebble" in served(gateway).issuer.rfc4514_string()
            assert (tmp_path / "run" / "nginx.pid").read_text() == master, "reloaded, not restarted"
            with gateway.client(OPERATOR) as client:
                assert client.get("/").status_code == 200
            assert stop(gateway.processes.pop("certbot")) == 0
        key = next((tmp_path / "certificates" / "archive").rglob("privkey*.pem"))
        assert key.stat().st_mode & 0o077 == 0


@needs_acme
def test_certbot_without_acme_has_nothing_to_do(tmp_path: Path) -> None:
    made = prepare(tmp_path)
    try:
        process = start("certbot", made.environment, tmp_path / "certbot.log")
        wait_for(lambda: "nothing to do" in (tmp_path / "certbot.log").read_text(), "it says so")
        wait_for(lambda: (tmp_path / "run" / "certbot" / "alive").exists(), "it is healthy")
        assert process.poll() is None
        assert stop(process) == 0
    finally:
        made.close()
