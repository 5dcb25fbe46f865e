"""Sign-in by OpenID Connect: nginx before a stand-in that answers as oauth2-proxy does.

From oauth2-proxy's documentation: 202 with X-Auth-Request-User, -Email, -Preferred-Username and -Groups, where
`set_xauthrequest` is on; 401 without a session; 403 outside `allowed_groups`; Set-Cookie when the session was renewed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from media_pipeline_tests._gateway import OPERATOR, VIEWER, Echo, Stack, basic, needs_nginx, prepare, wait_for

pytestmark = [pytest.mark.slow, needs_nginx]
GROUP = "video-team(ops)"
PEOPLE = {
    "session=olga": ("0815", "olga@example.org", "Olga Ü.", f"staff,{GROUP}"),
    "session=victor": ("4711", "victor@example.org", "", "staff"),
    "session=bare": ("1234", "", "", ""),
    # A group whose name only contains that of the operators.
    "session=near": ("9999", "near@example.org", "near", f"x{GROUP},{GROUP}x"),
    # Names that people give themselves, written like a list of groups.
    "session=mallory": ("6601", "m@example.org", f"m,{GROUP},m", "staff"),
    "session=mail": ("6602", f'"a,{GROUP},"@example.org', "", "staff"),
    "session=id": (f"x,{GROUP}", "", "", ""),
    "session=pipe": ("6603", "p@example.org", f"p|{GROUP}", "staff"),
}


class Proxy(Echo):
    renew = False

    def decide(self, told: dict[str, Any]) -> tuple[int, dict[str, str]]:
        address = urlsplit(told["path"])
        if address.path == "/oauth2/start":
            return 302, {"Location": "https://provider.example/authorize"}
        if address.path != "/oauth2/auth":
            return 404, {}
        person = PEOPLE.get(told["headers"].get("cookie", ""))
        if person is None:
            return 401, {}
        user, email, name, groups = person
        allowed = parse_qs(address.query).get("allowed_groups")
        if allowed and not set(allowed) & set(groups.split(",")):
            return 403, {}
        headers = {
            "X-Auth-Request-User": user,
            "X-Auth-Request-Email": email,
            "X-Auth-Request-Preferred-Username": name.encode().decode("latin-1"),
            "X-Auth-Request-Groups": groups,
        }
        if self.renew:
            headers["Set-Cookie"] = "session=renewed; Secure; HttpOnly"
        return 202, {key: value for key, value in headers.items() if value}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    proxy = Proxy("oauth2-proxy")
    made = prepare(
        tmp_path_factory.mktemp("o"),
        MEDIA_PIPELINE_SERVER__OIDC_PROXY=proxy.address,
        MEDIA_PIPELINE_SERVER__OIDC_OPERATORS=GROUP,
    )
    made.upstreams["oauth2-proxy"] = proxy
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_groups_become_roles(gateway: Stack) -> None:
    for cookie, service, name, role in (
        ("session=olga", "webserver", "Olga Ü.", "operator"),
        ("session=victor", "viewer", "victor@example.org", "viewer"),
        ("session=bare", "viewer", "1234", "viewer"),
        ("session=near", "viewer", "near", "viewer"),
        ("session=mallory", "viewer", f"m,{GROUP},m", "viewer"),
        ("session=mail", "viewer", f'"a,{GROUP},"@example.org', "viewer"),
        ("session=id", "viewer", f"x,{GROUP}", "viewer"),
        ("session=pipe", "viewer", f"p|{GROUP}", "viewer"),
    ):
        with gateway.client(headers={"Cookie": cookie}) as client:
            told = client.get("/runs").json()
            assert told["service"] == service
            assert told["headers"]["x-auth-user"].encode("latin-1").decode() == name
            assert told["headers"]["x-auth-role"] == role
            allowed = role == "operator"
            assert client.get("/upload/").status_code == (200 if allowed else 403)
            assert client.get("/prometheus/").status_code == (200 if allowed else 403)
            assert client.put(f"/upload/{role}.jpg", content=b"x").status_code == (201 if allowed else 403)
    assert gateway.audited(file="operator.jpg")["who"] == "Olga Ü."


def test_without_a_session(gateway: Stack) -> None:
    with gateway.client() as client:
        page = client.get("/runs/abc?token=x", headers={"Accept": "text/html,*/*"})
        assert page.status_code == 302 and page.headers["Location"].endswith("/oauth2/start?rd=/runs/abc")
        for path in ("/graphql", "/upload/", "/healthz", "/grafana/x"):
            answer = client.get(path)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Basic")
        assert client.post("/graphql", json={}).status_code == 401
        assert client.put("/upload/x.jpg", content=b"x").status_code == 401
        start = client.get("/oauth2/start?rd=/runs", headers={"Accept": "text/html"})
        assert start.status_code == 302 and start.headers["Location"].startswith("https://provider.example")
        assert client.get("/runs", headers={"Cookie": "session=forged"}).status_code == 401
        lies = {"X-Auth-Request-User": "olga", "X-Auth-Request-Groups": GROUP, "X-Auth-User": "olga"}
        assert client.get("/runs", headers=lies).status_code == 401
        with_session = client.get("/runs", headers={"Cookie": "session=victor"} | lies).json()
        assert with_session["headers"]["x-auth-user"] == "victor@example.org"


def test_passwords_still_work_for_programs(gateway: Stack) -> None:
    with gateway.client(OPERATOR) as client:
        assert client.get("/runs").json()["service"] == "webserver"
        assert client.put("/upload/curl.jpg", content=b"x").status_code == 201
    with gateway.client(VIEWER) as client:
        assert client.get("/runs").json()["service"] == "viewer"
        assert client.get("/upload/").status_code == 403
    with gateway.client() as client:
        wrong = {"Authorization": basic(("olga", "wrong")), "Accept": "text/html"}
        answer = client.get("/runs", headers=wrong)
        assert answer.status_code == 401, "no redirect: it has tried a password"
        # A session does not help a wrong password, and the other way round.
        assert client.get("/runs", headers=wrong | {"Cookie": "session=olga"}).status_code == 401


def test_a_renewed_session_reaches_the_browser(gateway: Stack) -> None:
    proxy = gateway.upstreams["oauth2-proxy"]
    assert isinstance(proxy, Proxy)
    proxy.renew = True
    try:
        with gateway.client(headers={"Cookie": "session=victor"}) as client:
            assert "session=renewed" in client.get("/runs").headers["Set-Cookie"]
    finally:
        proxy.renew = False
    with gateway.client(headers={"Cookie": "session=victor"}) as client:
        assert "Set-Cookie" not in client.get("/runs").headers


def test_a_proxy_that_is_away_lets_nobody_in(gateway: Stack) -> None:
    proxy = gateway.upstreams["oauth2-proxy"]
    proxy.close()
    with gateway.client() as client:
        answer: httpx.Response = client.get("/runs", headers={"Cookie": "session=olga"})
        assert answer.status_code == 500 and "oauth2-proxy is expected at" in answer.text
        answer = client.get("/oauth2/start")
        assert answer.status_code == 502 and "does not answer" in answer.text
    with gateway.client(OPERATOR) as client:
        assert client.get("/runs").json()["service"] == "webserver", "passwords do not depend on it"
    gateway.upstreams["oauth2-proxy"] = Proxy("oauth2-proxy", proxy.port)
    with gateway.client(headers={"Cookie": "session=olga"}) as client:
        wait_for(lambda: client.get("/runs").status_code == 200, "it is back", 20)
