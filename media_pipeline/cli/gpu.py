"""`gpu`: rented machines, what they cost, and giving back what nobody needs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from media_pipeline.cli._tables import print_table
from media_pipeline.cli.context import App
from media_pipeline.errors import MediaPipelineError, UsageError
from media_pipeline.wording import printable

if TYPE_CHECKING:
    from media_pipeline.cloud.api import Vast
    from media_pipeline.storage.leases import Lease, Leases

EXIT_NOT_CLEAN = 1
_NO_KEY = "no key of an account at Vast.ai is set", "set VAST_API_KEY"
_NOTICES_S = 7 * 24 * 3600  # that are shown
_PATIENCE_S = 15.0  # of who looks at the screen
_ROWS = 20  # of runs and leases, on the screen

_format = click.option(
    "--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True
)  # fmt: skip


@click.group()
def gpu() -> None:
    """Rented machines: what runs, what it costs, and giving it back."""


@gpu.command()
@_format
@click.pass_obj
def status(app: App, output: str) -> None:
    """What is rented now, for whom, and what is left of the limits. Says so where Vast.ai cannot be asked."""
    with _leases(app) as leases:
        report = _status(app, leases)
    if output == "json":
        click.echo(json.dumps(report, indent=2, default=str))
        return
    _print_leases(report["leases"])
    _print_limits(report["limits"])
    _print_provider(report["provider"])
    for notice in report["notices"]:
        click.echo(f"{_moment(notice['at'])}: {notice['text']}")


@gpu.command()
@_format
@click.pass_obj
def costs(app: App, output: str) -> None:
    """What was spent by day, month and run, against the limits; and what the provider's books say of each machine."""
    with _leases(app) as leases:
        report = _costs(app, leases)
    if output == "json":
        click.echo(json.dumps(report, indent=2, default=str))
        return
    for title, name in (("DAY (UTC)", "days"), ("MONTH (UTC)", "months"), ("RUN", "runs")):
        found = report[name][:_ROWS]
        rows = [[r["name"], _usd(r["usd"]), *_eur(app, r["usd"]), _usd(r["limit_usd"]), _share(r)] for r in found]
        headings = (title, "SPENT", *(["IN EUR"] if _eur(app, 0) else []), "LIMIT", "USED")
        print_table(headings, rows, right=headings[1:])
        click.echo()
    rows = [
        [
            row["lease_id"],
            _moment(row["opened_at"]),
            row["gpu"],
            _usd(row["metered_usd"], 4),
            _usd(row["charged_usd"], 4),
            _usd(row["difference_usd"], 4),
            row["books"],
        ]
        for row in report["leases"][:_ROWS]
    ]
    numbers = ("OUR METER", "CHARGED", "DIFFERENCE")
    print_table(("LEASE", "SINCE", "GPU", *numbers, "BOOKS"), rows, right=numbers)
    if report["books"]:
        click.echo(f"the provider's charges are not up to date: {report['books']}", err=True)


@gpu.command()
@_format
@click.pass_obj
def reap(app: App, output: str) -> int:
    """Give back what nobody needs, whatever else is down. Exit code 1: something could not be seen or destroyed."""
    from media_pipeline.cloud.reaper import patrol

    with _leases(app) as leases:
        if app.settings.vast_key is None and not leases.latest(1):
            click.echo("nothing was ever rented, and no key of Vast.ai is set")
            return 0
        with _vast(app) as vast:
            done = patrol(vast, leases, app.settings, _layout(app))
    if output == "json":
        click.echo(json.dumps({**asdict(done), "is_clean": done.is_clean}, indent=2))
    else:
        for line in done.lines or ["nothing of ours is running"]:
            click.echo(printable(line), err=not done.is_clean)
    return 0 if done.is_clean else EXIT_NOT_CLEAN


# -- what is shown ----------------------------------------------------------------------------------------------------


def _status(app: App, leases: Leases) -> dict[str, Any]:
    from media_pipeline.cloud.budget import caps
    from media_pipeline.cloud.reaper import why_unwanted
    from media_pipeline.storage.leases import day

    now = time.time()
    settings = app.settings.gpu
    used, limits = leases.used(run_id=""), caps(settings)
    rows = [
        {
            "lease_id": lease.lease_id,
            "instance_id": lease.instance_id,
            "gpu": lease.gpu,
            "country": lease.country,
            "state": lease.state,
            "run_id": lease.run_id,
            "opened_at": lease.opened_at,
            "usd_per_hour": lease.usd_per_hour,
            "spent_usd": lease.spent_usd + (lease.unattended_usd(now) if lease.instance_id else 0.0),
            "reserved_usd": lease.reserved_usd,
            "idle_until": lease.idle_until,
            "unwanted": why_unwanted(lease, settings, now),
        }
        for lease in leases.open()
    ]
    spans = (("day", day(now), limits.day_usd, used.day_usd), ("month", day(now)[:7], limits.month_usd, used.month_usd))
    return {
        "leases": rows,
        "limits": [
            {"name": name, "spent_usd": leases.spent(period=span), "used_usd": both, "limit_usd": cap}
            for name, span, cap, both in spans
        ],
        "provider": _provider(app, leases, rows),
        "notices": [asdict(notice) for notice in leases.notices(since=now - _NOTICES_S)],
    }


def _provider(app: App, leases: Leases, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The account as Vast.ai sees it, or why that is not known."""
    try:
        with _vast(app) as vast:
            listed, credit = vast.instances(), vast.account().credit_usd
    except MediaPipelineError as error:
        return {"error": str(error)}
    ours = {i.instance_id: i.gpu for i in listed if (i.label or "").startswith(leases.prefix)}
    known = {row["instance_id"] for row in rows}
    return {
        "credit_usd": credit,
        "ours": sorted(ours),
        "foreign": len(listed) - len(ours),
        "without_lease": sorted(ours.keys() - known),
        "not_listed": sorted(i for i in known - ours.keys() if i is not None),
    }


def _costs(app: App, leases: Leases) -> dict[str, Any]:
    from media_pipeline.cloud.budget import caps
    from media_pipeline.cloud.charging import reconcile

    books = None
    try:
        if leases.unsettled():
            with _vast(app) as vast:
                reconcile(vast, leases)
    except MediaPipelineError as error:
        books = str(error)
    limits = caps(app.settings.gpu)
    booked = leases.cost_table().to_pylist()
    begun = {row["run_id"]: row["day"] for row in reversed(booked)}

    def sums(key: str, length: int | None, limit: float) -> list[dict[str, Any]]:
        found: dict[str, float] = {}
        for row in booked:
            name = str(row[key])[:length]
            found[name] = found.get(name, 0.0) + row["spent_usd"]
        newest = sorted(found, key=lambda name: (begun.get(name, name), name), reverse=True)
        return [{"name": name, "usd": found[name], "limit_usd": limit} for name in newest]

    return {
        "days": sums("day", None, limits.day_usd),
        "months": sums("day", 7, limits.month_usd),
        "runs": sums("run_id", None, limits.run_usd),
        "leases": [_compared(lease, booked) for lease in leases.latest(10_000) if lease.instance_id is not None],
        "books": books,
    }


def _compared(lease: Lease, booked: list[dict[str, Any]]) -> dict[str, Any]:
    metered = sum(r["spent_usd"] for r in booked if r["lease_id"] == lease.lease_id and r["source"] == "meter")
    charged = lease.charged_usd
    return {
        "lease_id": lease.lease_id,
        "instance_id": lease.instance_id,
        "run_id": lease.run_id,
        "gpu": lease.gpu,
        "opened_at": lease.opened_at,
        "closed_at": lease.closed_at,
        "metered_usd": metered,
        "charged_usd": charged,
        "difference_usd": None if charged is None else charged - metered,
        "spent_usd": lease.spent_usd,
        "books": "settled" if lease.settled_at else "open" if lease.is_open else "settling",
    }


# -- on the screen ----------------------------------------------------------------------------------------------------


def _print_leases(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("nothing is rented, as far as this home knows")
        return
    cells = [
        [
            row["lease_id"],
            str(row["instance_id"] or "not known"),
            f"{row['gpu']} in {row['country'] or '?'}",
            row["state"],
            _moment(row["opened_at"]),
            _usd(row["usd_per_hour"], 3),
            _usd(row["spent_usd"], 3),
            _usd(row["reserved_usd"], 3),
            row["run_id"],
        ]
        for row in rows
    ]
    print_table(
        ("LEASE", "MACHINE", "GPU", "STATE", "SINCE", "PER HOUR", "SPENT", "RESERVED", "RUN"),
        cells,
        right=("PER HOUR", "SPENT", "RESERVED"),
    )
    for row in rows:
        if row["unwanted"]:
            why = printable(row["unwanted"])
            click.echo(f"lease {row['lease_id']} is to be given back: {why}; `media-pipeline gpu reap` does it")


def _print_limits(limits: list[dict[str, Any]]) -> None:
    for row in limits:
        reserved = max(0.0, row["used_usd"] - row["spent_usd"])
        click.echo(
            f"this {row['name']} (UTC): {_usd(row['spent_usd'])} spent and {_usd(reserved)} reserved of "
            f"{_usd(row['limit_usd'])} (MEDIA_PIPELINE_GPU__MAX_USD_PER_{row['name'].upper()})"
        )


def _print_provider(provider: dict[str, Any]) -> None:
    if "error" in provider:
        click.echo(f"Vast.ai was not asked: {provider['error']}", err=True)
        return
    click.echo(
        f"Vast.ai: {len(provider['ours'])} machines of ours, {provider['foreign']} others on the account, "
        f"{_usd(provider['credit_usd'])} of credit"
    )
    for instance_id in provider["without_lease"]:
        click.echo(f"machine {instance_id} runs and no lease needs it: `media-pipeline gpu reap` destroys it", err=True)
    for instance_id in provider["not_listed"]:
        click.echo(
            f"machine {instance_id} is not listed: `media-pipeline gpu reap` finds out what became of it", err=True
        )


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _usd(amount: float | None, digits: int = 2) -> str:
    return "" if amount is None else f"${amount:.{digits}f}" if amount >= 0 else f"-${-amount:.{digits}f}"


def _eur(app: App, usd: float) -> list[str]:
    """A cell, where it is known what a dollar is worth."""
    rate = app.settings.gpu.eur_per_usd
    return [] if rate is None else [f"{usd * rate:.2f}"]


def _share(row: dict[str, Any]) -> str:
    return f"{row['usd'] / row['limit_usd']:.0%}" if row["limit_usd"] else ""


# -- inside -----------------------------------------------------------------------------------------------------------


def _layout(app: App) -> Any:
    from media_pipeline.storage.layout import Layout

    return Layout(app.settings.home)


@contextmanager
def _leases(app: App) -> Iterator[Leases]:
    """The book of this home; of nothing else: tables may be damaged, and machines cost money all the same."""
    from media_pipeline.storage.leases import Leases

    layout = _layout(app)
    layout.create()
    with closing(Leases.of(layout)) as leases:
        yield leases


@contextmanager
def _vast(app: App) -> Iterator[Vast]:
    from media_pipeline.cloud.api import Vast

    key = app.settings.vast_key
    if key is None:
        raise UsageError(*_NO_KEY)
    with closing(Vast(key, app.settings.vast_url, timeout_s=_PATIENCE_S, patience_s=2 * _PATIENCE_S)) as vast:
        yield vast
