"""COMPRESS=DEFLATE (RFC 4978): what a client sees, and what a hostile one cannot do."""

from __future__ import annotations

import zlib
from typing import Any


class Packed:
    """The client's two streams."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        self.unpacker = zlib.decompressobj(-15)

    def pack(self, data: bytes) -> bytes:
        return self.packer.compress(data) + self.packer.flush(zlib.Z_SYNC_FLUSH)

    def say(self, text: str) -> list[str]:
        self.client.session.dataReceived(self.pack(text.encode() + b"\r\n"))
        return self.read()

    def read(self) -> list[str]:
        raw = "\r\n".join(self.client.read()).encode("latin-1")
        return self.unpacker.decompress(raw).decode().split("\r\n")[:-1]


def compressed(door: Any) -> Packed:
    client = door.selected()
    assert client.say("c COMPRESS DEFLATE") == ["c OK DEFLATE active"]
    return Packed(client)


def raw(client: Any) -> bytes:
    for _ in range(5000):
        client.door.clock.advance(0)
    data: bytes = client.transport.value()
    client.transport.clear()
    return data


def test_everything_after_the_answer_is_compressed_both_ways(door: Any) -> None:
    door.put("Subject: x\n\n" + "word " * 3000)
    packed = compressed(door)
    packed.client.session.dataReceived(packed.pack(b"a NOOP\r\nb FETCH 1 BODY.PEEK[]\r\n"))
    data = raw(packed.client)
    assert len(data) < 1000
    text = packed.unpacker.decompress(data)
    assert text.startswith(b"a OK") and text.endswith(b"b OK FETCH completed\r\n") and len(text) > 15000
    for octet in packed.pack(b"c NOOP\r\n"):
        packed.client.session.dataReceived(bytes([octet]))
    assert packed.unpacker.decompress(raw(packed.client)) == b"c OK NOOP completed\r\n"


def test_compression_is_refused_where_it_makes_no_sense(door: Any) -> None:
    client = door.client()
    assert client.say("a COMPRESS DEFLATE") == ["a BAD COMPRESS not allowed now"]
    client.login()
    assert client.say("b COMPRESS LZ4") == ["b BAD No such compression"]
    assert "COMPRESS=DEFLATE" in client.say("c CAPABILITY")[0]
    client.say("d COMPRESS DEFLATE")
    packed = Packed(client)
    client.session.dataReceived(packed.pack(b"e COMPRESS DEFLATE\r\nf CAPABILITY\r\n"))
    text = packed.unpacker.decompress(raw(client))
    assert text.startswith(b"e NO [COMPRESSIONACTIVE]") and b"COMPRESS=DEFLATE" not in text


def test_an_append_comes_through_whole(door: Any) -> None:
    packed = compressed(door)
    message = b"Subject: big\r\n\r\n" + b"abcdefgh\r\n" * 50_000
    packed.client.session.dataReceived(
        packed.pack(b"a APPEND INBOX {%d+}\r\n%b\r\nb NOOP\r\n" % (len(message), message))
    )
    text = packed.unpacker.decompress(raw(packed.client))
    assert b"a OK [APPENDUID" in text and b"b OK" in text
    (uid,) = door.folder().uids()
    stored: list[bytes] = []
    door.folder().message(uid).addCallback(lambda m: m.read()).addCallback(stored.append)
    assert stored == [message]


def test_garbage_ends_the_session(door: Any) -> None:
    packed = compressed(door)
    packed.client.session.dataReceived(b"\xff" * 100)
    assert b"not compressed" in packed.unpacker.decompress(raw(packed.client))
    assert packed.client.closed


def test_a_bomb_is_unpacked_in_bounded_steps(door: Any) -> None:
    packed = compressed(door)
    bomb = packed.pack(b"x" * 40_000_000)
    assert len(bomb) < 60_000
    session = packed.client.session
    session.dataReceived(bomb)
    assert session._unpacked <= 1_100_000 and session._reader.buffered < 200_000
    for _ in range(3):
        door.clock.advance(0)
        assert session._unpacked <= 1_100_000 and session._reader.buffered < 200_000
