"""Who may come in: passwords, roles, wrong ones, and the command that writes the files."""

from __future__ import annotations

import io
import re
import stat
import sys
from pathlib import Path

import pytest

from media_pipeline_tests._gateway import HASHES, OPERATOR, ROOT, VIEWER, basic, needs_htpasswd

sys.path.insert(0, str(ROOT / "deploy"))

from gateway import sign_in
from gateway.configuration import write
from gateway.settings import GatewayError, Settings
from gateway.sign_in import Answer, Doorkeeper, Users
from gateway.user import main as user


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords for which bcrypt was computed."""
    passwords: list[bytes] = []
    real = sign_in.crypt

    def count(password: bytes, setting: str) -> str | None:
        passwords.append(password)
        # The one for nobody has the cost of real life.
        return real(password, setting.replace("$12$", "$04$"))

    monkeypatch.setattr(sign_in, "crypt", count)
    return passwords


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "users").write_text("".join(f"{name}:{hashed}\n" for name, hashed in HASHES.items()))
    (tmp_path / "operators").write_text("olga\n")
    return tmp_path


def door(folder: Path, clock: Clock | None = None, failures: int = 3) -> Doorkeeper:
    return Doorkeeper(Users(folder, lambda text: None), failures=failures, failure_seconds=300, clock=clock or Clock())


def test_roles(folder: Path) -> None:
    keeper = door(folder)
    assert keeper.judge(basic(OPERATOR), "1.2.3.4", operators_only=True) == Answer("in", "olga", "operator")
    assert keeper.judge(basic(VIEWER), "1.2.3.4", operators_only=False) == Answer("in", "victor", "viewer")
    assert keeper.judge(basic(VIEWER), "1.2.3.4", operators_only=True) == Answer("forbidden", "victor", "viewer")


@pytest.mark.parametrize(
    "header",
    [None, "", "Basic", "Basic !!!", "Bearer abc", "Basic b2xnYQ==", "Basic " + "/" * 8, basic(("olga", "x" * 73))],
)
def test_nonsense_is_out(folder: Path, computed: list[bytes], header: str | None) -> None:
    assert door(folder).judge(header, "1.2.3.4", operators_only=False) == Answer("out")
    assert computed == [], "costs nothing"


def test_a_page_costs_one_bcrypt(folder: Path, computed: list[bytes]) -> None:
    keeper, clock = door(folder, clock := Clock()), clock
    for _ in range(60):
        assert keeper.judge(basic(OPERATOR), "1.2.3.4", operators_only=False).outcome == "in"
    assert len(computed) == 1
    clock.now += sign_in.REMEMBER_S + 1
    assert keeper.judge(basic(OPERATOR), "1.2.3.4", operators_only=False).outcome == "in"
    assert len(computed) == 2


def test_wrong_passwords_make_wait_and_nobody_else(folder: Path, computed: list[bytes]) -> None:
    keeper, clock = door(folder, clock := Clock()), clock
    assert keeper.judge(basic(VIEWER), "1.2.3.4", operators_only=False).outcome == "in"
    for number in range(3):
        # The same wrong password from all requests of a page is one mistake.
        for _ in range(20):
            assert keeper.judge(basic(("olga", f"wrong{number}")), "1.2.3.4", operators_only=False).outcome == "out"
    before = len(computed)
    blocked = keeper.judge(basic(OPERATOR), "1.2.3.4", operators_only=False)
    assert (blocked.outcome, blocked.retry_s) == ("later", 300), "the right one, too: it is not known to be right"
    assert len(computed) == before, "who waits costs nothing"
    assert keeper.judge(basic(VIEWER), "1.2.3.4", operators_only=False).outcome == "in", "signed in before"
    assert keeper.judge(basic(OPERATOR), "1.2.3.5", operators_only=False).outcome == "in", "another address"
    clock.now += 301
    assert keeper.judge(basic(OPERATOR), "1.2.3.4", operators_only=False).outcome == "in"


def test_addresses_of_one_ipv6_network_count_together(folder: Path, computed: list[bytes]) -> None:
    keeper = door(folder)
    for number in range(3):
        keeper.judge(basic(("olga", f"wrong{number}")), f"2001:db8::{number}", operators_only=False)
    assert keeper.judge(basic(("olga", "more")), "2001:db8::99", operators_only=False).outcome == "later"
    assert keeper.judge(basic(("olga", "more")), "2001:db8:0:1::1", operators_only=False).outcome == "out"


def test_a_name_without_user_costs_as_much_and_is_not_logged(folder: Path, computed: list[bytes]) -> None:
    answer = door(folder).judge(basic(("my-password-by-mistake", "olga")), "1.2.3.4", operators_only=False)
    assert answer == Answer("out", "")
    assert computed == [b"olga"]


@pytest.mark.slow
def test_changes_of_the_files_count_at_once(folder: Path) -> None:
    keeper = door(folder)
    assert keeper.judge(basic(OPERATOR), "1.2.3.4", operators_only=True).outcome == "in"
    (folder / "operators").write_text("")
    assert keeper.judge(basic(OPERATOR), "1.2.3.4", operators_only=True).outcome == "forbidden"
    (folder / "users").write_text(f"olga:{HASHES['victor']}\n")
    assert keeper.judge(basic(OPERATOR), "1.2.3.4", operators_only=False).outcome == "out"
    assert keeper.judge(basic(("olga", VIEWER[1])), "1.2.3.4", operators_only=False).outcome == "in"
    (folder / "users").unlink()
    assert keeper.judge(basic(("olga", VIEWER[1])), "1.2.3.4", operators_only=False).outcome == "out"


@pytest.mark.parametrize(
    "line",
    [
        "olga:operator-password",
        "olga:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "olga:$apr1$x$abcdefghijklmnopqrstuv",
        HASHES["olga"].replace("$10$", "$05$"),
        "olga:" + HASHES["olga"].replace("$10$", "$05$"),
        "../x:" + HASHES["olga"],
    ],
)
def test_weak_lines_let_nobody_in_and_are_named(folder: Path, line: str) -> None:
    (folder / "users").write_text(f"{line}\nvictor:{HASHES['victor']}\n")
    said: list[str] = []
    users = Users(folder, said.append)
    assert len(users) == 1 and users.look_up("victor")[0]
    assert said and "line 1" in said[0] and "user passwd NAME" in said[0]
    assert "operator-password" not in said[0] and HASHES["olga"][:20] not in said[0]


def run_user(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, stdin: str = "") -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    return user(arguments, {"GATEWAY_SECRETS": str(folder)})


@pytest.mark.slow
@needs_htpasswd
def test_user_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keeper = door(tmp_path)

    def sign_in_as(name: str, password: str) -> Answer:
        return keeper.judge(basic((name, password)), "1.2.3.4", operators_only=False)

    run_user(monkeypatch, tmp_path, "add", "anna", "--operator", "--cost", "10", stdin="a long password\nignored")
    run_user(monkeypatch, tmp_path, "add", "ben", "--cost", "10", stdin="pässword mit ü\r\n")
    assert sign_in_as("anna", "a long password") == Answer("in", "anna", "operator")
    assert sign_in_as("ben", "pässword mit ü") == Answer("in", "ben", "viewer")
    assert stat.S_IMODE((tmp_path / "users").stat().st_mode) == 0o600
    assert all(line.split(":")[1].startswith("$2y$10$") for line in (tmp_path / "users").read_text().splitlines())
    capsys.readouterr()
    run_user(monkeypatch, tmp_path, "list")
    assert capsys.readouterr().out.splitlines() == ["anna\toperator", "ben\tviewer"]

    run_user(monkeypatch, tmp_path, "role", "anna", "viewer")
    run_user(monkeypatch, tmp_path, "passwd", "ben", "--cost", "10", stdin="another password\n")
    assert sign_in_as("anna", "a long password").role == "viewer"
    assert sign_in_as("ben", "pässword mit ü").outcome == "out"
    assert sign_in_as("ben", "another password").outcome == "in"
    run_user(monkeypatch, tmp_path, "role", "ben", "operator")
    run_user(monkeypatch, tmp_path, "remove", "ben")
    assert sign_in_as("ben", "another password").outcome == "out"
    run_user(monkeypatch, tmp_path, "add", "ben", "--cost", "10", stdin="third password\n")
    assert sign_in_as("ben", "third password").role == "viewer", "a former role does not come back with the name"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["operators", "users"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("add", "olga"), "a long password", "there is a user olga already"),
        (("add", "a:b"), "a long password", "no name for a user"),
        (("add", "new"), "short", "fewer than 10"),
        (("add", "new"), "x" * 73, "more than 72 bytes"),
        (("passwd", "nobody"), "a long password", "no user nobody"),
        (("remove", "nobody"), "", "no user nobody"),
    ],
)
def test_user_command_refuses(
    monkeypatch: pytest.MonkeyPatch, folder: Path, arguments: tuple[str, ...], stdin: str, said: str
) -> None:
    before = (folder / "users").read_text()
    with pytest.raises(GatewayError, match=said):
        run_user(monkeypatch, folder, *arguments, stdin=stdin)
    assert (folder / "users").read_text() == before


def test_a_password_is_no_argument(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(SystemExit):
        run_user(monkeypatch, folder, "add", "anna", "a long password")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MEDIA_PIPELINE_SERVER__DOMAIN", "https://media.example.org"),
        ("MEDIA_PIPELINE_SERVER__DOMAIN", "a b"),
        ("MEDIA_PIPELINE_SERVER__DOMAIN", "x; include /etc/passwd"),
        ("MEDIA_PIPELINE_SERVER__DOMAIN", "x" * 64),
        ("MEDIA_PIPELINE_SERVER__TLS", "yes"),
        ("MEDIA_PIPELINE_SERVER__ACME_EMAIL", "nobody"),
        ("MEDIA_PIPELINE_SERVER__ACME_URL", "http://example.org"),
        ("MEDIA_PIPELINE_SERVER__HTTPS_PORT", "0"),
        ("MEDIA_PIPELINE_SERVER__HTTP_PORT", "70000"),
        ("MEDIA_PIPELINE_SERVER__HTTP_PORT", "eighty"),
        ("MEDIA_PIPELINE_SERVER__OIDC_PROXY", "oauth2-proxy"),
        ("MEDIA_PIPELINE_SERVER__OIDC_OPERATORS", 'a"; b'),
        ("MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES", "64g"),
        ("GATEWAY_RESOLVER", "127.0.0.11"),
        ("GATEWAY_RUN", "relative"),
    ],
)
def test_a_wrong_setting_names_itself(name: str, value: str) -> None:
    with pytest.raises(GatewayError) as caught:
        Settings.read({name: value})
    assert name in str(caught.value) and "mend" in str(caught.value)


def test_acme_needs_a_public_name() -> None:
    with pytest.raises(GatewayError, match="MEDIA_PIPELINE_SERVER__DOMAIN"):
        Settings.read({"MEDIA_PIPELINE_SERVER__TLS": "acme"})
    assert Settings.read({"MEDIA_PIPELINE_SERVER__TLS": "acme", "MEDIA_PIPELINE_SERVER__DOMAIN": "a.example.org"})


@pytest.mark.parametrize("oidc", ["", "oauth2-proxy:4180"])
def test_the_configuration_is_complete(tmp_path: Path, oidc: str) -> None:
    run = {"GATEWAY_RUN": str(tmp_path), "MEDIA_PIPELINE_SERVER__OIDC_PROXY": oidc}
    text = write(Settings.read(run)).read_text()
    assert not re.search(r"@[A-Z_]+@", text)
    listens = re.findall(r"^\s+listen ([^\s;]+)", text, re.M)
    assert listens == ["127.0.0.1:8081", "0.0.0.0:8080", "0.0.0.0:8443"], "the container's health is its own matter"
    assert ("oauth2-proxy:4180" in text) == bool(oidc)
    # Every upstream of an address that may be absent is resolved while running.
    for address in re.findall(r"proxy_pass (\S+);", text):
        assert address.startswith(("http://$", "$", "http://sign_in/")), address


def test_empty_values_are_the_defaults() -> None:
    assert Settings.read({"MEDIA_PIPELINE_SERVER__HTTP_PORT": "", "GATEWAY_INBOX": ""}) == Settings.read({})
