"""Telling somebody, of newly blocked media above all: a POST to a webhook, an e-mail, or both.

What is to be told of media waits in `moderation.sqlite` until a server has taken it: at least once, and each alert
with an id by which a receiver knows it again. A server that does not answer never stops a run; the next batch tries
again.

A webhook gets JSON. With a secret, `X-Media-Pipeline-Signature: sha256=…` is the HMAC-SHA256 (RFC 2104) of the value of
`X-Media-Pipeline-Timestamp` (seconds since 1970), a full stop and the body: who checks both knows sender and age.
Addresses and passwords stand in no message and no log: an address may be a secret by itself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import smtplib
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Any, Protocol

import httpx
from filelock import FileLock, Timeout
from pydantic import SecretStr

from media_pipeline.config import Alerts
from media_pipeline.errors import UsageError
from media_pipeline.storage.moderation import Alert, ModerationStore
from media_pipeline.wording import printable

log = logging.getLogger(__name__)

SIGNATURE, TIMESTAMP = "X-Media-Pipeline-Signature", "X-Media-Pipeline-Timestamp"
_AT_ONCE = 200  # alerts per message
_LISTED = 50  # media in an e-mail
_FIRST_WAIT_S = 1.0
_LOCAL = ("localhost", "127.0.0.1", "::1")


class NotTaken(Exception):
    """A server did not take a message; one sentence without secrets."""


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody is told, for programs and for people."""

    data: dict[str, Any]  # JSON of a webhook; its `text` is what chat servers show
    subject: str
    lines: tuple[str, ...]  # of an e-mail


class Channel(Protocol):
    """A way to tell somebody."""

    @property
    def name(self) -> str: ...

    def send(self, message: Message) -> None:
        """Raises: NotTaken."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of sending."""

    sent: int = 0  # alerts, counted once per channel
    waiting: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Webhook:
    """A server that takes JSON by POST."""

    url: SecretStr
    secret: SecretStr | None
    timeout_s: float
    name: str = "webhook"

    def send(self, message: Message) -> None:
        body = json.dumps(message.data, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "media-pipeline"}
        if self.secret is not None:
            headers[TIMESTAMP] = str(int(time.time()))
            headers[SIGNATURE] = f"sha256={signature(self.secret, headers[TIMESTAMP], body)}"
        try:
            # Redirects are not followed: the message would go to somebody nobody chose.
            with httpx.Client(timeout=self.timeout_s, follow_redirects=False) as http:
                status = http.post(self.url.get_secret_value(), content=body, headers=headers).status_code
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise NotTaken(f"the webhook cannot be reached ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise NotTaken(f"the webhook answered with status {status}")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail server, and who writes to whom."""

    settings: Alerts
    password: SecretStr | None
    name: str = "email"

    def send(self, message: Message) -> None:
        letter = _letter(message, self.settings)
        try:
            with self._connected() as server:
                if self.settings.smtp_user and self.password is not None:
                    server.login(self.settings.smtp_user, self.password.get_secret_value())
                server.send_message(letter)
        except smtplib.SMTPResponseException as error:
            # Not in the server's words: it may repeat what it was given.
            raise NotTaken(f"the mail server refused with code {error.smtp_code}") from None
        except (smtplib.SMTPException, OSError) as error:
            raise NotTaken(f"the mail server did not take the message ({type(error).__name__})") from None

    def _connected(self) -> AbstractContextManager[smtplib.SMTP]:
        given = self.settings
        context = ssl.create_default_context(cafile=str(given.smtp_ca_file) if given.smtp_ca_file else None)
        if given.smtp_security == "tls":
            return smtplib.SMTP_SSL(given.smtp_host, given.smtp_port, timeout=given.timeout_s, context=context)
        server = smtplib.SMTP(given.smtp_host, given.smtp_port, timeout=given.timeout_s)
        if given.smtp_security == "starttls":
            try:
                server.starttls(context=context)  # raises where the server does not offer it: never in the clear
            except BaseException:
                server.close()
                raise
        return server


def signature(secret: SecretStr, timestamp: str, body: bytes) -> str:
    """What a webhook checks: hex digits."""
    signed = timestamp.encode() + b"." + body
    return hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).hexdigest()


def channels(settings: Alerts) -> tuple[Channel, ...]:
    """Those that are configured.

    Raises:
        UsageError: a setting is missing or cannot be; names it.
    """
    found: list[Channel] = []
    url = settings.secret("webhook_url")
    if url is not None:
        if not url.get_secret_value().startswith(("https://", "http://")):
            raise UsageError("MEDIA_PIPELINE_ALERTS__WEBHOOK_URL is no http(s) address", "mend this setting")
        found.append(Webhook(url, settings.secret("webhook_secret"), settings.timeout_s))
    if settings.receivers:
        found.append(_mail(settings))
    return tuple(found)


def _mail(settings: Alerts) -> Mail:
    if not settings.smtp_host:
        raise UsageError("e-mails need a mail server", "set MEDIA_PIPELINE_ALERTS__SMTP_HOST")
    if any(ord(c) < 32 or "@" not in a for a in (*settings.receivers, settings.email_from or "@") for c in a):
        raise UsageError("an address of MEDIA_PIPELINE_ALERTS__EMAIL_TO or _FROM is none", "mend this setting")
    if settings.smtp_ca_file is not None and not settings.smtp_ca_file.is_file():
        raise UsageError(f"{settings.smtp_ca_file} is not there", "mend MEDIA_PIPELINE_ALERTS__SMTP_CA_FILE")
    password = settings.secret("smtp_password")
    if settings.smtp_security == "none" and password is not None and settings.smtp_host not in _LOCAL:
        raise UsageError("a password would be sent in the clear", "set MEDIA_PIPELINE_ALERTS__SMTP_SECURITY=starttls")
    return Mail(settings, password)


def alert_body(row: dict[str, Any], name: str | None) -> dict[str, Any]:
    """What is told of a blocked medium, from its row of `moderation`."""
    told = ("rule", "severity", "text", "found", "score", "frame_index", "pts_s")
    return {
        "media_id": row["media_id"],
        "name": name,
        "verdict": row["verdict"],
        "rules_version": row["rules_version"],
        "at": row["at"].isoformat(),
        "reasons": [{key: reason[key] for key in told} for reason in row["reasons"]],
    }


def deliver(
    store: ModerationStore, settings: Alerts, lock: Path, wait: Callable[[float], None] = time.sleep
) -> Delivery:
    """Sends what is waiting, as far as the servers take it. Never raises because of one of them.

    Args:
        lock: file that only one process at a time holds while it sends; the others leave it to that one
    """
    try:
        told = channels(settings)
    except UsageError:
        return Delivery(waiting=store.waiting())  # said already, where alerts are planned
    store.drop_alerts([channel.name for channel in told])
    if not store.waiting():
        return Delivery()
    sent, warnings = 0, []
    try:
        with FileLock(lock, timeout=0, fallback_to_soft=False):
            for channel in told:
                try:
                    sent += _send_all(store, channel, settings.retries, wait)
                except NotTaken as error:
                    warnings.append(f"an alert waits for the next batch: {error}")
    except Timeout:
        log.debug("another process is sending alerts")
    return Delivery(sent, store.waiting(), tuple(warnings))


def tell(settings: Alerts, message: Message, wait: Callable[[float], None] = time.sleep) -> tuple[int, list[str]]:
    """Tells everybody who is configured, at once: nothing waits for a next time.

    Returns:
        how many channels took it, and why the others did not

    Raises:
        UsageError: a setting is missing or cannot be; names it.
    """
    taken, failures = 0, []
    for channel in channels(settings):
        try:
            _send(channel, message, settings.retries, wait)
            taken += 1
        except NotTaken as error:
            failures.append(str(error))
    return taken, failures


def _send_all(store: ModerationStore, channel: Channel, retries: int, wait: Callable[[float], None]) -> int:
    sent = 0
    while alerts := store.pending(channel.name, _AT_ONCE):
        _send(channel, _message(alerts), retries, wait)
        store.delivered(alerts)
        sent += len(alerts)
    return sent


def _send(channel: Channel, message: Message, retries: int, wait: Callable[[float], None]) -> None:
    for attempt in range(retries + 1):
        try:
            return channel.send(message)
        except NotTaken:
            if attempt == retries:
                raise
            wait(_FIRST_WAIT_S * 2**attempt)
    return None


def _message(alerts: Sequence[Alert]) -> Message:
    headline = f"{len(alerts)} {'medium' if len(alerts) == 1 else 'media'} newly blocked"
    lines = [line for alert in alerts[:_LISTED] for line in _paragraph(alert)]
    if len(alerts) > _LISTED:
        lines.append(f"… and {len(alerts) - _LISTED} more: media-pipeline moderate list --verdict block")
    data = {
        "event": "media.blocked",
        "text": f"{headline}: " + ", ".join(str(a.body["name"] or a.media_id[:12]) for a in alerts[:5]),
        "media": [{"alert_id": alert.alert_id, **alert.body} for alert in alerts],
    }
    return Message(data, headline, tuple(lines))


def _letter(message: Message, settings: Alerts) -> EmailMessage:
    letter = EmailMessage()
    letter["Subject"] = message.subject
    letter["From"] = settings.email_from or settings.receivers[0]
    letter["To"] = ", ".join(settings.receivers)
    letter["Date"] = formatdate()
    letter["Message-ID"] = make_msgid(domain="media-pipeline.invalid")
    letter.set_content("\n".join(message.lines))
    return letter


def _paragraph(alert: Alert) -> list[str]:
    body = alert.body
    lines = [f"{printable(body['name'] or '')} ({alert.media_id})"]
    for reason in body["reasons"]:
        if reason["severity"] == "block":
            at = f" at {reason['pts_s']:.1f} s" if reason["pts_s"] is not None else ""
            found = f" ({printable(reason['found'])})" if reason["found"] else ""
            lines.append(f"  {printable(reason['text'])}{found}{at}")
    return [*lines, f"  media-pipeline moderate show {alert.media_id[:12]}", ""]
