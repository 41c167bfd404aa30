"""Proxies as arguments, in a process that is the server's and the client's."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing import managers as standard
from multiprocessing import resource_sharer
from typing import Any

import pytest

from reactor.managers import Server, SyncManager
from tests.conftest import KEY
from tests.reactor.managers.serving import Remote, Remotes, ask, connected, objects_of, on_the_loop, serving, wait_until


def test_proxy_of_an_object_of_the_server_is_no_more_than_its_name_there(at_home: Server) -> None:
    manager = connected(at_home, standard.SyncManager)
    inner, outer, items = manager.list([1, 2]), manager.list(), manager.Queue()
    outer.append(inner)
    items.put(inner)
    assert objects_of(at_home) == 3
    inner.append(3)
    assert (list(outer[0]), list(items.get())) == ([1, 2, 3], [1, 2, 3])
    del inner
    assert list(outer[0]) == [1, 2, 3]


def test_object_whose_last_proxy_is_in_the_server_can_be_counted_again(at_home: Server) -> None:
    manager = connected(at_home, standard.SyncManager)
    inner, outer = manager.list([1]), manager.list()
    outer.append(inner)
    ident = inner._id
    del inner
    assert objects_of(at_home) == 1
    assert ask(at_home.address, "decref", ident) is None
    with Remote(at_home.address, ident) as again:
        assert again.call("pop") == 1
    ask(at_home.address, "incref", ident)
    assert (objects_of(at_home), "pop" in ask(at_home.address, "get_methods", outer._token)) == (
        2,
        True,
    )


@pytest.mark.usefixtures("known_key")
def test_proxy_that_calls_its_own_server_does_not_hold_it_up(at_home: Server) -> None:
    manager = connected(at_home, standard.SyncManager)
    inner = manager.list([1, 2])
    outer = manager.list(inner)
    outer.extend(inner)
    words = manager.dict()
    words.update(manager.dict(a=1))
    assert (list(outer), words.copy()) == ([1, 2, 1, 2], {"a": 1})


@pytest.mark.usefixtures("known_key")
def test_proxy_of_another_server_is_counted_there_and_says_when_it_goes(sync: Server) -> None:
    """Here it is this server itself, which does not know that."""
    manager = connected(sync, standard.SyncManager)
    inner, outer, items = manager.list([1, 2]), manager.list(), manager.Queue()
    outer.append(inner)
    items.put(inner)
    assert sync.id_to_refcount[inner._id] == 3
    items.get()
    wait_until(lambda: sync.id_to_refcount[inner._id] == 2)
    ident = inner._id
    outer.pop()
    wait_until(lambda: sync.id_to_refcount[ident] == 1)
    outer.append(inner)
    wait_until(lambda: sync.id_to_refcount[ident] == 2)
    del outer
    wait_until(lambda: sync.id_to_refcount[ident] == 1)


def test_proxies_that_outlive_the_server_do_no_harm(known_key: None) -> None:
    with serving(SyncManager) as other:
        manager = connected(other, standard.SyncManager)
        with serving(SyncManager) as server:
            outer, inner = connected(server, standard.SyncManager).list(), manager.list()
            outer.append(inner)
            assert other.id_to_refcount[inner._id] == 2
            held_by_the_server = server.id_to_obj[outer._id][0]
        ident = inner._id
        held_by_the_server.clear()
        assert other.id_to_refcount[ident] == 1
        del outer, inner


def test_unreadable_proxy_is_answered_with_the_reason(sync: Server, remote: Remotes) -> None:
    manager = connected(sync, standard.SyncManager)
    numbers, words = manager.list(), manager.dict()
    token = standard.Token("list", sync.address, "nobody")
    outer = remote(sync, words._id)
    stranger = (standard.RebuildProxy, (standard.ListProxy, token, "pickle", {"authkey": KEY}))  # type: ignore[attr-defined]
    outer.begin("__setitem__", "key", Rebuilt(*stranger))
    with pytest.raises(standard.RemoteError, match="KeyError: 'nobody'"):
        outer.end()
    assert outer.call("__len__") == 0
    del numbers


class Rebuilt:
    """Pickles as whatever is made by a call."""

    def __init__(self, function: Any, args: Any) -> None:
        self.what = function, args

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.usefixtures("known_key")
def test_connections_are_fetched_from_their_owner_on_a_thread(sync: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    detach = resource_sharer.DupFd.detach

    def noted(self: Any) -> int:
        threads.append(threading.current_thread())
        return detach(self)

    monkeypatch.setattr(resource_sharer.DupFd, "detach", noted)
    ours, theirs = multiprocessing.Pipe()
    items = connected(sync, standard.SyncManager).Queue()
    items.put(theirs)
    theirs.close()
    with items.get() as again:
        again.send("through the queue")
        assert ours.recv() == "through the queue"
    assert len(threads) == 2
    assert on_the_loop(sync, threading.current_thread) not in threads
    ours.close()
    resource_sharer.stop()
