"""A publisher that knows which of its messages the broker has confirmed, also when it is killed."""

import hashlib
import random
import threading

import pika
from pika.exceptions import AMQPError


class ConfirmedPublisher(threading.Thread):
    """Publishes numbered persistent messages with a window of unconfirmed ones, in its own thread.

    Ends when the connection breaks, when `stop` is called, or after `count` messages. `confirmed`
    and `sent` may be read once it has ended. Every body is `NAME NUMBER SHA256 payload`.
    """

    def __init__(self, parameters, queue, name, seed, window=200, count=None, size_max=2000,
                 persistent=True):
        super().__init__(daemon=True)
        self.queue, self.publisher, self.window = queue, name, window
        self.sent = 0
        self.confirmed = set()
        self.error = None
        self._outstanding = set()
        self._parameters = parameters
        self._random = random.Random(seed)
        self._count, self._size_max = count, size_max
        self._properties = pika.BasicProperties(delivery_mode=2 if persistent else 1,
                                                app_id=name)
        self._stopping = threading.Event()
        self._connection = None
        self._channel = None

    def stop(self):
        self._stopping.set()

    def run(self):
        self._connection = pika.SelectConnection(
            self._parameters, on_open_callback=self._on_open,
            on_open_error_callback=lambda _connection, error: self._end(error),
            on_close_callback=lambda _connection, error: self._end(error))
        try:
            self._connection.ioloop.start()
        except (AMQPError, OSError) as error:
            self.error = error

    def _on_open(self, connection):
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel):
        self._channel = channel
        channel.confirm_delivery(ack_nack_callback=self._on_confirm,
                                 callback=lambda _frame: self._fill())

    def _fill(self):
        """Publishes as long as the window has room."""
        while len(self._outstanding) < self.window and not self._done():
            if not self._channel.is_open:
                return
            self._outstanding.add(self.sent)
            self._channel.basic_publish("", self.queue, self._body(self.sent), self._properties)
            self.sent += 1
        if self._done() and not self._outstanding and self._connection.is_open:
            self._connection.close()

    def _done(self):
        return self._stopping.is_set() or self.sent == self._count

    def _on_confirm(self, frame):
        tag, method = frame.method.delivery_tag, frame.method
        if method.NAME != "Basic.Ack":
            self.error = AssertionError(f"the broker nacked publish {tag}")
            self._connection.ioloop.stop()
            return
        settled = ([number for number in self._outstanding if number < tag] if method.multiple
                   else [tag - 1])
        self._outstanding.difference_update(settled)
        self.confirmed.update(settled)
        self._fill()

    def _end(self, error):
        self.error = self.error or error
        self._connection.ioloop.stop()

    def _body(self, number):
        payload = self._random.randbytes(self._random.randrange(self._size_max))
        digest = hashlib.sha256(payload).hexdigest()
        return f"{self.publisher} {number} {digest} ".encode() + payload


def parse_body(body):
    """(publisher, number) of a body, whose payload has to be intact."""
    name, number, digest, payload = body.split(b" ", 3)
    if hashlib.sha256(payload).hexdigest() != digest.decode():
        raise AssertionError(f"message {number.decode()} of {name.decode()} came back damaged")
    return name.decode(), int(number)
