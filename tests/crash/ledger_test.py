"""The checker tells each thing that a broker can do wrong, and nothing where it did none."""

import hashlib
import types
import unittest

import crashing_broker  # noqa: F401  pylint: disable=unused-import  # finds the harness
from ledger import Ledger


def body(number, publisher="p", payload=b"x"):
    return f"{publisher} {number} {hashlib.sha256(payload).hexdigest()} ".encode() + payload


class LedgerTest(unittest.TestCase):
    def setUp(self):
        self.ledger = Ledger()
        self.publish(range(10))

    def publish(self, confirmed, sent=10, publisher="p"):
        self.ledger.published(types.SimpleNamespace(publisher=publisher, sent=sent,
                                                    confirmed=set(confirmed)))

    def check(self, numbers, redelivered=False, dead=()):
        self.ledger.check({"q": [(body(n), redelivered) for n in numbers],
                           "dead": [(body(n), False) for n in dead]}, ordered=("q",))

    def assert_only(self, word, count=1):
        self.assertEqual([v.split(":")[0].split(" ")[0] for v in self.ledger.violations], [word] * count)

    def consume(self, number, redelivered=False, queue="q"):
        return self.ledger.delivered(queue, body(number), redelivered)

    def test_everything_there_or_done_with_is_no_violation(self):
        key = self.consume(0)
        self.ledger.acked([key])
        self.check(range(1, 10))
        self.check(range(1, 10), redelivered=True)
        self.assertEqual(self.ledger.violations, [])

    def test_an_ack_that_got_lost_brings_the_message_back_redelivered(self):
        self.ledger.acked([self.consume(0)])
        self.ledger.check({"q": [(body(0), True)] + [(body(n), False) for n in range(1, 10)]},
                          ordered=("q",))
        self.assertEqual(self.ledger.violations, [])

    def test_lost(self):
        self.check([n for n in range(10) if n != 4])
        self.assert_only("lost")

    def test_rejected_and_nowhere(self):
        self.consume(3)
        self.check([n for n in range(10) if n != 3])
        self.assert_only("lost")

    def test_unexpected(self):
        self.check(range(12))
        self.assert_only("unexpected")  # the one behind `sent` may have been on its way

    def test_returned(self):
        key = self.consume(0)
        self.ledger.acked([key])
        self.ledger.acks_durable([key])
        self.check(range(10), redelivered=True)
        self.assert_only("returned")

    def test_what_was_settled_at_a_check_returns_later(self):
        self.ledger.acked([self.consume(0)])
        self.check(range(1, 10))
        self.consume(0, redelivered=True)
        self.assert_only("returned")

    def test_a_second_delivery_that_does_not_say_so(self):
        self.consume(0)
        self.consume(0)
        self.assert_only("delivered")

    def test_order(self):
        self.check([1, 0, *range(2, 10)])
        self.assert_only("order")

    def test_twice(self):
        self.check(range(10), dead=[5])
        self.assert_only("twice")

    def test_damaged(self):
        self.ledger.delivered("q", body(0)[:-1] + b"y", False)
        self.assert_only("damaged")


if __name__ == "__main__":
    unittest.main(verbosity=2)
