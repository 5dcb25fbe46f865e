"""`python3 -m gateway run|certbot|upload|user|healthy`: the roles of the image."""

from __future__ import annotations

import os
import sys
from urllib.request import urlopen

from .settings import GatewayError, Settings


def main(arguments: list[str]) -> int:
    role, *rest = arguments or ["run"]
    try:
        if role == "run":
            from .supervisor import main as run

            return run(os.environ)
        if role == "certbot":
            from .renewal import main as certbot

            return certbot(os.environ)
        if role == "upload":
            from .upload import main as upload

            return upload(os.environ)
        if role == "user":
            from .user import main as user

            return user(rest, os.environ)
        if role == "healthy":
            return healthy(rest[0] if rest else "run", Settings.read(os.environ))
    except GatewayError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    print("gateway: give one of: run, certbot, upload, user, healthy", file=sys.stderr)
    return 2


def healthy(role: str, settings: Settings) -> int:
    """0 when the other process of this container does its work."""
    if role == "certbot":
        return 0 if (settings.run / "certbot" / "alive").exists() else 1
    port = settings.listen_upload if role == "upload" else settings.listen_health
    with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
