"""What the client of Vast.ai makes of good, bad and missing answers."""

from __future__ import annotations

import json
import logging
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from media_pipeline.cloud import _pacing
from media_pipeline.cloud._pacing import asked_seconds, pacer
from media_pipeline.cloud.api import CreateUnclear, OfferGone, Vast
from media_pipeline.cloud.records import Charge, Instance, Offer
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import ContractViolation, MediaPipelineError, ProviderUnreachable, RentalRefused, UsageError
from media_pipeline_tests._rental_home import until
from media_pipeline_tests.vast_standin import StandIn, free_port

KEY = "test-key"
ANY = Gpu(
    secure_cloud=False, min_reliability=0, min_inet_mbps=0, min_vram_gb=1, min_cuda=1, max_hours=1, max_usd_per_hour=9
)


_made: list[Vast] = []


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_pacing, "_LEAST_BACKOFF_S", 0.01)
    yield
    while _made:
        _made.pop().close()


@pytest.fixture(scope="module")
def _running() -> Iterator[StandIn]:
    with StandIn(speed=60, offers=60) as running:
        yield running


@pytest.fixture
def standin(_running: StandIn) -> StandIn:
    with _running.market.lock:
        _running.market.reset()
    return _running


def client(standin: StandIn, key: str = KEY, **how: Any) -> Vast:
    _made.append(Vast(SecretStr(key), standin.url, **{"timeout_s": 5, "patience_s": 20, **how}))
    return _made[-1]


def rent(vast: Vast, offer: Offer, label: str = "mp-1") -> int:
    return vast.create(offer, label=label, image="img", disk_gb=20, onstart="true", env={"A": "b"})


def sent(standin: StandIn, method: str, path: str, count: int) -> list[dict[str, Any]]:
    """The requests there have been, which are to be so many: the last one is noted a moment after its answer."""

    def found() -> list[dict[str, Any]]:
        return [r for r in standin.market.requests if r["method"] == method and r["path"].startswith(path)]

    until(lambda: len(found()) >= count)
    assert len(found()) == count
    return found()


def answering(monkeypatch: pytest.MonkeyPatch, handler: Callable[[httpx.Request], httpx.Response], **how: Any) -> Vast:
    """A client whose server is a function: for what the stand-in does not do."""
    monkeypatch.setattr(httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(handler)))
    _made.append(Vast(SecretStr(KEY), "http://127.0.0.1:9", **{"patience_s": 5, **how}))
    return _made[-1]


# ---- a machine's life


@pytest.mark.slow
def test_a_machine_from_offer_to_charge(standin: StandIn) -> None:
    vast = client(standin)
    offer = vast.search(ANY)[0]
    machine = rent(vast, offer)

    (listed,) = vast.instances()
    assert (listed.instance_id, listed.label, listed.machine_id) == (machine, "mp-1", offer.machine_id)
    assert listed.ssh_direct is None  # not before it runs
    standin.advance(120)
    shown = vast.instance(machine)
    assert shown is not None and shown.is_running and shown.failure is None
    assert shown.ssh_direct is not None and shown.ssh_proxy is not None
    assert shown.usd_per_hour == pytest.approx(offer.gpu_usd_per_hour + offer.disk_usd_per_gb_month * 20 / 720)

    vast.attach_key(machine, "ssh-ed25519 AAAAC3Nz")
    assert standin.market.instances[machine].keys == ["ssh-ed25519 AAAAC3Nz"]
    assert "running" in vast.logs(machine)
    assert vast.account().credit_usd < 10

    vast.destroy(machine)
    assert vast.instance(machine) is None
    assert vast.instances() == []
    vast.destroy(machine)  # it is gone: what was wanted
    now = time.time()
    (charge,) = vast.charges(now - 86400, now + 86400)
    assert (charge.instance_id, charge.label) == (machine, "mp-1")
    assert charge.usd == pytest.approx(standin.spent(), abs=1e-5)


def test_create_asks_for_what_the_field_manual_says(standin: StandIn) -> None:
    vast = client(standin)
    rent(vast, vast.search(ANY)[0])
    (request,) = sent(standin, "PUT", "/api/v0/asks/", 1)
    body = request["json"]
    assert body["cancel_unavail"] is True
    assert body["runtype"] == "ssh_direct"
    assert body["env"] == {"A": "b"}
    assert "price" not in body  # it would be a bid


# ---- listing: complete beyond doubt, or blind

LIST = ("html", "empty", "malformed", "deprecated", "hang", "drop_before", "drop_after", "fail_after")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*LIST, *({"do": "status", "code": code} for code in (400, 403, 404, 500, 503))])
def test_a_list_that_cannot_be_read_is_never_empty(standin: StandIn, fault: Any) -> None:
    vast = client(standin, timeout_s=0.3, patience_s=2)
    rent(vast, vast.search(ANY)[0])
    standin.fault({"route": "list", "times": -1, "seconds": 1, **(fault if isinstance(fault, dict) else {"do": fault})})
    with pytest.raises(ProviderUnreachable):
        vast.instances()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["html", "empty", "malformed", "drop_before", "drop_after", "fail_after", "rate_limit"]
)
def test_what_may_be_repeated_is(standin: StandIn, fault: str) -> None:
    vast = client(standin)
    machine = rent(vast, vast.search(ANY)[0])
    for route in ("list", "show", "user", "search", "destroy", "charges"):
        standin.fault({"route": route, "do": fault})
    assert [i.instance_id for i in vast.instances()] == [machine]
    assert vast.instance(machine) is not None
    assert vast.account().credit_usd > 0
    assert vast.search(ANY)
    vast.destroy(machine)
    assert standin.live() == []
    assert len(vast.charges(0, time.time() + 86400)) == 1


def test_content_is_believed_whatever_it_is_called(standin: StandIn) -> None:
    vast = client(standin)
    standin.fault({"route": "list", "do": "wrong_type", "times": -1})
    assert vast.instances() == []


def test_all_pages_are_read(standin: StandIn) -> None:
    vast = client(standin)
    rented = {rent(vast, offer, f"mp-{number}") for number, offer in enumerate(vast.search(ANY)[:30])}
    assert {i.instance_id for i in vast.instances()} == rented
    assert sent(standin, "GET", "/api/v1/instances", 2)


def row(number: int, **other: Any) -> dict[str, Any]:
    return {"id": number, "label": f"mp-{number}", "actual_status": "running", **other}


def page(*rows: Any, total: Any, token: Any = None, **other: Any) -> dict[str, Any]:
    return {"success": True, "instances": list(rows), "total_instances": total, "next_token": token, **other}


INCOMPLETE = {
    "fewer than there are": [page(row(1), total=2)],
    "more than there are": [page(row(1), row(2), total=1)],
    "the same page again": [page(row(1), total=2, token="a"), page(row(1), total=2)],
    "a circle": [page(row(1), total=9, token="a"), page(row(2), total=9, token="a")],
    "an empty page before the end": [page(total=2, token="a")],
    "a token that is none": [page(row(1), total=2, token=5)],
    "no success": [page(total=0) | {"success": None}],
    "failure with status 200": [{"success": False, "error": "server_error", "msg": "oops", "instances": []}],
    "no total": [{"success": True, "instances": [], "next_token": None}],
    "a total that is none": [page(total=True)],
    "no list": [page(total=0) | {"instances": {}}],
    "a row without id": [page({"label": "x"}, total=1)],
    "a row with an odd id": [page(row(1) | {"id": "1"}, total=1)],
    "a row without label": [page({"id": 1}, total=1)],
    "a row with an odd label": [page(row(1, label=7), total=1)],
    "a row that is none": [page(None, total=1)],
    "retired with status 200": [{"success": False, "error": "deprecated_endpoint", "msg": "use v2"}],
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_list_in_doubt_says_so(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pages = INCOMPLETE[name]

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=pages[-1 if "after_token" in request.url.params else 0])

    with pytest.raises(ProviderUnreachable):
        answering(monkeypatch, handler, patience_s=1).instances()


def test_machines_that_come_while_pages_are_read_cost_a_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        [
            page(row(1), total=2, token="a"),
            page(row(2), row(3), total=3),  # the third came in between
            page(row(1), total=3, token="b"),
            page(row(2), row(3), total=3),
        ]
    )
    vast = answering(monkeypatch, lambda _: httpx.Response(200, json=next(answers)))
    assert [i.instance_id for i in vast.instances()] == [1, 2, 3]


def test_rows_with_odd_fields_blind_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = row(1, start_date=None, ports="x", dph_total="NaN", machine_id=-1, ssh_host="-oProxyCommand=x", ssh_port=22)
    (machine,) = answering(monkeypatch, lambda _: httpx.Response(200, json=page(odd, total=1))).instances()
    assert machine == Instance(1, "mp-1", "running", *[None] * 4, *[None] * 6)


def test_a_list_older_than_a_new_machine_is_noticed(standin: StandIn) -> None:
    vast = client(standin)
    assert vast.instances() == []
    standin.fault({"route": "list", "do": "stale_list"})
    machine = rent(vast, vast.search(ANY)[0])
    assert [i.instance_id for i in vast.instances()] == [machine]
    assert sent(standin, "GET", "/api/v1/instances", 3)

    standin.fault({"route": "list", "do": "stale_list", "times": -1})
    offers = vast.search(ANY)
    rent(vast, offers[0], "mp-2")
    with pytest.raises(ProviderUnreachable):
        vast.instances()


def test_a_new_machine_that_is_really_gone_blinds_nobody(standin: StandIn) -> None:
    vast = client(standin)
    machine = rent(vast, vast.search(ANY)[0])
    client(standin).destroy(machine)
    assert vast.instances() == []


@pytest.mark.parametrize("missing", ["null", "404"])
def test_a_machine_that_is_gone_is_none(missing: str) -> None:
    with StandIn(missing=missing) as standin:
        assert client(standin).instance(4711) is None


def test_another_machine_than_asked_for_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    vast = answering(monkeypatch, lambda _: httpx.Response(200, json={"instances": row(2)}))
    with pytest.raises(ProviderUnreachable):
        vast.instance(1)


@pytest.mark.parametrize("body", [{}, {"instances": []}, {"instances": "x"}, [], "x"])
def test_no_machine_in_an_answer_is_not_gone(monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    with pytest.raises(ProviderUnreachable):
        answering(monkeypatch, lambda _: httpx.Response(200, json=body), patience_s=1).instance(1)


# ---- create

UNCLEAR = (
    "drop_before",
    "drop_after",
    "fail_after",
    "hang",
    "html",
    "empty",
    "malformed",
    {"do": "status", "code": 500},
)


@pytest.mark.slow
@pytest.mark.parametrize("fault", UNCLEAR)
def test_create_is_sent_once(standin: StandIn, fault: Any) -> None:
    vast = client(standin, timeout_s=0.4)
    offer = vast.search(ANY)[0]
    standin.fault({"route": "create", "seconds": 1, **(fault if isinstance(fault, dict) else {"do": fault})})
    with pytest.raises(CreateUnclear) as raised:
        rent(vast, offer)
    assert raised.value.instance_id is None
    assert sent(standin, "PUT", "/api/v0/asks/", 1)
    if fault in ("drop_after", "fail_after", "malformed"):
        assert [i.label for i in vast.instances()] == ["mp-1"]


def test_a_server_that_is_not_there_has_rented_nothing(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    vast = client(standin)
    offer = vast.search(ANY)[0]
    monkeypatch.setattr(standin, "url", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ProviderUnreachable) as raised:
        rent(client(standin), offer)
    assert not isinstance(raised.value, CreateUnclear)


@pytest.mark.parametrize("fault", ["offer_gone", "offer_404"])
def test_an_offer_that_is_gone(standin: StandIn, fault: str) -> None:
    vast = client(standin)
    offers = vast.search(ANY)
    standin.fault({"route": "create", "do": fault})
    with pytest.raises(OfferGone):
        rent(vast, offers[0])
    assert rent(vast, offers[1])


@pytest.mark.parametrize(("fault", "words"), [("no_credit", "no credit"), ("spend_limit", "spend")])
def test_an_account_that_cannot_pay(standin: StandIn, fault: str, words: str) -> None:
    vast = client(standin)
    standin.fault({"route": "create", "do": fault})
    with pytest.raises(RentalRefused, match=words) as raised:
        rent(vast, vast.search(ANY)[0])
    assert not isinstance(raised.value, OfferGone)
    assert standin.live() == []


def test_an_error_that_leaves_a_machine_behind_names_it(standin: StandIn) -> None:
    vast = client(standin)
    body = {"success": False, "error": "bid_too_low", "msg": "instance created stopped", "new_contract": 4711}
    standin.fault({"route": "create", "do": "status", "code": 400, "body": body})
    with pytest.raises(CreateUnclear) as raised:
        rent(vast, vast.search(ANY)[0])
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.instance_id, str(again)) == (4711, str(raised.value))


@pytest.mark.parametrize(
    "body",
    [
        {"success": True},
        {"success": True, "new_contract": "12"},
        {"success": True, "new_contract": True},
        {"new_contract": 12},
        {"success": False},
    ],
)
def test_success_without_a_machine_is_unclear(standin: StandIn, body: dict[str, Any]) -> None:
    vast = client(standin)
    standin.fault({"route": "create", "do": "status", "code": 200, "body": body})
    with pytest.raises(CreateUnclear):
        rent(vast, vast.search(ANY)[0])


def test_a_request_to_rent_that_comes_too_early_has_rented_nothing(standin: StandIn) -> None:
    vast = client(standin)
    standin.fault({"route": "create", "do": "rate_limit"})
    with pytest.raises(ProviderUnreachable) as raised:
        rent(vast, vast.search(ANY)[0])
    assert not isinstance(raised.value, CreateUnclear)
    assert sent(standin, "PUT", "/api/v0/asks/", 1)


# ---- destroy


def test_success_must_be_said(standin: StandIn) -> None:
    vast = client(standin)
    machine = rent(vast, vast.search(ANY)[0])
    for body in ({"success": False, "msg": "not now"}, {}, {"success": 1}):
        standin.fault({"route": "destroy", "do": "status", "code": 200, "body": body})
        with pytest.raises(ProviderUnreachable):
            vast.destroy(machine)
    assert len(standin.live()) == 1


# ---- the key


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_is_said_whatever_its_status(status: int) -> None:
    with StandIn(bad_key_status=status) as standin:
        offer = client(standin).search(ANY)[0]
        vast = client(standin, key="revoked-key")
        for refused in (vast.account, lambda: rent(vast, offer)):
            with pytest.raises(RentalRefused, match=r"key.*VAST_API_KEY"):
                refused()
        # Blind, not "gone" and not "none".
        for blind in (vast.instances, lambda: vast.instance(1), lambda: vast.destroy(1), lambda: vast.charges(0, 1)):
            with pytest.raises(ProviderUnreachable, match=r"key.*VAST_API_KEY"):
                blind()


SECRET = "sk-0123456789-very-secret"
OTHER_SECRET = "d15a" * 16


@pytest.mark.slow
@pytest.mark.parametrize("status", [200, 400, 404, 429, 500])
def test_no_secret_in_errors_and_logs(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with StandIn(api_keys=(SECRET,)) as standin:
        vast = client(standin, key=SECRET, patience_s=0.2)
        offer = vast.search(ANY)[0]
        body = {
            "success": False,
            "error": f"key {SECRET}",
            "msg": f"Bearer {SECRET} instance_api_key={OTHER_SECRET} {OTHER_SECRET}",
        }
        standin.fault({"route": "*", "do": "status", "code": status, "body": body, "times": -1})
        calls: list[Callable[[], object]] = [
            vast.instances,
            vast.account,
            lambda: vast.search(ANY),
            lambda: rent(vast, offer),
            lambda: vast.destroy(1),
            lambda: vast.attach_key(1, "ssh-ed25519 AAAA"),
            lambda: vast.charges(0, 1),
        ]
        for call in calls:
            with pytest.raises(MediaPipelineError) as raised:
                call()
            text = "".join(traceback.format_exception(raised.value))
            assert SECRET not in text and OTHER_SECRET not in text
        standin.market.faults.clear()
        assert SECRET not in repr(vast) + str(vars(vast))
        assert SECRET not in caplog.text and OTHER_SECRET not in caplog.text
        assert all("api_key" not in request["query"] for request in standin.market.requests)


def test_a_row_of_ours_is_never_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    for odd in ([row(1, instance_api_key=SECRET)], {"id": {"k": SECRET}, "label": None}):
        vast = answering(monkeypatch, lambda _, odd=odd: httpx.Response(200, json=page(odd, total=1)))
        with pytest.raises(ProviderUnreachable) as raised:
            vast.instances()
        assert SECRET not in str(raised.value)


@pytest.mark.slow
def test_logs_hide_secrets_and_never_fail(standin: StandIn) -> None:
    vast = client(standin)
    machine = rent(vast, vast.search(ANY)[0])
    lines = standin.market.instances[machine].log
    lines += [
        f"CONTAINER_API_KEY={OTHER_SECRET}",
        f"password: {SECRET}",
        f"using {KEY}",
        f"x {OTHER_SECRET} y",
        "\x1b[31mred",
    ]
    text = vast.logs(machine)
    assert "created" in text and "red" in text
    assert OTHER_SECRET not in text and SECRET not in text and KEY not in text and "\x1b" not in text
    for fault in ("html", "deprecated"):
        standin.fault({"route": "logs", "do": fault, "times": -1})
        assert vast.logs(machine) == ""
        standin.market.faults.clear()
    assert vast.logs(4711) == ""


def test_the_address_of_logs_does_not_see_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers.get("Authorization")))
        if request.method == "PUT":
            return httpx.Response(200, json={"success": True, "result_url": "https://s3.example/x.log"})
        return httpx.Response(200, text="line")

    assert answering(monkeypatch, handler).logs(1) == "line"
    assert seen == [("127.0.0.1", f"Bearer {KEY}"), ("s3.example", None)]


def test_the_key_never_goes_to_a_machine(standin: StandIn) -> None:
    vast = client(standin)
    offer = vast.search(ANY)[0]
    with pytest.raises(ContractViolation):
        vast.create(offer, label="x", image="i", disk_gb=20, onstart="true", env={"VAST_API_KEY": KEY})
    with pytest.raises(ContractViolation):
        vast.create(offer, label="x", image="i", disk_gb=20, onstart=" " * 5000, env={})
    assert sent(standin, "PUT", "/api/v0/asks/", 0) == []


def test_redirects_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(302, headers={"Location": "https://elsewhere.example/"}, json={})

    vast = answering(monkeypatch, handler, patience_s=1)
    with pytest.raises(ProviderUnreachable):
        vast.instances()
    with pytest.raises(CreateUnclear):
        rent(vast, an_offer())
    assert set(hosts) == {"127.0.0.1"}


@pytest.mark.parametrize("url", ["http://console.vast.ai", "console.vast.ai", "ftp://127.0.0.1", "https://", ""])
def test_only_encrypted_addresses(url: str) -> None:
    with pytest.raises(UsageError, match="MEDIA_PIPELINE_VAST_URL"):
        Vast(SecretStr(KEY), url)


@pytest.mark.parametrize("key", ["", "a\nb", "schlüssel"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    with pytest.raises(UsageError, match="VAST_API_KEY"):
        Vast(SecretStr(key), "https://console.vast.ai")


# ---- pacing


@pytest.mark.slow
@pytest.mark.parametrize("retry_after", [False, True])
def test_requests_that_come_too_early_are_sent_again(retry_after: bool) -> None:
    with StandIn(rate_limit=0.2, retry_after=retry_after) as standin:
        vast = client(standin)
        for _ in range(3):
            vast.instances()
        assert 429 in {request["code"] for request in standin.market.requests}


def test_requests_of_a_route_and_key_are_spaced() -> None:
    url = "https://pacing.example"
    ours, same, other = pacer(url, "key", 1.0), pacer(url, "key", 1.0), pacer(url, "other", 1.0)
    waits = [ours.turn("create"), same.turn("create"), ours.turn("create")]
    assert waits[0] == 0
    assert 4.5 < waits[1] < 6 and 9 < waits[2] < 12
    assert ours.turn("list") == 0 and other.turn("create") == 0

    ours.postpone("list", 0, 30.0)
    assert same.turn("list") > 30
    ours.postpone("show", 3, None)
    assert same.turn("show") > 8 * 2


@pytest.mark.slow
def test_patience_ends(standin: StandIn) -> None:
    standin.fault({"route": "list", "do": "rate_limit", "times": -1})
    with pytest.raises(ProviderUnreachable, match="too frequent"):
        client(standin, patience_s=1).instances()
    standin.fault({"route": "show", "do": "rate_limit", "times": -1, "retry_after": "3000"})
    with pytest.raises(ProviderUnreachable):
        client(standin).instance(1)


def test_no_search_again_on_a_day_whose_searches_are_used_up(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    # Remembered by address and key: another key than that of the other tests.
    monkeypatch.setitem(standin.o, "api_keys", ("quota-key",))
    standin.fault({"route": "search", "do": "rate_limit", "quota": True})
    for _ in range(2):
        with pytest.raises(RentalRefused, match="today"):
            client(standin, key="quota-key").search(ANY)
    assert sent(standin, "POST", "/api/v0/bundles", 1)
    assert client(standin, key="quota-key").instances() == []  # all else goes on


def test_what_a_429_asks_for() -> None:
    assert asked_seconds("2.5", None) == 2.5
    assert asked_seconds(None, {"retry_after": 4}) == 4
    assert asked_seconds("nonsense", {"retry_after": "x"}) is None
    assert asked_seconds("-3", None) is None
    assert asked_seconds("inf", None) is None
    assert asked_seconds("Wed, 21 Oct 2015 07:28:00 GMT", None) == 0


@pytest.mark.slow
def test_closing_ends_a_call_that_waits(standin: StandIn) -> None:
    standin.fault({"route": "list", "do": "rate_limit", "times": -1, "retry_after": "15"})
    vast = client(standin, patience_s=60)
    errors: list[MediaPipelineError] = []

    def ask() -> None:
        try:
            vast.instances()
        except MediaPipelineError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not standin.market.requests:
        time.sleep(0.02)
    vast.close()
    thread.join(10)
    assert [type(e) for e in errors] == [ProviderUnreachable]


# ---- size and shape


@pytest.mark.parametrize("size", [9_000_000, None])
def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b" " * size if size else endless())

    vast = answering(monkeypatch, handler, patience_s=1)
    with pytest.raises(ProviderUnreachable):
        vast.instances()
    with pytest.raises(CreateUnclear):
        rent(vast, an_offer())


def test_deep_json_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    vast = answering(monkeypatch, lambda _: httpx.Response(200, content=b"[" * 200_000), patience_s=1)
    with pytest.raises(ProviderUnreachable):
        vast.instances()


OFFER = {
    "id": 1,
    "machine_id": 2,
    "host_id": 3,
    "gpu_name": "RTX 3090",
    "gpu_ram": 24576,
    "dph_total": 0.21,
    "dph_base": 0.2,
    "storage_cost": 0.18,
    "inet_down_cost": None,
    "internet_down_cost_per_tb": 10.24,
    "inet_up_cost": 0.0,
    "inet_down": 500.0,
    "inet_up": 400,
    "reliability2": 0.99,
    "cuda_max_good": 12.8,
    "geolocation": "Sweden, SE",
    "verification": "verified",
    "hosting_type": 1,
    "disk_space": 100.0,
    "duration": 1e6,
    "direct_port_count": 4,
    "cpu_cores_effective": None,
    "is_bid": False,
    "external": None,
    "num_gpus": 1,
    "compute_cap": 860,
    "dlperf": 22.0,
}


def an_offer(**other: Any) -> Offer:
    return Offer.from_json({**OFFER, **other})


def test_an_offer_as_it_is_read() -> None:
    offer = an_offer()
    assert (offer.usd_per_gb_in, offer.country, offer.compute_capability, offer.cores) == (0.01, "SE", 8.6, None)
    assert offer.is_verified and offer.is_datacenter and not offer.is_bid and not offer.is_external


NEEDED = ("id", "gpu_name", "gpu_ram", "dph_total", "dph_base", "storage_cost", "inet_up_cost")
ODD = (None, "", "12", True, float("nan"), -1, [], 1e300)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in NEEDED for v in ODD if (n, v) != ("gpu_name", "12")])
def test_odd_offers_are_none(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    odd = {**OFFER, name: value}
    with pytest.raises(ProviderUnreachable, match=name):
        Offer.from_json(odd)
    answer = {"offers": [odd, OFFER]}
    content = json.dumps(answer).encode()
    vast = answering(monkeypatch, lambda _: httpx.Response(200, content=content))
    assert [o.offer_id for o in vast.search(ANY)] == [1]


@pytest.mark.parametrize("answer", [{}, {"offers": None}, {"offers": ["x"]}, {"offers": [{"id": 1}]}])
def test_a_search_without_readable_offers_is_not_an_empty_market(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    with pytest.raises(ProviderUnreachable):
        answering(monkeypatch, lambda _: httpx.Response(200, json=answer)).search(ANY)
    assert answering(monkeypatch, lambda _: httpx.Response(200, json={"offers": []})).search(ANY) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"actual_status": "exited", "status_msg": "container exited"}, "exited: container exited"),
        ({"actual_status": "offline"}, "offline"),
        ({"actual_status": "created", "status_msg": "x: OCI runtime create failed: y"}, "cannot start"),
        ({"actual_status": "loading", "status_msg": "manifest unknown"}, "manifest unknown"),
        (
            {"actual_status": None, "cur_state": "stopped", "next_state": "stopped", "intended_status": "stopped"},
            "stopped",
        ),
        ({"actual_status": "loading", "status_msg": "pulling"}, None),
        ({"actual_status": None}, None),
        ({"actual_status": "running", "status_msg": "unauthorized key tried"}, None),
    ],
)
def test_why_a_machine_will_never_run(fields: dict[str, Any], words: str | None) -> None:
    failure = Instance.from_json({"id": 1, "label": None, **fields}).failure
    assert failure is None if words is None else failure is not None and words in failure


def test_rounded_charges_are_made_exact() -> None:
    charge = {
        "source": "instance-7",
        "start": 1,
        "end": 2,
        "amount": 0.002,
        "items": [{"amount": 0.00213}, {"amount": 1e-4}],
    }
    assert Charge.from_json(charge).usd == pytest.approx(0.00223)
    assert Charge.from_json({**charge, "amount": 1.0}).usd == 1.0  # the items are not all of it
    with pytest.raises(ProviderUnreachable):
        Charge.from_json({**charge, "source": "volume-7"})
