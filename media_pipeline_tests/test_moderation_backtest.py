"""What another set of rules would change: counts, examples with evidence, nothing written."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from media_pipeline.cli import main
from media_pipeline.results._moderation_files import Source
from media_pipeline_tests._moderation_home import ModerationHome, moderation_home

pytestmark = pytest.mark.slow  # DuckDB plans every rule anew for every command
Done = Callable[..., str]

STRICT = """\
version: 2
rules:
  - name: nudity
    severity: block
    threshold: 0.45
    text: Explicit nudity is to be seen.
    sql: |
      SELECT media_id, frame_index, pts_s, score, x1, y1, x2, y2, label AS found
      FROM nsfw WHERE explicit AND score >= $threshold
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ModerationHome]:
    made = moderation_home(tmp_path / "home")
    # Ids as people give them: beginnings are enough.
    for media_id, score in ((f"{n}" * 64, n / 10) for n in range(10)):
        made.add(media_id)
        made.bare(media_id, score)
    yield made
    made.close()


def identifier(digit: int) -> str:
    return f"{digit}" * 64


@pytest.fixture
def done(home: ModerationHome, capsys: pytest.CaptureFixture[str]) -> Done:
    """Runs a command of the command line; what it printed, errors included where one is expected."""

    def run(*args: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(home.layout.home), *args])
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        return out + (err if code else "")

    return run


def test_both_sets_over_all_media(home: ModerationHome) -> None:
    moderation = home.moderation()
    moderation.update([])
    version = home.tables.version("moderation")
    before = moderation.rules_of([Source("strict.yaml", STRICT)])
    assert before.problems == ()
    result = moderation.backtest(before, max_examples=1)
    assert result.media == 10
    assert result.verdicts_before == {"allow": 3, "review": 2, "block": 5}
    assert result.verdicts_after == {"allow": 3, "review": 3, "block": 4}
    assert result.flips == {("block", "review"): 1}
    (flip,) = result.examples["block", "review"]
    assert flip.media_id == identifier(5)
    assert [(r["rule"], r["severity"], round(r["score"], 2)) for r in flip.why] == [("nudity", "block", 0.5)]
    assert result.rules["nudity"] == [5, 4]
    assert home.tables.version("moderation") == version


def test_against_a_file_and_a_revision(home: ModerationHome, tmp_path: Path, done: Done) -> None:
    file = tmp_path / "strict.yaml"
    file.write_text(STRICT)
    found = json.loads(done("rules", "backtest", "--against", str(file), "--format", "json"))
    assert [(f["before"], f["after"], f["count"]) for f in found["flips"]] == [("block", "review", 1)]
    assert found["flips"][0]["examples"][0]["media_id"] == identifier(5)
    assert found["flips"][0]["examples"][0]["reasons"][0]["x1"] == 10.0
    home.rule(STRICT)
    for command in (["init"], ["add", "."], ["commit", "-m", "strict"]):
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", home.layout.rules, *identity, *command], check=True, capture_output=True)
    home.rule(STRICT.replace("0.45", "0.85"))
    text = done("rules", "backtest", "--against", "HEAD")
    assert "10 media, 4 of them with another verdict" in text
    assert "block -> review: 4" in text
    assert f"({identifier(5)[:12]})" in text
    assert (
        "nudity: Explicit nudity is to be seen. (FEMALE_BREAST_EXPOSED, 0.50, at 0:00, frame 0, box 10 20 30 40)"
        in text
    )
    assert "neither a file nor a revision" in done("rules", "backtest", "--against", "v1", code=2)
    file.write_text("rules: 3")
    assert f"{file}:1: " in done("rules", "backtest", "--against", str(file), code=2)


def test_checking_rules(home: ModerationHome, tmp_path: Path, done: Done) -> None:
    assert "9 rules are right" in done("rules", "check")
    path = home.rule(STRICT.replace("FROM nsfw", "FROM nsfv"))
    assert f"{path}:9: nudity: Catalog Error: Table with name nsfv" in done("rules", "check", code=1)
    good = tmp_path / "good.yaml"
    good.write_text(STRICT)
    assert "9 rules are right" in done("rules", "check", str(good))
    listed = json.loads(done("rules", "list", "--format", "json"))
    assert len(listed["rules"]) == 8
    assert len(listed["problems"]) == 1
    assert "rules check" in done("rules", "apply", code=2)


def test_deciding_from_the_command_line(home: ModerationHome, done: Done) -> None:
    home.rule(textwrap.dedent(STRICT))
    assert "3 allow, 5 block, 2 review; 5 newly blocked" in ", ".join(done("rules", "apply").split(", "))
    blocked = json.loads(done("moderate", "list", "--verdict", "block", "--format", "json"))
    assert {row["media_id"] for row in blocked} == {identifier(n) for n in range(5, 10)}
    assert blocked[0]["rules"] == ["nudity", "possible_nudity"]
    text = done("moderate", "approve", identifier(9)[:12], identifier(8), "--by", "Eva", "--reason", "art")
    assert text.count(": allow, decided by Eva") == 2
    with duckdb.connect(home.layout.warehouse, read_only=True) as warehouse:  # published at once
        sql = "SELECT verdict, decided_by, rule_verdict FROM moderation WHERE media_id = ?"
        assert warehouse.execute(sql, [identifier(9)]).fetchall() == [("allow", "Eva", "block")]
    done("moderate", "note", identifier(9), "--by", "Max", "--reason", "seen\x1b[2J")
    shown = done("moderate", "show", identifier(9)[:12])
    assert "allow, decided by Eva" in shown
    assert "say block" in shown
    assert "seen [2J" in shown
    assert "block, decided by rules" in done("moderate", "undo", identifier(9), "--by", "Max")
    log = json.loads(done("moderate", "show", identifier(9), "--format", "json"))["decisions"]
    assert [(entry["action"], entry["decided_by"]) for entry in log] == [
        ("approve", "Eva"),
        ("note", "Max"),
        ("undo", "Max"),
    ]
    assert "Missing option '--by'" in done("moderate", "block", identifier(1), code=2)
    assert "the name of who made it" in done("moderate", "block", identifier(1), "--by", "rules", code=2)
    assert "a note without a text" in done("moderate", "note", identifier(1), "--by", "Max", code=2)
    assert "no medium is called" in done("moderate", "block", "ffffffffffff", "--by", "Max", code=2)
