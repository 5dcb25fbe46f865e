"""Rule files: what is taken, and how precisely is said what is wrong. Nothing here reads a row."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from media_pipeline.config import Moderation
from media_pipeline.errors import UsageError
from media_pipeline.execution.git_files import files_at
from media_pipeline.results._moderation_files import Source, read_files, read_folder
from media_pipeline.results._moderation_rules import RuleSet, rules_from
from media_pipeline_tests._moderation_home import STAGES, ModerationHome, moderation_home

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute

RULE = """\
version: 3
rules:
  - name: pistols
    severity: block
    threshold: 0.7
    text: A pistol is to be seen.
    parameters:
      labels: [handgun]
    sql: |
      SELECT media_id, frame_index, pts_s, score, label AS found
      FROM labels
      WHERE list_contains($labels, label) AND score >= $threshold
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> ModerationHome:
    return moderation_home(tmp_path_factory.mktemp("rules") / "home")


def loaded(home: ModerationHome, *texts: str, **settings: object) -> RuleSet:
    sources = [Source(f"{n}.yaml", text) for n, text in enumerate(texts)]
    chosen = Moderation(**settings)  # type: ignore[arg-type]
    return rules_from(sources, [], home.catalog, home.layout, chosen, home.settings.sql, STAGES)


def problem(home: ModerationHome, text: str) -> str:
    found = loaded(home, text)
    assert len(found.problems) == 1, found.problems
    return str(found.problems[0])


def test_the_shipped_rules_are_right(home: ModerationHome) -> None:
    found = loaded(home)
    assert found.problems == ()
    idle = {active.rule.name for active in found.rules if active.is_idle}
    assert idle == {"blocked_faces", *(f"blocked_words_{where}" for where in ("in_draft", "in_speech", "on_screen"))}
    assert {active.rule.name for active in found.judging} == {
        "nudity",
        "possible_nudity",
        "restraint",
        "violence",
        "weapons",
    }
    needs = {active.rule.name: sorted(active.needs) for active in found.rules}
    assert needs["nudity"] == ["nsfw"]
    assert needs["violence"] == ["image_embeddings", "labels"]
    assert needs["blocked_faces"] == ["faces"]


def test_a_rule_of_the_users(home: ModerationHome) -> None:
    found = loaded(home, RULE, thresholds={"nudity": 0.9})
    assert found.problems == ()
    rules = {active.rule.name: active for active in found.rules}
    assert rules["pistols"].parameters == {"labels": ("handgun",), "threshold": 0.7}
    assert rules["pistols"].views == {"labels"}
    assert rules["nudity"].parameters == {"threshold": 0.9}
    assert found.version.startswith("1+3@")
    assert found.version != loaded(home, RULE).version
    assert loaded(home, RULE).version == loaded(home, RULE + "# a remark\n").version


def test_a_rule_takes_the_place_of_a_shipped_one_or_switches_it_off(home: ModerationHome) -> None:
    found = loaded(home, RULE.replace("pistols", "weapons").replace("rules:", "disabled: [violence]\nrules:"))
    assert found.problems == ()
    rules = {active.rule.name: active for active in found.rules}
    assert rules["weapons"].rule.severity == "block"
    assert "violence" not in rules


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("severity: block", "severity: delete", "0.yaml:4: rules.0.severity: Input should be 'review' or 'block'"),
        ("threshold: 0.7", "threshold: 7", "0.yaml:5: rules.0.threshold: "),
        ("    text: A", "    texts: A", "0.yaml:3: rules.0.text: Field required"),
        ("version: 3", "version: 3: 4", "0.yaml:1: mapping values are not allowed here"),
        ("FROM labels", "FROM labls", "0.yaml:11: pistols: Catalog Error: Table with name labls does not exist"),
        ("$threshold", "$treshold", "0.yaml:10: pistols: the parameter $treshold is not given"),
        ("label AS found", "label", "0.yaml:10: pistols: the query returns label; it may return media_id, score,"),
        ("SELECT media_id,", "SELECT", "0.yaml:10: pistols: the query returns no media_id"),
        ("score >= $threshold", "score >=", "0.yaml:12: pistols: Parser Error: syntax error at or near"),
        ("WHERE list", "WHEREVER list", "0.yaml:12: pistols: Parser Error: syntax error at or near"),
        ("pts_s, score,", "pts_s, label AS score,", "0.yaml:10: pistols: the query returns score as VARCHAR"),
        ("FROM labels\n", "FROM labels, moderation\n", "0.yaml:11: pistols: Catalog Error: Table with name moder"),
        ("    sql: |", "    needs: [tastes]\n    sql: |", "0.yaml:9: pistols: needs: no analyzer is called 'tastes'"),
        ("rules:", "disabled: [tastes]\nrules:", "0.yaml:2: disabled: no rule is called 'tastes'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(home: ModerationHome, old: str, new: str, expected: str) -> None:
    assert old in RULE
    assert problem(home, RULE.replace(old, new)).startswith(expected)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM library.labels",
        "SELECT media_id FROM labels; DROP VIEW labels",
        "SELECT media_id FROM labels) AS a; DROP VIEW labels; SELECT (1",
        "SELECT content AS media_id FROM read_text('/etc/hosts')",
        "COPY labels TO '/tmp/stolen.csv'",
        "SELECT media_id FROM '/etc/hosts'",
        "ATTACH '/tmp/other.db'",
        "SET memory_limit = '1TB'",
        "EXPLAIN ANALYZE SELECT media_id FROM labels",
        "SELECT media_id, unnest(range(10000000000)) AS score FROM labels LIMIT",
    ],
)
def test_hostile_queries_are_no_rules(home: ModerationHome, sql: str) -> None:
    text = RULE.split("    sql: |")[0] + "    sql: |\n" + textwrap.indent(sql, "      ")
    found = loaded(home, text)
    assert len(found.problems) == 1
    assert "pistols" not in {active.rule.name for active in found.rules}


def test_one_wrong_rule_leaves_the_others(home: ModerationHome) -> None:
    found = loaded(home, RULE, RULE, thresholds={"tastes": 0.5})
    assert [str(p) for p in found.problems] == [
        "1.yaml:3: the rule 'pistols' is there twice, also in 0.yaml",
        "MEDIA_PIPELINE_MODERATION__THRESHOLDS: no rule is called 'tastes'",
    ]
    assert "pistols" in {active.rule.name for active in found.rules}


def test_words_that_cannot_be_read_are_a_problem(home: ModerationHome, tmp_path: Path) -> None:
    found = loaded(home, blocked_words_file=tmp_path / "missing.txt")
    assert "blocked words" in str(found.problems[0])
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    assert loaded(home, blocked_words_file=tmp_path / "latin.txt").problems


def test_words_of_nothing_but_symbols_are_a_problem_beside_the_others(home: ModerationHome, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# signs\n🖕 # rude\nBombe\n$$$\n", "utf-8")
    found = loaded(home, blocked_words_file=file)
    cause = "'🖕' has neither letters nor digits and cannot be found (nor can 1 more); take it out"
    assert [str(problem) for problem in found.problems] == [f"{file}:2: blocked words: {cause}"]
    words = {active.parameters["blocked_words"] for active in found.rules if "blocked_words" in active.parameters}
    assert words == {("Bombe",)}
    file.write_text("🖕\n", "utf-8")
    alone = loaded(home, blocked_words_file=file)
    assert [problem.line for problem in alone.problems] == [1]
    assert all(active.is_idle for active in alone.rules if "blocked_words" in active.parameters)


def test_files_that_are_no_rule_files(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"#" * 300_000)
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe")
    (tmp_path / "good.yaml").write_text(RULE)
    (tmp_path / "note.txt").write_text("no rules")
    sources, problems = read_folder(tmp_path)
    assert [Path(source.label).name for source in sources] == ["good.yaml"]
    assert sorted(Path(p.source).name for p in problems) == ["binary.yml", "folder.yaml", "large.yaml"]
    assert read_folder(tmp_path / "nothing") == ([], [])
    assert read_files([tmp_path / "missing.yaml"])[1][0].line is None


def test_rule_files_at_a_revision(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    folder = tmp_path / "rules"
    folder.mkdir()
    git("init")
    (folder / "own.yaml").write_text(RULE)
    (folder / "note.txt").write_text("no rules")
    git("add", ".")
    git("commit", "-m", "one")
    (folder / "own.yaml").write_text(RULE.replace("0.7", "0.9"))
    assert files_at(folder, "HEAD", (".yaml",)) == {"own.yaml": RULE}
    for revision in ("HEAD~5", "--output=/tmp/stolen", "no such"):
        with pytest.raises(UsageError, match="neither a file nor a revision"):
            files_at(folder, revision, (".yaml",))
    with pytest.raises(UsageError, match="there is no folder"):
        files_at(tmp_path / "missing", "HEAD", (".yaml",))
