"""nginx's configuration from the templates beside this file."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import quote

from .settings import GatewayError, Settings

PACKAGE = Path(__file__).resolve().parent
NGINX = "/usr/sbin/nginx"
_PLACE = re.compile(r"@([A-Z_]+)@")
_OIDC_MAPS = """\
    map $oidc_preferred $oidc_name {
        "" $oidc_email;
        default $oidc_preferred;
    }
    map $oidc_name $oidc_user {
        "" $oidc_id;
        default $oidc_name;
    }
    # Of the groups alone: names and addresses are what people choose themselves.
    map $oidc_groups $oidc_member {
        "~(^|,)\\s*@GROUP@\\s*(,|$)" operator;
        default viewer;
    }
    map $oidc_user $oidc_role {
        "" "";
        default $oidc_member;
    }
    # People with a password of the gateway (rclone, curl, Finder) are asked for it as before.
    map $http_authorization $sign_in_any {
        "~*^basic " "http://sign_in/any";
        default "http://@OIDC_PROXY@/oauth2/auth";
    }
    map $http_authorization $sign_in_operator {
        "~*^basic " "http://sign_in/operator";
        default "http://@OIDC_PROXY@/oauth2/auth?allowed_groups=@GROUP_QUOTED@";
    }
    # A browser is led to the sign-in, a program is told.
    map "$request_method:$http_authorization:$http_accept" $to_sign_in {
        "~^GET::.*text/html" 1;
        default "";
    }"""
_OIDC_SET = """\
        auth_request_set $oidc_id $upstream_http_x_auth_request_user;
        auth_request_set $oidc_preferred $upstream_http_x_auth_request_preferred_username;
        auth_request_set $oidc_email $upstream_http_x_auth_request_email;
        auth_request_set $oidc_groups $upstream_http_x_auth_request_groups;
        auth_request_set $oidc_cookie $upstream_http_set_cookie;"""
_NO_OIDC_MAPS = """\
    map "" $oidc_user {
        default "";
    }
    map "" $oidc_role {
        default "";
    }"""


def write(settings: Settings) -> Path:
    """Everything nginx reads, into the folder `run`; the path of the main file."""
    for folder in ("body", "proxy", "fastcgi", "uwsgi", "scgi", "tls"):
        (settings.run / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    values = _values(settings)
    for template in sorted((PACKAGE / "templates").glob("*.conf")):
        text = template.read_text(encoding="utf-8")
        if settings.oidc_proxy and template.name == "errors.conf":
            text += "error_page 401 = @signed_out;\n"
        if settings.oidc_proxy and template.name == "headers.conf":
            text += "# oauth2-proxy renews its cookie now and then.\nadd_header Set-Cookie $oidc_cookie always;\n"
        (settings.run / template.name).write_text(_fill(text, values), encoding="utf-8")
    return settings.run / "nginx.conf"


def check(path: Path) -> None:
    """
    Raises:
        GatewayError: nginx refuses the configuration
    """
    done = subprocess.run(  # noqa: S603
        [NGINX, "-t", "-q", "-c", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise GatewayError(
            f"nginx refuses {path}: {done.stderr.strip()}", "check the settings MEDIA_PIPELINE_SERVER__… in .env"
        )


def _values(settings: Settings) -> dict[str, str]:
    oidc = bool(settings.oidc_proxy)
    values = {name.upper(): address for name, address in settings.services.items()}
    values |= {
        "RUN": str(settings.run),
        # Root, as in a test, would give its workers to nobody, who may read nothing of this.
        "USER": "user root;" if os.getuid() == 0 else "",
        "RESOLVER": settings.resolver,
        "LOGS": str(settings.logs),
        "ACME": str(settings.acme),
        "PACKAGE": str(PACKAGE),
        "ADDRESS": settings.listen_address,
        "HTTP": str(settings.listen_http),
        "HTTPS": str(settings.listen_https),
        "HEALTH": str(settings.listen_health),
        "DOMAIN": settings.domain,
        # Without a name of its own a server is reached by any: an address, or a name in somebody's hosts file.
        "REDIRECT_HOST": "$host" if settings.domain == "localhost" else settings.domain,
        "REDIRECT_PORT": "" if settings.https_port == 443 else f":{settings.https_port}",
        "MAX_FILE_BYTES": str(settings.max_file_bytes),
        "OIDC_PROXY": settings.oidc_proxy,
        "GROUP": re.escape(settings.oidc_operators),
        "GROUP_QUOTED": quote(settings.oidc_operators, safe=""),
        "SIGN_IN_ANY": "$sign_in_any" if oidc else "http://sign_in/any",
        "SIGN_IN_OPERATOR": "$sign_in_operator" if oidc else "http://sign_in/operator",
        "NO_SIGN_IN_HINT": f"; oauth2-proxy is expected at {settings.oidc_proxy}" if oidc else "",
        "OIDC_SET": _OIDC_SET if oidc else "",
    }
    values["OIDC_MAPS"] = _fill(_OIDC_MAPS, values) if oidc else _NO_OIDC_MAPS
    oidc_locations = (PACKAGE / "templates" / "oidc.conf").read_text(encoding="utf-8")
    values["OIDC_LOCATIONS"] = _fill(oidc_locations, values) if oidc else ""
    return values


def _fill(text: str, values: dict[str, str]) -> str:
    return _PLACE.sub(lambda place: values[place[1]], text)
