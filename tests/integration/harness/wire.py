"""Raw AMQP 0-9-1, for the tests that send what no client library would.

Frames and methods are those of the specification's sections 2.3.5 and 4.2; names below are its
own. Nothing here checks what it sends.
"""

import select
import socket
import struct

from .wait import Deadline

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
FRAME_END = b"\xce"

CONNECTION_START, CONNECTION_START_OK = (10, 10), (10, 11)
CONNECTION_SECURE_OK = (10, 21)
CONNECTION_TUNE, CONNECTION_TUNE_OK = (10, 30), (10, 31)
CONNECTION_OPEN, CONNECTION_OPEN_OK = (10, 40), (10, 41)
CONNECTION_CLOSE, CONNECTION_CLOSE_OK = (10, 50), (10, 51)
CHANNEL_OPEN, CHANNEL_OPEN_OK = (20, 10), (20, 11)
CHANNEL_FLOW, CHANNEL_FLOW_OK = (20, 20), (20, 21)
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = (20, 40), (20, 41)
EXCHANGE_DECLARE, EXCHANGE_DECLARE_OK = (40, 10), (40, 11)
QUEUE_DECLARE, QUEUE_DECLARE_OK = (50, 10), (50, 11)
QUEUE_BIND, QUEUE_BIND_OK = (50, 20), (50, 21)
BASIC_QOS, BASIC_QOS_OK = (60, 10), (60, 11)
BASIC_CONSUME, BASIC_CONSUME_OK = (60, 20), (60, 21)
BASIC_PUBLISH, BASIC_RETURN, BASIC_DELIVER = (60, 40), (60, 50), (60, 60)
BASIC_GET, BASIC_GET_OK, BASIC_GET_EMPTY = (60, 70), (60, 71), (60, 72)
BASIC_ACK = (60, 80)
CONFIRM_SELECT, CONFIRM_SELECT_OK = (85, 10), (85, 11)


class PeerClosed(Exception):
    """The broker closed the TCP connection."""


def short_string(text):
    data = text.encode() if isinstance(text, str) else text
    return bytes([len(data)]) + data


def long_string(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack(">I", len(data)) + data


def table(*fields):
    """A field table of fields that are already encoded (see `field`)."""
    return long_string(b"".join(fields))


def field(name, kind, value):
    return short_string(name) + kind + value


def frame(kind, channel, payload, size=None, end=FRAME_END):
    """A frame; `size` and `end` replace the right ones."""
    return struct.pack(">BHI", kind, channel, len(payload) if size is None else size) + payload + end


def method_payload(method, arguments=b""):
    return struct.pack(">HH", *method) + arguments


def method_frame(channel, method, arguments=b""):
    return frame(FRAME_METHOD, channel, method_payload(method, arguments))


def header_frame(channel, body_size, flags=0, properties=b"", class_id=60, weight=0):
    return frame(FRAME_HEADER, channel,
                 struct.pack(">HHQH", class_id, weight, body_size, flags) + properties)


def start_ok(user="guest", password="guest", mechanism="PLAIN", properties=b"", response=None):
    answer = f"\0{user}\0{password}" if response is None else response
    return method_frame(0, CONNECTION_START_OK, table(properties) + short_string(mechanism)
                        + long_string(answer) + short_string("en_US"))


def tune_ok(channel_max=2047, frame_max=131072, heartbeat=0):
    return method_frame(0, CONNECTION_TUNE_OK,
                        struct.pack(">HIH", channel_max, frame_max, heartbeat))


def connection_open(vhost="/"):
    return method_frame(0, CONNECTION_OPEN, short_string(vhost) + short_string("") + b"\0")


def channel_open(channel):
    return method_frame(channel, CHANNEL_OPEN, short_string(""))


def queue_declare(channel, queue, bits=0, arguments=None):
    """bits: passive 1, durable 2, exclusive 4, auto-delete 8, no-wait 16."""
    return method_frame(channel, QUEUE_DECLARE,
                        b"\0\0" + short_string(queue) + bytes([bits])
                        + (table() if arguments is None else arguments))


def basic_publish(channel, exchange, routing_key, bits=0):
    """bits: mandatory 1, immediate 2."""
    return method_frame(channel, BASIC_PUBLISH, b"\0\0" + short_string(exchange)
                        + short_string(routing_key) + bytes([bits]))


def message(channel, exchange, routing_key, body, frame_max=131072, bits=0):
    """A whole publish: method, header and the body in frames of at most `frame_max`."""
    step = frame_max - 8
    parts = [basic_publish(channel, exchange, routing_key, bits), header_frame(channel, len(body))]
    parts += [frame(FRAME_BODY, channel, body[at:at + step]) for at in range(0, len(body), step)]
    return b"".join(parts)


def basic_get(channel, queue, no_ack=True):
    return method_frame(channel, BASIC_GET, b"\0\0" + short_string(queue) + bytes([int(no_ack)]))


class Received:
    """A frame from the broker. `method` is (class, method) for a method frame, else None."""

    def __init__(self, kind, channel, payload):
        self.kind, self.channel, self.payload = kind, channel, payload
        self.method = struct.unpack(">HH", payload[:4]) if kind == FRAME_METHOD else None
        self.arguments = payload[4:] if kind == FRAME_METHOD else payload

    def close_reason(self):
        """(reply code, reply text, class, method) of a connection.close or channel.close."""
        code, length = struct.unpack(">HB", self.arguments[:3])
        text = self.arguments[3:3 + length].decode()
        return (code, text, *struct.unpack(">HH", self.arguments[3 + length:7 + length]))

    def __repr__(self):
        return f"frame(kind={self.kind}, channel={self.channel}, method={self.method}, " \
               f"{len(self.payload)} bytes)"


class RawConnection:
    """A TCP connection to the broker that sends bytes as given and reads frames."""

    def __init__(self, broker, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect((broker.host, broker.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""
        self.tuned = None
        self.server_properties = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, *parts):
        """Sends; a broker that has closed already is found out by the next read."""
        try:
            self.socket.sendall(b"".join(parts))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def read_bytes(self, count, timeout_s=10.0):
        deadline = Deadline(timeout_s)
        while len(self._pending) < count:
            if not select.select([self.socket], [], [], deadline.remaining_s())[0]:
                raise TimeoutError(
                    f"the broker sent {len(self._pending)} of {count} bytes in {timeout_s:g} s")
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise PeerClosed(f"after {len(self._pending)} of {count} bytes")
            self._pending += data
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken

    def read_frame(self, timeout_s=10.0, heartbeats=False):
        """The next frame; heartbeats are passed over unless asked for."""
        while True:
            kind, channel, size = struct.unpack(">BHI", self.read_bytes(7, timeout_s))
            rest = self.read_bytes(size + 1, timeout_s)
            assert rest[-1:] == FRAME_END, f"the broker's frame ends in {rest[-1:]!r}"
            if kind != FRAME_HEARTBEAT or heartbeats:
                return Received(kind, channel, rest[:-1])

    def expect(self, method, timeout_s=10.0):
        """Reads the next frame, which has to be this method."""
        received = self.read_frame(timeout_s)
        if received.method != method:
            reason = ""
            if received.method in (CONNECTION_CLOSE, CHANNEL_CLOSE):
                reason = f": {received.close_reason()}"
            raise AssertionError(f"expected method {method}, the broker sent {received}{reason}")
        return received

    def read_to_end(self, timeout_s=10.0):
        """Reads until the broker closes: all bytes that still came."""
        deadline = Deadline(timeout_s)
        while True:
            wanted = len(self._pending) + 1
            try:
                self._pending = self.read_bytes(wanted, deadline.remaining_s()) + self._pending
            except PeerClosed:
                rest, self._pending = self._pending, b""
                return rest

    def await_closed(self, timeout_s=10.0):
        """Passes over whatever comes until the TCP connection is closed."""
        deadline = Deadline(timeout_s)
        while not deadline.passed():
            if not select.select([self.socket], [], [], deadline.remaining_s())[0]:
                break
            try:
                if not self.socket.recv(65536):
                    return
            except ConnectionResetError:
                return
        raise AssertionError(f"the broker did not close the connection within {timeout_s:g} s")

    # --- conversations ---

    def handshake(self, channel_max=None, frame_max=None, heartbeat=0, vhost="/", properties=b""):
        """Logs in as guest and opens the virtual host; keeps what the broker offered in `tuned`."""
        self.start(properties)
        offered = self.tuned
        self.send(tune_ok(offered[0] if channel_max is None else channel_max,
                          offered[1] if frame_max is None else frame_max, heartbeat),
                  connection_open(vhost))
        self.expect(CONNECTION_OPEN_OK)
        return self

    def start(self, properties=b""):
        """The first part of `handshake`: up to the broker's tune."""
        self.send(PROTOCOL_HEADER)
        self.server_properties = self.expect(CONNECTION_START).arguments
        self.send(start_ok(properties=properties))
        self.tuned = struct.unpack(">HIH", self.expect(CONNECTION_TUNE).arguments)

    def open_channel(self, channel=1):
        self.send(channel_open(channel))
        self.expect(CHANNEL_OPEN_OK)
        return channel

    def declare_queue(self, channel, queue="", bits=4):
        """Declares a queue (exclusive by default) and returns its name."""
        self.send(queue_declare(channel, queue, bits))
        arguments = self.expect(QUEUE_DECLARE_OK).arguments
        return arguments[1:1 + arguments[0]].decode()

    def expect_connection_close(self, timeout_s=10.0):
        """Passes over frames until connection.close, answers it, waits for the end of TCP."""
        while True:
            received = self.read_frame(timeout_s)
            if received.method == CONNECTION_CLOSE:
                break
        self.send(method_frame(0, CONNECTION_CLOSE_OK))
        self.await_closed(timeout_s)
        return received.close_reason()

    def expect_refusal(self, timeout_s=10.0):
        """For an error before the connection is open, where saying the reason is a courtesy.

        Returns the code of connection.close, or None where the broker just hung up.
        """
        try:
            return self.expect_connection_close(timeout_s)[0]
        except PeerClosed:
            return None

    def expect_channel_close(self, channel=1, timeout_s=10.0):
        """The next frame has to be this channel's close, which is answered."""
        received = self.expect(CHANNEL_CLOSE, timeout_s)
        assert received.channel == channel, received
        self.send(method_frame(channel, CHANNEL_CLOSE_OK))
        return received.close_reason()
