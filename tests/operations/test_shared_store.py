"""Several hosts have one store, or the check says which host has another."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from triage.errors import StoreError
from triage.operations.shared_store import (
    TOKEN_DIGITS,
    HostToken,
    other_hosts,
    prove,
    prove_own,
    token_path,
)


def test_the_roles_of_one_host_have_one_token_even_when_they_start_at_once(tmp_path: Path) -> None:
    for host in map(str, range(25)):  # every host is another chance for the roles to meet
        meeting = Barrier(8)

        def start(_: int, host: str = host, meeting: Barrier = meeting) -> HostToken:
            meeting.wait()
            return HostToken(tmp_path, host=host)

        with ThreadPoolExecutor(8) as threads:
            tokens = list(threads.map(start, range(8)))
        assert len({token.text for token in tokens}) == 1
        assert len(tokens[0].text) == TOKEN_DIGITS
        for token in tokens:
            token.close()
        again = HostToken(tmp_path, host=host)
        assert again.text == tokens[0].text
        again.close()


def test_a_living_host_with_the_same_store_is_proven(tmp_path: Path) -> None:
    other = HostToken(tmp_path, host="b")
    prove(tmp_path, {"b": other.text})
    other.close()


def test_a_host_with_another_store_is_named(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    other = HostToken(there, host="b")
    with pytest.raises(StoreError, match="host b writes to another store"):
        prove(here, {"b": other.text})
    HostToken(here, host="b").close()  # the remains of a former mount: the token differs
    with pytest.raises(StoreError, match="host b writes to another store"):
        prove(here, {"b": other.text})
    other.close()


def test_another_machine_of_the_same_name_with_another_store_is_found(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    twin = HostToken(there, host="a")
    roles = [{"host": "a", "detail": twin.detail()}, {"host": "a", "detail": None}]
    prove_own(there, roles, host="a")
    prove_own(here, roles, host="b")
    for _ in range(2):  # without a token of this store, and with one
        with pytest.raises(StoreError, match="a machine named a writes to another store"):
            prove_own(here, roles, host="a")
        HostToken(here, host="a").close()
    twin.close()


def test_a_lock_that_does_not_hold_between_hosts_is_found(tmp_path: Path) -> None:
    other = HostToken(tmp_path, host="b")
    other.close()  # to this host it looks as if nobody held it
    with pytest.raises(StoreError, match="a lock that host b holds is not seen"):
        prove(tmp_path, {"b": other.text})


def test_a_host_that_tells_no_token_is_not_taken_for_proven(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="older program"):
        prove(tmp_path, {"b": ""})


def test_only_other_hosts_count_and_one_role_that_knows_the_token_is_enough() -> None:
    roles = [
        {"host": "a", "detail": {"store_token": "1"}},
        {"host": "b", "detail": {"store_token": "2"}},
        {"host": "b", "detail": {}},
        {"host": "c", "detail": None},
    ]
    assert other_hosts(roles, host="a") == {"b": "2", "c": ""}


def test_a_host_name_never_becomes_a_path(tmp_path: Path) -> None:
    assert token_path(tmp_path, "../../etc/passwd").parent == tmp_path / "hosts"
