"""Clients that keep a Ledger while they load a broker."""

import threading

import pika
from pika.exceptions import AMQPError

PERSISTENT = pika.BasicProperties(delivery_mode=2)
MARKS = "marks"  # what consumers publish only to see it confirmed


def declare(parameters, queue, dead):
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare(MARKS, durable=True)
    channel.queue_declare(dead, durable=True)
    channel.queue_declare(queue, durable=True, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    connection.close()


def holdings(parameters, queues):
    """All messages of each queue in order, as (body, redelivered); they stay where they are."""
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_purge(MARKS)
    found = {}
    for queue in queues:
        found[queue] = []
        count = channel.queue_declare(queue, passive=True).method.message_count
        channel.basic_consume(queue, lambda _channel, method, _properties, body, q=queue: found[
            q].append((body, method.redelivered)))
        while len(found[queue]) < count:
            connection.process_data_events(time_limit=10)
    connection.close()
    return found


class LedgerConsumer(threading.Thread):
    """Consumes until its connection breaks or `stop`: acks one by one or several, gives some back,
    rejects some, leaves some alone. Tells the ledger which acks are durable by publishing a mark
    behind them and waiting for its confirm. `ordered`: the queue is fed by publishers alone.
    `mark_every` 0: it never publishes."""

    def __init__(self, parameters, queue, ledger, rng, requeue=0.0, reject=0.0, leave=0.0,
                 pause_s=0.0, ordered=True, mark_every=25):
        super().__init__(daemon=True)
        self._parameters, self._queue, self._ledger, self._rng = parameters, queue, ledger, rng
        self._requeue, self._reject, self._leave = requeue, reject, leave
        self._pause_s = pause_s
        self._ordered, self._mark_every = ordered, mark_every
        self._stopping = threading.Event()
        self._settled = []   # acked, the mark still to come
        self._last = {}      # publisher -> number, of what was not redelivered
        self.error = None

    def stop(self):
        self._stopping.set()

    def run(self):
        try:
            connection = pika.BlockingConnection(self._parameters)
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_qos(prefetch_count=self._rng.choice((1, 10, 100)))
            channel.basic_consume(self._queue, self._on_message)
            while not self._stopping.is_set():
                connection.process_data_events(time_limit=0.05)
                self._mark(channel)
                if self._pause_s:
                    self._stopping.wait(self._pause_s)
            connection.close()
        except (AMQPError, OSError) as error:
            self.error = error

    def _on_message(self, channel, method, _properties, body):
        key = self._ledger.delivered(self._queue, body, method.redelivered)
        if key is None:
            return
        if self._ordered and not method.redelivered:
            if key[1] < self._last.get(key[0], -1):
                self._ledger.violation(f"order: {key} came behind {self._last[key[0]]}")
            self._last[key[0]] = key[1]
        fate = self._rng.random()
        if fate < self._requeue:
            channel.basic_nack(method.delivery_tag, requeue=True)
        elif fate < self._requeue + self._reject:
            channel.basic_reject(method.delivery_tag, requeue=False)
        elif fate < self._requeue + self._reject + self._leave:
            pass
        else:
            self._ledger.acked([key])
            channel.basic_ack(method.delivery_tag)
            self._settled.append(key)

    def _mark(self, channel):
        if self._mark_every == 0 or len(self._settled) < self._mark_every:
            return
        settled, self._settled = self._settled, []
        channel.basic_publish("", MARKS, b"", PERSISTENT)  # returns with its confirm
        self._ledger.acks_durable(settled)
