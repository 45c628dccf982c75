"""`--sandbox process`: the same functions without KVM, in jailed processes, under the real broker."""

import collections
import hashlib
import os
import pathlib
import signal

import pika

import harness
from harness.broker import Sluiced
from harness.functions import BUSYBOX, PERSISTENT, FunctionTestCase
from harness.process import children_of


class InProcesses(FunctionTestCase):
    own_broker = True

    def make_broker(self):
        broker = Sluiced(["--sandbox", "process"])
        broker.start()
        return broker

    def sum_of(self, data):
        return f"{hashlib.sha256(data).hexdigest()}  -\n".encode()

    def test_messages_become_results(self):
        function = self.deploy(BUSYBOX, args=["sha256sum"])
        queue, output, _ = self.subscribe(function)
        channel = self.channel()
        inputs = [f"message {number}".encode() for number in range(100)]
        for data in inputs:
            channel.basic_publish("", queue, data, PERSISTENT)
        results = collections.Counter(body for _, _, body in self.collect(channel, output, 100))
        self.assertEqual(results, collections.Counter(self.sum_of(data) for data in inputs))

    def test_batches_by_the_function_protocol(self):
        function = self.deploy(str(harness.build_dir() / "sdk" / "validate"))
        queue, output, _ = self.subscribe(function, batch_size=10, batch_window_ms=100, max_attempts=1)
        channel = self.channel()
        for number in range(30):
            channel.basic_publish("", queue, f"A-{number} 1.00 EUR".encode() if number else b"nonsense")
        self.assertEqual(len(self.collect(channel, output, 29)), 29)
        self.assertEqual(len(self.dead_letters(channel, queue, 1)), 1)

    def test_it_is_said_loudly(self):
        self.assertEqual(self.admin.get("overview")["executor"]["sandbox"], "process")

    def test_without_the_process_that_starts_programs_there_is_a_new_executor(self):
        function = self.deploy(BUSYBOX, args=["sha256sum"])
        queue, output, _ = self.subscribe(function)
        channel = self.channel()
        executor = self.admin.get("overview")["executor"]["pid"]
        for child in children_of(executor):
            os.kill(child, signal.SIGKILL)
        inputs = [f"message {number}".encode() for number in range(20)]
        for data in inputs:
            channel.basic_publish("", queue, data, pika.BasicProperties(delivery_mode=2))
        results = collections.Counter(body for _, _, body in self.collect(channel, output, 20))
        self.assertEqual(results, collections.Counter(self.sum_of(data) for data in inputs))

        def ended():
            return not pathlib.Path(f"/proc/{executor}").exists()
        harness.await_until(ended, 30, "the end of the executor")


if __name__ == "__main__":
    harness.main()
