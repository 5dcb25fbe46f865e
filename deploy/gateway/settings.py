"""What the gateway is told by the environment; a wrong value ends the start with its cause and remedy.

The settings of the product (`MEDIA_PIPELINE_SERVER__…`) are explained in .env.example. Those that begin with `GATEWAY_`
are addresses and folders inside the container; only tests change them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
TLS_MODES = ("own", "acme", "files")
SERVICES = {
    "webserver": "webserver:3000",
    "viewer": "viewer:3000",
    "metrics": "metrics:9200",
    "grafana": "grafana:3000",
    "prometheus": "prometheus:9090",
    "alertmanager": "alertmanager:9093",
    "upload": "upload:8070",
}
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_ADDRESS = re.compile(r"[A-Za-z0-9_.-]{1,253}:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5}")
_GROUP = re.compile(r"[^\s,\"'\\$;{}]{1,200}")
_EMAIL = re.compile(r"[^\s@,;\"']+@[^\s@,;\"']+")
_URL = re.compile(r"https://[^\s\"';{}]+")
_PATH = re.compile(r"/[^\s\"';{}$\\]*")


class GatewayError(Exception):
    """Something that a person has to mend.

    Attributes:
        remedy: what to do
    """

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}; {remedy}")
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked values.

    Attributes:
        domain: name under which the server is reached
        tls: one of TLS_MODES
        http_port, https_port: as published on the server; what nginx listens on is `listen_…`
        max_file_bytes: of one upload
        min_free_bytes: free disk that uploads leave
        oidc_proxy: host:port of oauth2-proxy, or empty
        oidc_operators: group whose members are operators
        run: folder for what lives as long as the container
    """

    domain: str
    tls: str
    acme_email: str
    acme_url: str
    acme_ca: str
    http_port: int
    https_port: int
    max_file_bytes: int
    min_free_bytes: int
    oidc_proxy: str
    oidc_operators: str
    services: Mapping[str, str]
    resolver: str
    listen_address: str
    listen_http: int
    listen_https: int
    listen_health: int
    listen_upload: int
    failures: int
    failure_seconds: int
    audit_bytes: int
    audit_files: int
    renew_seconds: int
    look_seconds: float
    secrets: Path
    inbox: Path
    certificates: Path
    acme: Path
    logs: Path
    run: Path

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """
        Raises:
            GatewayError: naming the variable
        """
        of = _Reader(environment)
        settings = cls(
            domain=of.text("MEDIA_PIPELINE_SERVER__DOMAIN", "localhost", _DOMAIN, "a name like media.example.org"),
            tls=of.one_of("MEDIA_PIPELINE_SERVER__TLS", "own", TLS_MODES),
            acme_email=of.text("MEDIA_PIPELINE_SERVER__ACME_EMAIL", "", _EMAIL, "an e-mail address, or leave it out"),
            acme_url=of.text(
                "MEDIA_PIPELINE_SERVER__ACME_URL",
                "https://acme-v02.api.letsencrypt.org/directory",
                _URL,
                "the https:// address of an ACME directory",
            ),
            acme_ca=of.text("GATEWAY_ACME_CA", "", _PATH, "a file with the CA of the ACME server"),
            http_port=of.port("MEDIA_PIPELINE_SERVER__HTTP_PORT", 80),
            https_port=of.port("MEDIA_PIPELINE_SERVER__HTTPS_PORT", 443),
            max_file_bytes=of.count("MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES", 64 * GIB, 1),
            min_free_bytes=of.count("MEDIA_PIPELINE_MIN_FREE_BYTES", 1 * GIB, 0),
            oidc_proxy=of.text(
                "MEDIA_PIPELINE_SERVER__OIDC_PROXY", "", _ADDRESS, "host:port of oauth2-proxy, or leave it out"
            ),
            oidc_operators=of.text(
                "MEDIA_PIPELINE_SERVER__OIDC_OPERATORS", "media-operators", _GROUP, "the name of one group"
            ),
            services={
                name: of.text(f"GATEWAY_{name.upper()}", address, _ADDRESS, "host:port")
                for name, address in SERVICES.items()
            },
            resolver=of.text("GATEWAY_RESOLVER", "127.0.0.11:53", _ADDRESS, "address:port of a DNS server"),
            listen_address=of.text("GATEWAY_ADDRESS", "0.0.0.0", re.compile(r"[0-9.]+"), "an IPv4 address"),  # noqa: S104
            listen_http=of.port("GATEWAY_HTTP", 8080),
            listen_https=of.port("GATEWAY_HTTPS", 8443),
            listen_health=of.port("GATEWAY_HEALTH", 8081),
            listen_upload=of.port("GATEWAY_UPLOAD_PORT", 8070),
            failures=of.count("GATEWAY_FAILURES", 10, 1),
            failure_seconds=of.count("GATEWAY_FAILURE_SECONDS", 300, 1),
            audit_bytes=of.count("GATEWAY_AUDIT_BYTES", 50_000_000, 1),
            audit_files=of.count("GATEWAY_AUDIT_FILES", 50, 1),
            renew_seconds=of.count("GATEWAY_RENEW_SECONDS", 12 * 3600, 1),
            look_seconds=of.count("GATEWAY_LOOK_MS", 15_000, 10) / 1000,
            secrets=of.folder("GATEWAY_SECRETS", "/run/secrets"),
            inbox=of.folder("GATEWAY_INBOX", "/inbox"),
            certificates=of.folder("GATEWAY_CERTIFICATES", "/etc/letsencrypt"),
            acme=of.folder("GATEWAY_ACME", "/var/www/acme"),
            logs=of.folder("GATEWAY_LOGS", "/var/log/gateway"),
            run=of.folder("GATEWAY_RUN", "/tmp/gateway"),  # noqa: S108  the tmpfs of the container
        )
        if settings.tls == "acme" and "." not in settings.domain:
            raise GatewayError(
                f"MEDIA_PIPELINE_SERVER__TLS=acme, and no certificate can be had for {settings.domain!r}",
                "set MEDIA_PIPELINE_SERVER__DOMAIN to the public name of this server, or …__TLS=own",
            )
        return settings


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str, default: str, pattern: re.Pattern[str], wanted: str) -> str:
        value = self._environment.get(name, "").strip() or default
        if value and not pattern.fullmatch(value):
            raise GatewayError(f"{name}={value!r} is not {wanted}", f"mend {name} in .env")
        return value

    def one_of(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self._environment.get(name, "").strip() or default
        if value not in choices:
            raise GatewayError(f"{name}={value!r} is none of {', '.join(choices)}", f"mend {name} in .env")
        return value

    def count(self, name: str, default: int, least: int) -> int:
        value = self._environment.get(name, "").strip() or str(default)
        if not re.fullmatch(r"\d{1,18}", value) or int(value) < least:
            raise GatewayError(f"{name}={value!r} is not a whole number from {least} on", f"mend {name} in .env")
        return int(value)

    def port(self, name: str, default: int) -> int:
        value = self.count(name, default, 1)
        if value > 65535:
            raise GatewayError(f"{name}={value} is not a port (1 to 65535)", f"mend {name} in .env")
        return value

    def folder(self, name: str, default: str) -> Path:
        return Path(self.text(name, default, _PATH, "an absolute path without blanks"))
