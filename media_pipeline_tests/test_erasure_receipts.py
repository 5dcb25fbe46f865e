"""Receipts: signed, telling nothing to strangers, checkable by whoever has the id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from media_pipeline.errors import UsageError
from media_pipeline.results.receipts import Signer, Target, names, verify

MEDIA_ID, OTHER = "ab" * 32, "cd" * 32
FACTS = {"by": "Zoë", "counts": {"rows in ocr": 3}, "erasure": "1"}


@pytest.fixture
def receipt(tmp_path: Path) -> dict[str, object]:
    signed = Signer(tmp_path / "keys").sign(FACTS, [Target("medium", MEDIA_ID), Target("person", "P-12345678")])
    return json.loads(json.dumps(signed, indent=1))  # as it comes back from a file


def test_it_names_nothing_and_can_be_checked(receipt) -> None:
    assert verify(receipt) == receipt["public_key"]
    text = json.dumps(receipt)
    assert MEDIA_ID[:12] not in text
    assert "P-12345678" not in text
    assert names(receipt, MEDIA_ID) == "medium"
    assert names(receipt, "P-12345678") == "person"
    assert names(receipt, OTHER) is None


@pytest.mark.parametrize("change", [{"by": "Bob"}, {"counts": {}}, {"erased": []}, {"more": 1}])
def test_a_changed_receipt_is_refused(receipt, change) -> None:
    with pytest.raises(UsageError, match="was changed"):
        verify(receipt | change)


def test_what_is_no_receipt_is_refused(receipt) -> None:
    for broken in ({}, {**receipt, "public_key": "no base64!"}, {**receipt, "public_key": "AAAA"}):
        with pytest.raises(UsageError, match="no receipt"):
            verify(broken)


def test_one_home_has_one_key_that_only_its_owner_reads(receipt, tmp_path: Path) -> None:
    again = Signer(tmp_path / "keys")
    assert again.public_key() == receipt["public_key"] == again.sign(FACTS, [])["public_key"]
    assert Signer(tmp_path / "other").public_key() is None
    assert Signer(tmp_path / "other").sign(FACTS, [])["public_key"] != receipt["public_key"]
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "receipts.ed25519").stat().st_mode & 0o777 == 0o600


def test_the_same_id_looks_different_in_every_receipt(tmp_path: Path) -> None:
    signer, target = Signer(tmp_path), [Target("medium", MEDIA_ID)]
    assert signer.sign(FACTS, target)["erased"] != signer.sign(FACTS, target)["erased"]
