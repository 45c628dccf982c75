"""What clients know of their messages, and the check of a broker against it.

The terms: lost = confirmed - acked - recovered; unexpected = recovered - attempted; returned =
recovered and durably acked. All three must be empty. A message that comes a second time must say
so (redelivered), each publisher's messages keep their order, and every body its checksum.

All of it lies in the test's own process: nothing is asked of the broker but its messages.
"""

import threading

from harness.publisher import parse_body


class Ledger:
    """Filled by clients from their threads; checked when they have ended."""

    def __init__(self):
        self._lock = threading.Lock()
        self._attempted = {}   # publisher -> how many messages it may have sent
        self._confirmed = set()  # keys are (publisher, number)
        self._delivered = set()
        self._acked = set()    # and rejected: the consumer is done with them in this queue
        self._gone = set()     # must never be seen again
        self.violations = []
        self.counts = {"confirmed": 0, "delivered": 0, "acked": 0, "checked": 0}

    # --- what clients did ---

    def published(self, publisher):
        """Takes over what a publisher knows, when its thread has ended."""
        with self._lock:
            # It may have died between sending one more and counting it.
            self._attempted[publisher.publisher] = publisher.sent + 1
            keys = {(publisher.publisher, number) for number in publisher.confirmed}
            self._confirmed |= keys
            self.counts["confirmed"] += len(keys)

    def delivered(self, queue, body, redelivered):
        """This came from that queue; returns the message's key, or None for a damaged one."""
        with self._lock:
            try:
                key = parse_body(body)
            except (AssertionError, ValueError) as error:
                self.violations.append(f"damaged: {error}")
                return None
            if key in self._gone:
                self.violations.append(f"returned: {key} came again")
            # Dead-lettered, a message is new in its next queue.
            if (queue, key) in self._delivered and not redelivered:
                self.violations.append(f"delivered again from {queue} as if new: {key}")
            self._delivered.add((queue, key))
            self.counts["delivered"] += 1
            return key

    def acked(self, keys):
        """The acks were handed to the socket; whether they arrived nobody knows yet."""
        with self._lock:
            self._acked |= set(keys)
            self.counts["acked"] += len(keys)

    def acks_durable(self, keys):
        """The broker has confirmed what came behind these acks on their channel."""
        with self._lock:
            self._gone |= set(keys)

    def violation(self, text):
        with self._lock:
            self.violations.append(text)

    # --- what the broker holds ---

    def check(self, queues, ordered):
        """`queues`: for each queue all of its messages in order, as (body, redelivered). `ordered`
        names those whose messages came from publishers alone.

        To be called when no client is at work. A message in no queue at all is settled for good.
        """
        recovered, places = set(), set()
        for name, messages in queues.items():
            keys = []
            for body, redelivered in messages:
                key = self.delivered(name, body, redelivered)
                if key is None:
                    continue
                if key in recovered:
                    self.violations.append(f"twice in the queues: {key}")
                recovered.add(key)
                places.add((name, key))
                keys.append(key)
            if name in ordered:
                self._check_order(name, keys)
        self.counts["checked"] += len(recovered)
        for key in self._confirmed - self._acked - recovered:
            self.violations.append(f"lost: {key}")
        for _, key in sorted(self._delivered):
            if key[1] >= self._attempted.get(key[0], 0):
                self.violations.append(f"unexpected: {key}")
        self._settle(recovered, places)

    def _check_order(self, queue, keys):
        last = {}
        for publisher, number in keys:
            if number < last.get(publisher, -1):
                self.violations.append(f"order in {queue}: {publisher} {number} behind {last[publisher]}")
            last[publisher] = number

    def _settle(self, recovered, places):
        """What the broker does not hold it must never hold again."""
        self._gone |= (self._confirmed | self._acked | {key for _, key in self._delivered}) - recovered
        self._confirmed &= recovered
        # A consumer may see a dead-lettered message before the crash that takes its move back; then
        # it is new in that queue once more.
        self._delivered &= places
        # An ack that did not arrive before the crash is void.
        self._acked.clear()
        # Of publishers that are through no single message need be remembered: a number that was
        # never attempted is just as wrong.
        waiting = {publisher for publisher, _ in recovered}
        for publisher in set(self._attempted) - waiting:
            self._attempted[publisher] = 0
        self._gone = {key for key in self._gone if self._attempted.get(key[0], 0) > 0}

    def report(self):
        return ", ".join(f"{count} {name}" for name, count in self.counts.items())
