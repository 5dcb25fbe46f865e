"""`user`: who may sign in, and as what. Passwords come from the terminal or from stdin, never as an argument."""

from __future__ import annotations

import argparse
import fcntl
import getpass
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .settings import GatewayError
from .sign_in import LEAST_COST, MAX_PASSWORD_BYTES, NAME

HTPASSWD = "/usr/bin/htpasswd"
LEAST_CHARACTERS = 10
_COST = 12


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    given = _parser().parse_args(arguments)
    folder = Path(environment.get("GATEWAY_SECRETS") or "/run/secrets")
    book = Book(folder)
    if given.what == "list":
        for name, role in book.people():
            print(f"{name}\t{role}")
    elif given.what == "add":
        book.add(given.name, lambda: hashed(given.name, read_password(), given.cost), operator=given.operator)
        print(f"{given.name} is a user now, as {'operator' if given.operator else 'viewer'}")
    elif given.what == "passwd":
        book.change(given.name, lambda: hashed(given.name, read_password(), given.cost))
        print(f"{given.name} has a new password now")
    elif given.what == "role":
        book.set_role(given.name, given.role)
        print(f"{given.name} is {given.role} now")
    else:
        book.remove(given.name)
        print(f"{given.name} cannot sign in any more")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="user", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    for what, text in (
        ("add", "a new user"),
        ("passwd", "another password"),
        ("role", "viewer: looks; operator: does"),
        ("remove", "out, with the next request"),
        ("list", "who there is"),
    ):
        command = commands.add_parser(what, help=text)
        if what != "list":
            command.add_argument("name")
        if what == "add":
            command.add_argument("--operator", action="store_true", help="full UI and upload, not only looking")
        if what in ("add", "passwd"):
            command.add_argument("--cost", type=int, default=_COST, choices=range(LEAST_COST, 16), help="of bcrypt")
        if what == "role":
            command.add_argument("role", choices=("viewer", "operator"))
    return parser


class Book:
    """The files `users` and `operators`; each change replaces a file as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def people(self) -> list[tuple[str, str]]:
        operators = set(self._lines("operators"))
        names = [line.partition(":")[0] for line in self._lines("users")]
        return [(name, "operator" if name in operators else "viewer") for name in names]

    def add(self, name: str, line: Callable[[], str], *, operator: bool) -> None:
        if not NAME.fullmatch(name):
            raise GatewayError(
                f"{name!r} is no name for a user",
                "take letters, digits and . _ @ -, 64 at most, a letter or digit first",
            )
        if self._has(name):
            raise GatewayError(f"there is a user {name} already", f"user passwd {name} changes the password")
        new = line()
        with self._locked():
            if self._has(name):
                raise GatewayError(f"there is a user {name} already", "take another name")
            # The role first: whoever can sign in must not have an older, larger one for an instant.
            self._write("operators", self._without("operators", name) + ([name] if operator else []))
            self._write("users", [*self._lines("users"), new])

    def change(self, name: str, line: Callable[[], str]) -> None:
        self._must_have(name)
        new = line()
        with self._locked():
            self._must_have(name)
            lines = self._lines("users")
            self._write("users", [new if old.partition(":")[0] == name else old for old in lines])

    def set_role(self, name: str, role: str) -> None:
        with self._locked():
            self._must_have(name)
            self._write("operators", self._without("operators", name) + ([name] if role == "operator" else []))

    def remove(self, name: str) -> None:
        with self._locked():
            self._must_have(name)
            self._write("users", self._without("users", name))
            self._write("operators", self._without("operators", name))

    def _has(self, name: str) -> bool:
        return any(known == name for known, _ in self.people())

    def _must_have(self, name: str) -> None:
        if not self._has(name):
            raise GatewayError(f"there is no user {name}", "user list shows who there is")

    def _without(self, file: str, name: str) -> list[str]:
        return [line for line in self._lines(file) if line.partition(":")[0] != name]

    def _lines(self, file: str) -> list[str]:
        try:
            text = (self._folder / file).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(file, error) from None
        return [line for line in text.splitlines() if line.strip()]

    def _write(self, file: str, lines: Sequence[str]) -> None:
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{file}.", dir=self._folder)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write("".join(f"{line}\n" for line in lines))
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(temporary).replace(self._folder / file)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._unusable(file, error) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            handle = os.open(self._folder, os.O_RDONLY)
        except OSError as error:
            raise self._unusable("users", error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _unusable(self, file: str, error: OSError) -> GatewayError:
        return GatewayError(
            f"{self._folder / file} cannot be used: {error.strerror}",
            f"secrets/gateway must be there, mounted writable, and belong to user {os.getuid()}",
        )


def read_password() -> str:
    """Asked twice at a terminal; else the first line of stdin."""
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != password:
            raise GatewayError("the two passwords differ", "try again")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < LEAST_CHARACTERS:
        raise GatewayError(f"the password has fewer than {LEAST_CHARACTERS} characters", "take a longer one")
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise GatewayError(f"the password has more than {MAX_PASSWORD_BYTES} bytes", "bcrypt reads no more; shorten it")
    return password


def hashed(name: str, password: str, cost: int) -> str:
    """NAME:HASH, made by htpasswd, which reads the password from a pipe."""
    done = subprocess.run(  # noqa: S603
        [HTPASSWD, "-n", "-i", "-B", "-C", str(cost), name],
        input=password + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise GatewayError(f"htpasswd has failed: {done.stderr.strip()}", "try another password")
    return done.stdout.strip()
