"""The part of Vast.ai's API that renting needs, and what can be relied on of its answers.

Answers are judged by their content: an error comes with status 200 as well as 404, and a wrong key is a 404. What is
not understood says nothing: `ProviderUnreachable`, never "there are no machines". Whatever may be repeated is, for a
while; renting is not, ever: there is no way to tell the server that a second request is the first one again.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from media_pipeline.cloud._http import KEY_REMEDY, Answer, Http, NoAnswer, NotSent, no_search_today
from media_pipeline.cloud._pacing import asked_seconds
from media_pipeline.cloud.offers import search_filter
from media_pipeline.cloud.records import Account, Charge, Instance, Offer
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import ContractViolation, MediaPipelineError, ProviderUnreachable, RentalRefused

PAGE = 25  # instances per answer, the most that Vast.ai gives
_MAX_PAGES = 200
_LISTINGS = 3  # machines come and go between two pages
_FRESH_S = 300.0  # for so long a list may be older than a machine
_LOG_BYTES, _LOG_WAIT_S = 64 * 1024, 10.0
_MOST_CHARACTERS = {"label": 256, "image": 1024, "onstart": 4096}


class OfferGone(RentalRefused):
    """Somebody else was faster, or the machine cannot be had as asked: take the next offer."""


class CreateUnclear(ProviderUnreachable):
    """Whether a machine was rented is not known: look for its label before doing anything else."""

    def __init__(self, cause: str, remedy: str | None = None, instance_id: int | None = None) -> None:
        super().__init__(cause, remedy)
        self.instance_id = instance_id  # that is there in spite of an error, where the answer named it

    def __reduce__(self) -> Any:
        return (type(self), (self.cause, self.remedy, self.instance_id))


class Vast:
    """One account. Safe for threads. Requests of one key are spaced as Vast.ai wants, within this process.

    Args:
        timeout_s: of one request
        patience_s: of one call, with all its waiting and repeating
        pace: of the published intervals between requests; None: 1, and 0 for a server on this machine, which
            cannot be Vast.ai

    Raises:
        UsageError: the key or the address cannot be one.
    """

    def __init__(
        self, key: SecretStr, url: str, *, timeout_s: float = 30, patience_s: float = 90, pace: float | None = None
    ) -> None:
        self._http = Http(key, url, timeout_s=timeout_s, patience_s=patience_s, pace=pace)
        self._fresh: dict[int, float] = {}  # machines rented by us just now: time.monotonic()

    def __repr__(self) -> str:
        return f"Vast({self._http.host})"

    def close(self) -> None:
        """Ends calls of other threads as well: they raise ProviderUnreachable."""
        self._http.close()

    def search(self, gpu: Gpu, *, limit: int = 64) -> list[Offer]:
        """Offers as the server filters them; `offers.suitable` checks. Odd ones are left out: there are others.

        Raises:
            RentalRefused: the key is not accepted, or the account's searches of today are used up.
            ProviderUnreachable
        """
        if time.time() < self._http.pacer.no_search_before:
            raise no_search_today()
        answer = self._http.ask("search", "POST", "/api/v0/bundles/", search_filter(gpu, limit), refused=RentalRefused)
        rows = (answer or {}).get("offers")
        if not isinstance(rows, list):
            raise self._http.odd("search", "no list of offers")
        found = []
        for row in rows:
            with contextlib.suppress(ProviderUnreachable):
                found.append(Offer.from_json(row))
        if rows and not found:
            raise self._http.odd("search", f"{len(rows)} offers, none of which can be read")
        return found

    def create(
        self, offer: Offer, *, label: str, image: str, disk_gb: float, onstart: str, env: Mapping[str, str]
    ) -> int:
        """Rents a machine on demand; returns the instance's id. Sent once, whatever happens.

        Raises:
            OfferGone: take the next offer.
            RentalRefused: nothing can be rented: no credit, a spending limit, the key.
            CreateUnclear: a machine may have been rented, under this label.
            ProviderUnreachable: none of these; surely nothing was rented.
        """
        body = {
            "client_id": "me",
            "image": image,
            "disk": disk_gb,
            "label": label,
            "runtype": "ssh_direct",
            "env": dict(env),
            "onstart": onstart,
            # Else a machine that cannot be had right now is kept for us, stopped, and its disk is billed.
            "cancel_unavail": True,
            "target_state": "running",
        }
        for name, most in _MOST_CHARACTERS.items():
            if len(str(body[name])) > most:
                raise ContractViolation(f"the {name} of a machine is longer than {most} characters")
        if self._http.holds_key(json.dumps(body)):
            raise ContractViolation("the key of the account would have gone to a rented machine")
        try:
            answer = self._http.send("create", "PUT", f"/api/v0/asks/{offer.offer_id}/", body)
        except NotSent as error:
            raise ProviderUnreachable(f"Vast.ai cannot be reached ({error})", "check the network") from None
        except NoAnswer as error:
            raise self._unclear(str(error)) from None
        return self._created(answer)

    def instances(self) -> list[Instance]:
        """All machines of the account, whoever rented them.

        A row without a readable id and label makes the answer incomplete: it might be one of ours. Other fields that
        are odd are None and harm nobody.

        Raises:
            ProviderUnreachable: unless the answer is complete beyond doubt.
        """
        why = ""
        for _ in range(_LISTINGS):
            params = {"limit": str(PAGE)}
            rows, why = self._paged("list", "/api/v1/instances/", params, "instances", "total_instances")
            found = [Instance.from_json(row) for row in rows]
            ids = {i.instance_id for i in found}
            why = why or ("a machine twice" if len(ids) < len(found) else self._staleness(ids))
            if not why:
                return found
        raise self._http.odd("list", why)

    def instance(self, instance_id: int) -> Instance | None:
        """One machine; None when it is gone.

        Raises:
            ProviderUnreachable
        """
        answer = self._http.ask("show", "GET", f"/api/v0/instances/{instance_id}/")
        if answer is None or answer.get("instances", "missing") is None:
            self._fresh.pop(instance_id, None)
            return None
        found = Instance.from_json(answer.get("instances"))
        if found.instance_id != instance_id:
            raise self._http.odd("show", f"machine {found.instance_id} in place of {instance_id}")
        return found

    def destroy(self, instance_id: int) -> None:
        """Gives a machine back. Returns when Vast.ai says that it is gone; that is no proof yet: look again.

        Raises:
            ProviderUnreachable: anything else.
        """
        answer = self._http.ask("destroy", "DELETE", f"/api/v0/instances/{instance_id}/")
        if answer is not None and answer.get("success") is not True:
            raise self._http.odd("destroy", "no success")
        self._fresh.pop(instance_id, None)

    def attach_key(self, instance_id: int, public_key: str) -> None:
        """Lets the holder of a key in by ssh. (A key of the account reaches only machines that are rented later.)

        Raises:
            ProviderUnreachable
        """
        answer = self._http.ask("attach", "POST", f"/api/v0/instances/{instance_id}/ssh/", {"ssh_key": public_key})
        if answer is None or answer.get("success") is not True:
            raise self._http.odd("attach", "no success")

    def logs(self, instance_id: int) -> str:
        """Last lines of the container's log without what looks like a secret; empty when they are not to be had."""
        until = time.monotonic() + _LOG_WAIT_S
        with contextlib.suppress(MediaPipelineError, NoAnswer, httpx.HTTPError, httpx.InvalidURL):
            path = f"/api/v0/instances/request_logs/{instance_id}/"
            answer = self._http.ask("logs", "PUT", path, {"tail": "100"})
            url = httpx.URL(str((answer or {}).get("result_url") or ""))
            if url.scheme != "https" and not str(url).startswith(f"{self._http.url}/"):
                return ""
            # It is being written while we ask.
            while time.monotonic() < until and not self._http.pause(0.3):
                text = self._http.read(url, _LOG_BYTES)
                if text is not None:
                    return "\n".join(self._http.clean(line) for line in text.splitlines())
        return ""

    def account(self) -> Account:
        """The account's money.

        Raises:
            RentalRefused: the key is not accepted.
            ProviderUnreachable
        """
        return Account.from_json(self._http.ask("user", "GET", "/api/v0/users/current/", refused=RentalRefused))

    def charges(self, since: float, until: float) -> list[Charge]:
        """What machines cost in a span of time (seconds since 1970); the provider counts by whole days.

        Raises:
            ProviderUnreachable: also when the list is not complete.
        """
        wanted = {"day": {"gte": int(since), "lte": int(until)}, "type": {"in": ["instance"]}}
        params = {"select_filters": json.dumps(wanted), "format": "table", "latest_first": "true", "limit": "500"}
        rows, why = self._paged("charges", "/api/v0/charges/", params, "results", "total")
        if why:
            raise self._http.odd("charges", why)
        return [Charge.from_json(row) for row in rows]

    def _paged(
        self, route: str, path: str, params: dict[str, str], name: str, name_of_total: str
    ) -> tuple[list[Any], str]:
        """The rows of all pages, and why these are not all that there are; empty when they are."""
        rows: list[Any] = []
        totals: set[int] = set()
        tokens: set[str] = set()
        more: dict[str, str] = {}
        for _ in range(_MAX_PAGES):
            answer = self._http.ask(route, "GET", path, params=params | more) or {}
            page, total, token = answer.get(name), answer.get(name_of_total), answer.get("next_token")
            if answer.get("success") is not True or not isinstance(page, list) or type(total) is not int:
                raise self._http.odd(route, "no complete list")
            rows += page
            totals.add(total)
            if token is None:
                return rows, "" if totals == {len(rows)} else f"{len(rows)} rows of {' or '.join(map(str, totals))}"
            if not isinstance(token, str) or token in tokens or not page:
                break
            tokens.add(token)
            more = {"after_token": token}
        return rows, "pages that go round in a circle"

    def _staleness(self, listed: set[int]) -> str:
        """Why a list is older than a machine that we rented moments ago; empty when it is not."""
        for instance_id, since in list(self._fresh.items()):
            if instance_id in listed or time.monotonic() - since > _FRESH_S:
                self._fresh.pop(instance_id, None)
            elif self.instance(instance_id) is not None:
                return f"a list that does not know machine {instance_id} yet"
        return ""

    def _created(self, answer: Answer) -> int:
        body = answer.body or {}
        contract = body.get("new_contract")
        instance_id = contract if type(contract) is int and contract > 0 else None
        if answer.status == 200 and body.get("success") is True and instance_id:
            self._fresh[instance_id] = time.monotonic()
            return instance_id
        words = self._http.clean(answer.words)
        if answer.status == 429 and not instance_id:  # its counter stands before everything else
            self._http.pacer.postpone("create", 0, asked_seconds(answer.retry_after, answer.body))
            raise ProviderUnreachable(f"Vast.ai wants fewer requests ({words})", "try again in a minute")
        # Clear is only a refusal with its reason. One that names a machine has left it behind, stopped and billed.
        is_refusal = 400 <= answer.status < 500 or (answer.status == 200 and body.get("success") is False)
        if instance_id or not is_refusal or not answer.error:
            raise self._unclear(words, instance_id)
        raise self._refusal(answer, words)

    def _refusal(self, answer: Answer, words: str) -> MediaPipelineError:
        if answer.is_about_the_key:
            return RentalRefused(f"Vast.ai does not accept the key ({words})", KEY_REMEDY)
        if answer.error in ("insufficient_credit", "missing_billing"):
            return RentalRefused(f"the account has no credit ({words})", "add some: https://cloud.vast.ai/billing/")
        if answer.error == "spend_rate_limit":
            return RentalRefused(f"the account may not spend more ({words})", "wait, or have Vast.ai raise its limit")
        if answer.error == "deprecated_endpoint":
            return self._http.retired("create")
        if re.search(r"no_such_ask|not available|no longer available|disk space", f"{answer.error} {words}"):
            return OfferGone(f"the machine cannot be had any more ({words})")
        return RentalRefused(f"Vast.ai refuses to rent ({words})", "check the settings MEDIA_PIPELINE_GPU__…")

    def _unclear(self, words: str, instance_id: int | None = None) -> CreateUnclear:
        return CreateUnclear(
            f"Vast.ai did not say clearly whether a machine was rented ({words})",
            "`media-pipeline gpu reap` destroys what nobody needs",
            instance_id,
        )
