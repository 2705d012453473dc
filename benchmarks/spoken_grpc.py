"""Calls over gRPC that are little more than a socket: just enough HTTP/2 for one unary call after another.

What a client's library takes would otherwise be counted as the server's. So headers and message are made
beforehand, and of the answer only the frames and the status are read. The other end's windows are kept, its
own are as large as they can be, as those of a client that reads at once.
"""

from __future__ import annotations

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, AWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
TABLE, FIRST_WINDOW, FRAME = 1, 4, 5
USUAL_WINDOW, USUAL_FRAME, LARGEST_WINDOW = 65535, 16384, 2**31 - 1
HEAD, BUFFER = 9, 1 << 20
DONE = b"\x0bgrpc-status\x010"


class Unary:
    """Calls of one method with one message, each after the answer to the one before.

    Args:
        address: host:port.
        path: /package.Service/Method.
        message: serialised.
    """

    def __init__(self, address: str, path: str, message: bytes) -> None:
        host, port = address.split(":")
        self._headers = _headers(path, address)
        self._message = memoryview(struct.pack(">BI", 0, len(message)) + message)
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer, self._begin, self._end = memoryview(bytearray(BUFFER)), 0, 0
        self._stream, self._answered, self._done = -1, 0, False
        self._room = self._stream_room = self._first_room = USUAL_WINDOW
        self._frame = USUAL_FRAME
        # Without a table of headers the status comes in plain letters.
        own = struct.pack(">HIHIHI", TABLE, 0, FIRST_WINDOW, LARGEST_WINDOW, FRAME, BUFFER // 2)
        self._socket.sendall(PREFACE + _frame(SETTINGS, own) + _window(LARGEST_WINDOW - USUAL_WINDOW))
        while self._read() != SETTINGS:
            pass

    def __call__(self) -> None:
        self._stream += 2
        self._stream_room, self._done = self._first_room, False
        start = _window(self._answered) if self._answered else b""
        self._answered = 0
        self._send(start + _frame(HEADERS, self._headers, END_HEADERS, self._stream))
        while not self._done:
            self._read()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _send(self, start: bytes) -> None:
        sent, whole = 0, len(self._message)
        while sent < whole:
            length = min(whole - sent, self._room, self._stream_room, self._frame)
            if length <= 0:
                self._read()
                continue
            last = END_STREAM if sent + length == whole else 0
            self._socket.sendall(start + _head(DATA, length, last, self._stream))
            self._socket.sendall(self._message[sent : sent + length])
            start, sent = b"", sent + length
            self._room -= length
            self._stream_room -= length

    def _read(self) -> int:
        """Take one frame; its kind."""
        length, kind, flags, stream = struct.unpack(">3sBBI", self._take(HEAD))
        content = self._take(int.from_bytes(length, "big"))
        if kind == DATA:
            self._answered += len(content)
        elif kind == WINDOW:
            self._widen(int.from_bytes(content, "big"), stream)
        elif kind == HEADERS and flags & END_STREAM:
            if DONE not in bytes(content) or not self._answered:
                raise ConnectionError(f"the call failed: {bytes(content)!r}")
            self._done = True
        elif kind == SETTINGS and not flags & ACK:
            self._settle(content)
        elif kind == PING and not flags & ACK:
            self._socket.sendall(_frame(PING, bytes(content), ACK))
        elif kind in (RESET, AWAY):
            raise ConnectionError("the server ended the call")
        return kind

    def _widen(self, by: int, stream: int) -> None:
        if not stream:
            self._room += by
        elif stream == self._stream:
            self._stream_room += by

    def _settle(self, content: memoryview) -> None:
        for name, value in struct.iter_unpack(">HI", content):
            if name == FIRST_WINDOW:
                self._stream_room += value - self._first_room
                self._first_room = value
            elif name == FRAME:
                self._frame = value
        self._socket.sendall(_frame(SETTINGS, b"", ACK))

    def _take(self, length: int) -> memoryview:
        """So many bytes of what came, valid until the next are taken."""
        if self._begin == self._end:
            self._begin = self._end = 0
        elif self._begin + length > BUFFER:
            rest = self._end - self._begin
            self._buffer[:rest] = bytes(self._buffer[self._begin : self._end])
            self._begin, self._end = 0, rest
        while self._end - self._begin < length:
            some = self._socket.recv_into(self._buffer[self._end :])
            if not some:
                raise ConnectionError("the server went away")
            self._end += some
        self._begin += length
        return self._buffer[self._begin - length : self._begin]


def _headers(path: str, authority: str) -> bytes:
    """HPACK with every field in letters, none of them for the table."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(b"\0" + _letters(name) + _letters(value) for name, value in fields.items())


def _letters(text: str) -> bytes:
    if len(text) > 126:
        raise ValueError(f"at most 126 letters are written here, got {text!r}")
    return bytes([len(text)]) + text.encode()


def _head(kind: int, length: int, flags: int, stream: int) -> bytes:
    return length.to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream)


def _frame(kind: int, content: bytes, flags: int = 0, stream: int = 0) -> bytes:
    return _head(kind, len(content), flags, stream) + content


def _window(by: int) -> bytes:
    return _frame(WINDOW, struct.pack(">I", by))
