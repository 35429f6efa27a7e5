"""An announcement is taken of the agent that has its node's key, and of nobody else."""

from __future__ import annotations

import pytest
from headrace_contracts.node_keys import NodeKey, NodeKeyInvalid, is_of_its_node
from headrace_contracts.record_mac import RecordMac

SECRET = "the installation's secret"
TOPIC = "headrace.nodes.announced"


def test_a_key_signs_its_own_node_and_no_other() -> None:
    signer = NodeKey.of(SECRET, "laptop").signer()
    headers = [signer.header(TOPIC, b"laptop", b"value")]
    assert is_of_its_node(SECRET, TOPIC, b"laptop", b"value", headers)
    assert not is_of_its_node(SECRET, TOPIC, b"laptop", b"other", headers)
    assert not is_of_its_node(SECRET, "headrace.fleet.status", b"laptop", b"value", headers)
    assert not is_of_its_node("another secret", TOPIC, b"laptop", b"value", headers)
    assert not is_of_its_node(SECRET, TOPIC, b"laptop", b"value", [])
    foreign = [signer.header(TOPIC, b"big", b"value")]
    assert not is_of_its_node(SECRET, TOPIC, b"big", b"value", foreign)


def test_a_tombstone_is_signed_too() -> None:
    headers = [NodeKey.of(SECRET, "laptop").signer().header(TOPIC, b"laptop", None)]
    assert is_of_its_node(SECRET, TOPIC, b"laptop", None, headers)
    assert not is_of_its_node(SECRET, TOPIC, b"laptop", b"", headers)


def test_what_services_sign_is_no_announcement() -> None:
    headers = [RecordMac(SECRET).header(TOPIC, b"laptop", b"value")]
    assert not is_of_its_node(SECRET, TOPIC, b"laptop", b"value", headers)


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"two words", b"-x", b"a" * 129])
def test_a_record_without_a_name_of_a_node_is_of_nobody(key: bytes | None) -> None:
    assert not is_of_its_node(SECRET, TOPIC, key, b"value", [("headrace_mac", b"0" * 64)])


def test_a_key_is_handed_out_as_text_and_shown_without_its_secret() -> None:
    key = NodeKey.of(SECRET, "gpu-box.lan")
    assert NodeKey.parse(f" {key}\n") == key
    assert key.code not in repr(key)


@pytest.mark.parametrize("text", ["", "laptop", "laptop:12", f"two words:{'0' * 64}", f"laptop:{'G' * 64}"])
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(NodeKeyInvalid):
        NodeKey.parse(text)


def test_a_node_needs_a_usable_name() -> None:
    with pytest.raises(NodeKeyInvalid):
        NodeKey.of(SECRET, "a b")
