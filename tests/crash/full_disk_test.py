"""A disk that fills up, a tmpfs of our own: publishers are blocked before a write fails, consumers
drain, the space comes back, and publishing goes on; nothing is lost and nothing is restarted."""

import os
import pathlib
import random
import subprocess
import tempfile
import threading
import time

from crashing_broker import CrashingBroker, harness, seed_from_environment
from clients import LedgerConsumer, declare
from harness import await_until
from harness.admin import Admin
from harness.publisher import ConfirmedPublisher
from ledger import Ledger

DISK_MIB = 320


class SmallDiskCase(harness.BrokerTestCase):
    """Needs the right to mount."""

    free_min_mib = 128

    def setUp(self):
        self.disk = pathlib.Path(tempfile.mkdtemp(prefix="sluice-disk-"))
        self.addCleanup(self.disk.rmdir)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "sluice-test", self.disk],
                       check=True)
        self.addCleanup(subprocess.run, ["umount", self.disk], check=True)
        self.broker = CrashingBroker(["--disk-free-min", f"{self.free_min_mib}MiB"], self.disk / "data")
        self.addCleanup(self.broker.discard)
        self.broker.start()
        self._log_from = 0
        self.admin = Admin(self.broker.admin_url)

    def storage(self):
        return self.admin.get("overview")["storage"]

    def free_mib(self):
        disk = os.statvfs(self.disk)
        return (disk.f_bavail * disk.f_frsize) >> 20

    def states(self):
        return [connection["state"] for connection in self.admin.get("connections")]


class FullDisk(SmallDiskCase):
    def run_until_blocked(self, rng, size_max):
        """Fills the disk with confirmed messages; returns the publishers, which are blocked."""
        publishers = [ConfirmedPublisher(self.broker.parameters(), "work", f"p{n}",
                                         rng.getrandbits(32), window=100, size_max=size_max)
                      for n in range(2)]
        for publisher in publishers:
            publisher.start()
        # First it goes off again, when logs are given back; in the end only draining helps.
        sent, since = None, time.monotonic()

        def blocked_for_good():
            nonlocal sent, since
            if (now := [publisher.sent for publisher in publishers]) != sent:
                sent, since = now, time.monotonic()
            return self.states().count("blocked") == 2 and time.monotonic() - since > 5
        await_until(blocked_for_good, 120, "both publishers to be blocked for good")
        self.assertTrue(self.storage()["disk_alarm"])
        return publishers

    def fill_drain_and_go_on(self, size_max):
        rng = random.Random(seed_from_environment())
        ledger = Ledger()
        declare(self.broker.parameters(), "work", "dead")
        publishers = self.run_until_blocked(rng, size_max)
        self.assertGreater(self.free_mib(), self.free_min_mib // 2, "the alarm came too late")
        sent = [publisher.sent for publisher in publishers]
        consumers = [LedgerConsumer(self.broker.parameters(), "work", ledger,
                                    random.Random(rng.getrandbits(32)), mark_every=0)
                     for _ in range(2)]
        for consumer in consumers:
            consumer.start()
        await_until(lambda: not self.storage()["disk_alarm"], 120,
                    lambda: f"space to come back; {self.free_mib()} MiB are free, "
                            f"{self.admin.queue('work')['messages']} messages left")
        await_until(lambda: all(p.sent > n for p, n in zip(publishers, sent)), 60,
                    "publishing to go on")
        for publisher in publishers:
            publisher.stop()
        for publisher in publishers:
            publisher.join(60)
            self.assertFalse(publisher.is_alive())
            ledger.published(publisher)
        await_until(lambda: self.admin.queue("work")["messages"] == 0, 120, "the queue to be drained")
        for consumer in consumers:
            consumer.stop()
        for consumer in consumers:
            consumer.join(60)
        ledger.check({"work": []}, ordered=())
        self.assertEqual(ledger.violations, [])
        self.assertEqual(len(self.broker.output().split("sluiced ready")), 2, "it was restarted")

    def test_small_messages(self):
        self.fill_drain_and_go_on(8000)

    def test_bodies_in_blob_files(self):
        self.fill_drain_and_go_on(400_000)


class Blocked(SmallDiskCase):
    """What RabbitMQ's clients expect; something else takes the space and gives it back."""

    free_min_mib = 200

    def setUp(self):
        super().setUp()
        self.ballast = self.disk / "ballast"

    def fill(self):
        with open(self.ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, (DISK_MIB - 150) << 20)
        await_until(lambda: self.storage()["disk_alarm"], 10, "the alarm")

    def free(self):
        self.ballast.unlink()

    def test_publishers_are_told_and_others_go_on(self):
        publisher, told = self.connect(), []
        publisher.add_on_connection_blocked_callback(lambda _c, method: told.append(method.method.reason))
        publisher.add_on_connection_unblocked_callback(lambda _c, _m: told.append("unblocked"))
        channel = publisher.channel()
        queue = self.durable_queue(channel)
        channel.basic_publish("", queue, b"before")
        other = self.channel()
        self.assert_ready(other, queue, 1)
        self.fill()
        self.assert_serving_consumers(other, queue)
        self.assertEqual(told, [], "told before it published")
        channel.basic_publish("", queue, b"held")
        self.pump(publisher, lambda: told, what="connection.blocked")
        self.assertIn("disk", told[0])
        self.assertIn("blocked", [c["state"] for c in self.admin.get("connections")])
        self.assert_ready(other, queue, 0)
        self.free()
        self.pump(publisher, lambda: told[-1] == "unblocked", what="connection.unblocked")
        self.assertEqual(self.get(other, queue)[2], b"held")
        channel.basic_publish("", queue, b"after")
        self.assertEqual(self.get(other, queue)[2], b"after")

    def assert_serving_consumers(self, channel, queue):
        method, _, _ = self.get(channel, queue)
        channel.basic_ack(method.delivery_tag)
        self.durable_queue(channel)

    def test_a_blocked_connection_does_not_hold_up_the_stop_and_the_next_start_knows(self):
        self.fill()
        channel = self.channel()
        channel.basic_publish("", self.durable_queue(channel), b"x")
        await_until(lambda: "blocked" in self.states(), 10, "the connection to be blocked")
        stopper = threading.Thread(target=self.broker.stop)
        stopper.start()
        with self.assertRaises(harness.pika_errors.ConnectionClosedByBroker):
            channel.connection.process_data_events(time_limit=10)
        stopper.join()
        self.broker.start()
        self.admin = Admin(self.broker.admin_url)
        self.assertTrue(self.storage()["disk_alarm"])


if __name__ == "__main__":
    harness.main()
