"""Alerts against real servers of this machine: an HTTP server, and a mail server with and without STARTTLS."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import hashlib
import hmac
import json
import logging
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from media_pipeline.config import Alerts, load_settings
from media_pipeline.errors import UsageError
from media_pipeline.results.alerts import SIGNATURE, TIMESTAMP, Delivery, alert_body, channels, deliver
from media_pipeline.storage.moderation import ModerationStore
from media_pipeline_tests._moderation_home import moderation_home

REASON = {"rule": "nudity", "severity": "block", "text": "Nudity.", "found": "X", "score": 0.9, "frame_index": 2}
ROW = {
    "media_id": "a" * 64,
    "verdict": "block",
    "rules_version": "1@x",
    "at": datetime(2026, 1, 1, tzinfo=UTC),
    "reasons": [REASON | {"pts_s": 61.5, "x1": 1.0, "y1": 1.0, "x2": 2.0, "y2": 2.0}],
}
PASSWORD = "hunter2-äöü"


@dataclass
class Hook:
    """What a webhook was sent, and what it answers next (200 when nothing is said)."""

    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)


@pytest.fixture
def hook() -> Iterator[Hook]:
    state = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.got.append((dict(self.headers), body))
            self.send_response(state.answers.pop(0) if state.answers else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/hook?token=s3cret"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@dataclass
class MailServer:
    """What a mail server of the least that SMTP asks for (RFC 5321) was told."""

    port: int = 0
    encrypted: list[bool] = field(default_factory=list)  # of each message
    logins: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    refuse: bool = False


def mail_server(state: MailServer, context: ssl.SSLContext | None) -> socketserver.ThreadingTCPServer:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            is_encrypted = False
            self.say("220 ready")
            while line := self.rfile.readline().decode().strip():
                command = line.split()[0].upper()
                if command == "EHLO":
                    offers = [] if is_encrypted or context is None else ["STARTTLS"]
                    offers += ["AUTH PLAIN", "8BITMIME", "SMTPUTF8"]
                    for offer in ["test", *offers[:-1]]:
                        self.say(f"250-{offer}")
                    self.say(f"250 {offers[-1]}")
                elif command == "STARTTLS" and context is not None:
                    self.say("220 go on")
                    self.connection = context.wrap_socket(self.connection, server_side=True)
                    self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
                    is_encrypted = True
                elif command == "AUTH":
                    state.logins.append(base64.b64decode(line.split()[2]).decode())
                    self.say("235 welcome")
                elif command == "RCPT" and state.refuse:
                    self.say("550 nobody of this name")
                elif command == "DATA":
                    self.say("354 go on")
                    lines = list(iter(self.rfile.readline, b".\r\n"))
                    state.messages.append(b"".join(lines))
                    state.encrypted.append(is_encrypted)
                    self.say("250 taken")
                elif command == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 well")

        def finish(self) -> None:
            with contextlib.suppress(OSError):  # whoever does not trust us is gone already
                super().finish()
            self.connection.close()

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that does not trust us hangs up in the middle

    return Server(("127.0.0.1", 0), Handler)


@pytest.fixture
def mail(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Iterator[MailServer]:
    context = None
    if getattr(request, "param", "starttls") == "starttls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    state = MailServer()
    with mail_server(state, context) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that no authority knows, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "server.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pkcs8 = serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return folder / "server.pem", folder / "server.key"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModerationStore]:
    made = ModerationStore(tmp_path / "moderation.sqlite")
    yield made
    made.close()


def send(store: ModerationStore, settings: Alerts, tmp_path: Path, media: int = 1) -> tuple[Delivery, list[float]]:
    """Plans alerts for so many media, sends them, and says what came of it and how long was waited in between."""
    names = [channel.name for channel in channels(settings)]
    bodies = {f"{n:064}": alert_body(ROW | {"media_id": f"{n:064}"}, f"été {n}\x1b.jpg") for n in range(media)}
    store.plan_alerts(names, bodies)
    store.release_alerts(bodies)
    waits: list[float] = []
    return deliver(store, settings, tmp_path / "alerts.lock", waits.append), waits


def by_mail(server: MailServer, **changes: Any) -> Alerts:
    return Alerts(email_to="a@example.org, b@example.org", smtp_host="127.0.0.1", smtp_port=server.port, **changes)


def test_a_webhook_gets_signed_json(hook: Hook, store: ModerationStore, tmp_path: Path) -> None:
    settings = Alerts(webhook_url=SecretStr(hook.url), webhook_secret=SecretStr(PASSWORD))
    delivery, _ = send(store, settings, tmp_path, media=2)
    assert (delivery.sent, delivery.waiting, delivery.warnings) == (2, 0, ())
    ((headers, body),) = hook.got  # one message, not one per medium
    signed = f"{headers[TIMESTAMP]}.".encode() + body
    assert headers[SIGNATURE] == "sha256=" + hmac.new(PASSWORD.encode(), signed, hashlib.sha256).hexdigest()
    assert abs(int(headers[TIMESTAMP]) - time.time()) < 60
    message = json.loads(body)
    assert message["event"] == "media.blocked"
    assert message["text"].startswith("2 media newly blocked: été 0")
    first = message["media"][0]
    assert (first["media_id"], first["verdict"], first["name"]) == (f"{0:064}", "block", "été 0\x1b.jpg")
    assert (first["reasons"][0]["rule"], first["reasons"][0]["pts_s"]) == ("nudity", 61.5)
    assert len({medium["alert_id"] for medium in message["media"]}) == 2


def test_a_server_that_is_busy_is_asked_again(hook: Hook, store: ModerationStore, tmp_path: Path) -> None:
    hook.answers = [503, 500]
    delivery, waits = send(store, Alerts(webhook_url=SecretStr(hook.url), retries=2), tmp_path)
    assert (delivery.sent, delivery.waiting, waits) == (1, 0, [1.0, 2.0])
    assert SIGNATURE not in hook.got[0][0]


@pytest.mark.parametrize("answer", [500, 404, 302])
def test_what_is_not_taken_waits_for_the_next_batch(
    hook: Hook, store: ModerationStore, tmp_path: Path, answer: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Alerts(webhook_url=SecretStr(hook.url), webhook_secret=SecretStr(PASSWORD), retries=0)
    hook.answers = [answer]
    delivery, _ = send(store, settings, tmp_path)
    assert (delivery.sent, delivery.waiting) == (0, 1)
    assert delivery.warnings == (f"an alert waits for the next batch: the webhook answered with status {answer}",)
    assert deliver(store, settings, tmp_path / "alerts.lock").sent == 1
    assert len(hook.got) == 2
    assert PASSWORD not in caplog.text


def test_a_server_that_is_not_there_keeps_its_address_to_itself(store: ModerationStore, tmp_path: Path) -> None:
    settings = Alerts(webhook_url=SecretStr("http://user:pass@127.0.0.1:1/s3cret"), retries=0)
    delivery, _ = send(store, settings, tmp_path)
    assert delivery.waiting == 1
    assert delivery.warnings == ("an alert waits for the next batch: the webhook cannot be reached (ConnectError)",)
    assert "s3cret" not in repr(settings)


def test_an_e_mail_goes_encrypted_and_lists_the_media(
    mail: MailServer, store: ModerationStore, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    secret = tmp_path / "password"
    secret.write_text("geheim\n")
    settings = by_mail(mail, smtp_ca_file=certificate[0], smtp_user="us", smtp_password_file=secret)
    delivery, _ = send(store, settings, tmp_path, media=60)
    assert (delivery.sent, delivery.warnings) == (60, ())
    assert (mail.encrypted, mail.logins) == ([True], ["\0us\0geheim"])
    message = email.message_from_bytes(mail.messages[0], policy=email.policy.default)
    assert message["Subject"] == "60 media newly blocked"
    assert message["To"] == "a@example.org, b@example.org"
    text = message.get_body().get_content()
    assert "été 0 .jpg" in text  # what could command a terminal is gone
    assert "Nudity. (X) at 61.5 s" in text
    assert "and 10 more" in text


@pytest.mark.parametrize("mail", ["plain"], indirect=True)
def test_no_password_goes_out_in_the_clear(mail: MailServer, store: ModerationStore, tmp_path: Path) -> None:
    settings = by_mail(mail, smtp_user="us", smtp_password=SecretStr(PASSWORD), retries=0)
    delivery, _ = send(store, settings, tmp_path)
    assert delivery.waiting == 1
    assert "SMTPNotSupportedError" in delivery.warnings[0]
    assert mail.logins == []


@pytest.mark.parametrize("mail", ["plain"], indirect=True)
def test_a_server_of_this_machine_needs_no_encryption(mail: MailServer, store: ModerationStore, tmp_path: Path) -> None:
    assert send(store, by_mail(mail, smtp_security="none"), tmp_path)[0].sent == 1
    assert mail.encrypted == [False]


def test_a_server_that_nobody_vouches_for_gets_nothing(
    mail: MailServer, store: ModerationStore, tmp_path: Path
) -> None:
    delivery, _ = send(store, by_mail(mail, retries=0), tmp_path)
    assert "SSLCertVerificationError" in delivery.warnings[0]
    assert (delivery.waiting, mail.messages) == (1, [])


def test_one_that_refuses_does_not_keep_the_other(
    hook: Hook, mail: MailServer, store: ModerationStore, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    mail.refuse = True
    settings = by_mail(mail, smtp_ca_file=certificate[0], retries=0, webhook_url=SecretStr(hook.url))
    delivery, _ = send(store, settings, tmp_path)
    assert (delivery.sent, delivery.waiting, len(hook.got)) == (1, 1, 1)
    assert delivery.warnings == (
        "an alert waits for the next batch: the mail server did not take the message (SMTPRecipientsRefused)",
    )


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"webhook_url": SecretStr("ftp://x/s3cret")}, "is no http"),
        ({"email_to": "a@example.org"}, "need a mail server"),
        ({"email_to": "a@example.org\nBcc: x@example.org", "smtp_host": "h"}, "is none"),
        ({"email_to": "nobody", "smtp_host": "h"}, "is none"),
        ({"email_to": "a@b", "smtp_host": "h", "smtp_ca_file": Path("/missing.pem")}, "is not there"),
        ({"webhook_url_file": Path("/missing")}, "cannot be read"),
        (
            {"email_to": "a@b", "smtp_host": "mx", "smtp_security": "none", "smtp_password": SecretStr("p")},
            "in the clear",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as raised:
        channels(Alerts(**settings))
    assert "s3cret" not in str(raised.value)


def test_a_misspelt_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_ALERTS__SMTP_PASWORD", "hunter2")
    with pytest.raises(UsageError) as raised:
        load_settings()
    assert "SMTP_PASWORD" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.slow
def test_judging_tells_of_what_it_blocks(hook: Hook, tmp_path: Path) -> None:
    home = moderation_home(tmp_path / "home")
    home.add("a", "b")
    home.bare("a", 0.9)
    moderation = home.moderation(alerts={"webhook_url": SecretStr(hook.url), "retries": 0})
    hook.answers = [500]
    update = moderation.update(["a", "b"])
    assert (update.blocked, update.alerts_sent, update.alerts_waiting) == (("a",), 0, 1)
    assert moderation.facts(update)["new_blocks"] == ["a.jpg (a)"]
    update = moderation.update(["b"])  # the next batch
    assert (update.blocked, update.alerts_sent, update.alerts_waiting) == ((), 1, 0)
    assert json.loads(hook.got[-1][1])["media"][0]["reasons"][0]["text"] == "Explicit nudity is to be seen."
    broken = home.moderation(alerts={"email_to": "a@example.org"})
    home.bare("b", 0.9)
    update = broken.update(["b"])
    assert update.blocked == ("b",)
    assert "need a mail server" in update.warnings[0]
    home.close()
