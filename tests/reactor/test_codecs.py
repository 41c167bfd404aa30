"""Codecs, and the rule about whose pickles are loaded."""

from __future__ import annotations

import collections
import copyreg
import decimal
import json
import os
import pickle
from multiprocessing.connection import Pipe
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reactor
from reactor.authentication import ShortKeyWarning
from reactor.codecs import BytesCodec, Codec, JsonCodec, PickleCodec, RestrictedPickle, Trust, find_codec
from reactor.errors import LocalError, UnsafePickleError
from tests.conftest import KEY
from tests.properties import steady

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.putenv, ("REACTOR_TEST", "exploded")


# Pickle


@steady
@given(plain)
def test_pickle_gives_back_what_was_sent(message: Any) -> None:
    codec = PickleCodec()
    assert codec.loads(bytes(codec.dumps(message))) == message


def test_pickle_speaks_with_the_standard_library_both_ways() -> None:
    codec = PickleCodec()
    message = {"numbers": [1, 2.5, 3j], "bytes": b"\0\xff", "decimal": decimal.Decimal("1.5")}
    ours, theirs = Pipe()
    with ours, theirs:
        ours.send_bytes(codec.dumps(message))
        assert theirs.recv() == message
        theirs.send(message)
        assert codec.loads(ours.recv_bytes()) == message


class Handle:
    """Cannot be pickled, but for a reducer that is registered with multiprocessing."""

    def __reduce__(self) -> Any:
        raise TypeError("not by plain pickle")


def test_pickle_uses_the_reducers_registered_with_multiprocessing() -> None:
    ForkingPickler.register(Handle, lambda handle: (str, ("a handle",)))
    codec = PickleCodec()
    assert codec.loads(codec.dumps(Handle())) == "a handle"


# Bytes


@pytest.mark.parametrize(
    "message", [b"", b"data", bytearray(b"data"), memoryview(b"data")[1:], memoryview(b"abcd")[::2]]
)
def test_bytes_go_and_come_untouched(message: Any) -> None:
    data = BytesCodec.dumps(message)
    assert type(data) is bytes
    assert data == bytes(message)
    assert BytesCodec().loads(data) == data


def test_bytes_are_not_copied() -> None:
    data = b"data" * 1000
    assert BytesCodec.dumps(data) is data
    assert BytesCodec().loads(data) is data


@pytest.mark.parametrize("message", ["text", 5, None, [1]])
def test_bytes_codec_refuses_what_is_no_bytes_with_the_way_out(message: Any) -> None:
    with pytest.raises(LocalError, match=f"not {type(message).__name__}; encode it first, or choose"):
        BytesCodec.dumps(message)


# JSON


@steady
@given(json_values)
def test_json_gives_back_what_was_sent(message: Any) -> None:
    data = JsonCodec.dumps(message)
    assert JsonCodec().loads(data) == message
    assert json.loads(data.decode("utf-8")) == message


def test_json_is_compact_utf_8() -> None:
    assert JsonCodec.dumps({"gr\u00fc\u00dfe": [1, 2]}) == '{"gr\u00fc\u00dfe":[1,2]}'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_to_send_what_is_no_json(number: float) -> None:
    """RFC 8259 has no such numbers: a peer in another language could not read the frame."""
    with pytest.raises(ValueError, match="JSON"):
        JsonCodec.dumps([number])


def test_json_refuses_what_it_has_no_form_for() -> None:
    with pytest.raises(TypeError):
        JsonCodec.dumps({1, 2})
    with pytest.raises(ValueError, match="Expecting|decode"):
        JsonCodec().loads(b"\x80not json")


# Restricted pickle


class Outer:
    class Inner:
        def __eq__(self, other: object) -> bool:
            return type(self) is type(other)

        __hash__ = None  # type: ignore[assignment]


@steady
@given(plain)
def test_restricted_pickle_loads_plain_values_with_nothing_allowed(message: Any) -> None:
    codec = RestrictedPickle()
    assert codec.loads(codec.dumps(message)) == message


@pytest.mark.parametrize("allowed", [(), ("collections.OrderedDict",), (Outer,)])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_restricted_pickle_refuses_what_is_not_on_the_list_and_runs_none_of_it(allowed: Any, protocol: int) -> None:
    codec = RestrictedPickle(allowed)
    with pytest.raises(pickle.UnpicklingError, match=r"putenv is not on the allow-list of this RestrictedPickle"):
        codec.loads(pickle.dumps(Bomb(), protocol))


def test_restricted_pickle_loads_what_is_allowed_by_class_by_name_and_inside_a_class() -> None:
    codec = RestrictedPickle([decimal.Decimal, "collections.OrderedDict", Outer.Inner])
    message = [decimal.Decimal("1.5"), collections.OrderedDict(a=1), Outer.Inner()]
    assert codec.loads(pickle.dumps(message)) == message
    assert codec.allowed == {"decimal.Decimal", "collections.OrderedDict", f"{__name__}.Outer.Inner"}


def stack_global(module: str, name: str) -> bytes:
    """Return a pickle of protocol 4 that does nothing but name a global."""
    parts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + parts + b"\x93."


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        stack_global("os", "system"),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        stack_global("collections", "OrderedDict.__init__.__globals__"),
        stack_global("os.path", "join.__globals__"),
    ],
)
def test_restricted_pickle_refuses_every_way_to_name_a_global(data: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="is not on the allow-list"):
        RestrictedPickle(["collections.OrderedDict", "os.path.join"]).loads(data)


def test_restricted_pickle_refuses_persistent_identifiers() -> None:
    with pytest.raises(pickle.UnpicklingError):
        RestrictedPickle().loads(b"Pname\n.")


def test_restricted_pickle_refuses_extension_codes_that_are_not_on_the_list() -> None:
    copyreg.add_extension("os", "putenv", 240)  # type: ignore[arg-type]
    try:
        with pytest.raises(pickle.UnpicklingError, match="is not on the allow-list"):
            RestrictedPickle().loads(b"\x82\xf0.")
    finally:
        copyreg.remove_extension("os", "putenv", 240)  # type: ignore[arg-type]


def test_restricted_pickle_refuses_a_name_without_a_module() -> None:
    with pytest.raises(LocalError, match="'eval' names no module; allow it as 'module.eval'"):
        RestrictedPickle(["eval"])


# Finding a codec


@pytest.mark.parametrize(("name", "kind"), [("pickle", PickleCodec), ("bytes", BytesCodec), ("json", JsonCodec)])
def test_codec_is_found_by_its_name(name: str, kind: type) -> None:
    assert type(find_codec(name)) is kind


@pytest.mark.parametrize("codec", [json, pickle, RestrictedPickle(), BytesCodec()])
def test_anything_with_dumps_and_loads_is_a_codec(codec: Any) -> None:
    assert isinstance(codec, Codec)
    assert find_codec(codec) is codec


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LocalError, match="no codec 'xml'; there are 'pickle', 'bytes', 'json'"):
        find_codec("xml")


@pytest.mark.parametrize("codec", [None, 5, object(), os])
def test_what_is_no_codec_is_refused(codec: Any) -> None:
    with pytest.raises(LocalError, match="is no codec: it needs the methods dumps and loads"):
        find_codec(codec)


# Trust


def trust(codec: Any, key: bytes | None = None, minimum_digest: str = "md5", allow: bool = False) -> Trust:
    return Trust.of(codec, key, minimum_digest, allow)


@pytest.mark.parametrize("codec", ["pickle", pickle, PickleCodec()])
def test_pickles_of_strangers_are_refused_with_the_ways_out(codec: Any) -> None:
    with pytest.raises(UnsafePickleError) as caught:
        trust(codec).check(peer_is_this_user=False)
    for way in ("authkey", "codec='bytes'", "codec='json'", "RestrictedPickle", "Unix socket",
                "allow_unauthenticated_pickle=True"):  # fmt: skip
        assert way in str(caught.value)


@pytest.mark.parametrize(
    ("believes", "peer_is_this_user"),
    [
        (trust("pickle", KEY), False),
        (trust("pickle"), True),
        (trust("pickle", allow=True), False),
        (trust("bytes"), False),
        (trust("json"), False),
        (trust(RestrictedPickle()), False),
        (trust(json), False),
    ],
)
def test_what_is_known_or_harmless_is_trusted(believes: Trust, peer_is_this_user: bool) -> None:
    believes.check(peer_is_this_user)


def test_trust_asks_who_the_peer_is_only_where_that_matters() -> None:
    assert trust("pickle").needs_known_peer
    assert not trust("pickle", KEY).needs_known_peer
    assert not trust("json").needs_known_peer


@pytest.mark.parametrize("key", [b"", "a key of characters"])
def test_trust_refuses_a_key_that_protects_nothing(key: Any) -> None:
    with pytest.raises(LocalError, match="authkey"):
        trust("json", key)


def test_trust_refuses_an_unknown_minimum_digest() -> None:
    """When it is configured, not when the first peer comes."""
    with pytest.raises(LocalError, match="minimum_digest"):
        trust("json", KEY, "sha1")


def test_listener_refuses_an_unknown_minimum_digest(loop: reactor.Reactor) -> None:
    with pytest.raises(LocalError, match="minimum_digest"):
        reactor.Listener(("localhost", 0), reactor.Connection, authkey=KEY, minimum_digest="sha1", reactor=loop)


def test_trust_does_not_show_its_key_when_it_is_printed() -> None:
    assert repr(KEY)[2:-1] not in repr(trust("json", KEY))


def test_short_key_warning_is_exported() -> None:
    assert reactor.ShortKeyWarning is ShortKeyWarning
    assert issubclass(ShortKeyWarning, UserWarning)
