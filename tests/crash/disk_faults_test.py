"""A disk that fails under the broker: it says so, ends with status 74, and has lost nothing."""

import random
import re
import unittest

from crashing_broker import CrashingBroker, harness, seed_from_environment
from clients import declare, holdings
from harness import await_until
from harness.publisher import ConfirmedPublisher
from ledger import Ledger

EXIT_IO = 74


class DiskFaults(unittest.TestCase):
    def setUp(self):
        self.rng = random.Random(seed_from_environment())

    def fail_at(self, point, window=20):
        broker, ledger = CrashingBroker(), Ledger()
        self.addCleanup(broker.discard)
        broker.start()
        declare(broker.parameters(), "work", "dead")
        broker.stop()
        broker.point = point
        publisher = None
        try:
            broker.start()
            publisher = ConfirmedPublisher(broker.parameters(), "work", "p", self.rng.getrandbits(32),
                                           window=window)
            publisher.start()
        except AssertionError as error:
            self.assertIn("ended with status 1 ", str(error))  # the fault lay in the start
        await_until(lambda: not broker.running(), 30, "the broker to end")
        await_until(lambda: re.search("No space left|Input/output error", broker.output()), 10,
                    "the reason")
        if publisher is not None:
            self.assertEqual(broker.exit_status(), EXIT_IO)
            publisher.join(30)
            ledger.published(publisher)
        if window == 1:
            # What was synced before is confirmed before the next is published.
            self.assertNotIn("a confirm after the failure", broker.output())
        broker.kill()  # what is left of it
        broker.point = None
        broker.start()
        ledger.check(holdings(broker.parameters(), ("work", "dead")), ordered=("work",))
        self.assertEqual(ledger.violations, [])

    def fail_at_each(self, call, hows):
        for how in hows:
            for count in (1, 2, 3, 4, self.rng.randint(5, 100)):
                with self.subTest(point=f"{call}:{how}:{count}"):
                    self.fail_at(f"{call}:{how}:{count}")
            with self.subTest(point=f"{call}:{how}, window 1"):
                self.fail_at(f"{call}:{how}:{self.rng.randint(5, 100)}", window=1)

    def test_writes_to_the_log(self):
        self.fail_at_each("write:.log", ("EIO", "ENOSPC", "short"))

    def test_syncs_of_the_log(self):
        self.fail_at_each("sync:.log", ("EIO", "ENOSPC"))


if __name__ == "__main__":
    harness.main()
