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
            port = Settings.read(os.environ).listen_health
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                return 0 if answer.status == 200 else 1
    except GatewayError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    print("gateway: give one of: run, certbot, upload, user, healthy", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
