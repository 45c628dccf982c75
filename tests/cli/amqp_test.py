#!/usr/bin/python3
"""Drives the built `sluice` publish and consume against a broker: a sluiced that it starts, or, with
an amqp:// URL in the place of SLUICED, one that runs already.

    amqp_test.py SLUICE SLUICED|URL [unittest's arguments]"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest

import pika

SLUICE = sys.argv.pop(1)
BROKER = sys.argv.pop(1)
READY = re.compile(r"^sluiced ready: amqp (\S+), admin (\S+), data (.*)$")


class Broker:
    """A sluiced of our own on ports that the kernel picks."""

    def __init__(self):
        self.data = tempfile.TemporaryDirectory(prefix="sluice-cli-test-")
        self.process = subprocess.Popen(
            [BROKER, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir",
             self.data.name], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if ready := READY.match(line):
                self.url = f"amqp://guest:guest@{ready[1]}"
                return
        raise RuntimeError(f"sluiced ended with {self.process.wait()} before it was ready")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.data.cleanup()


class AmqpTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if BROKER.startswith("amqp://"):
            cls.url = BROKER
        else:
            broker = Broker()
            cls.addClassCleanup(broker.stop)
            cls.url = broker.url

    def setUp(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(self.url + "/%2F"))
        self.addCleanup(self.connection.close)
        self.channel = self.connection.channel()
        self.queue = f"cli-test-{os.getpid()}"
        self.channel.queue_declare(self.queue, durable=True)
        self.channel.queue_purge(self.queue)
        self.addCleanup(self.channel.queue_delete, self.queue)

    def command(self, *arguments):
        return [SLUICE, "--amqp", self.url, *arguments]

    def sluice(self, *arguments, status=0, stdin=b""):
        done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, timeout=60,
                              check=False)
        self.assertEqual(done.returncode, status, done.stderr.decode(errors="replace"))
        return done.stdout, done.stderr.decode(errors="replace")

    def publish(self, *arguments, **more):
        return self.sluice("publish", "--queue", self.queue, *arguments, **more)

    def consume(self, *arguments, **more):
        return self.sluice("consume", "--queue", self.queue, *arguments, **more)[0]

    def get(self):
        return self.channel.basic_get(self.queue, auto_ack=True)

    def test_publishes_a_persistent_message_with_its_properties(self):
        stdout, _ = self.publish("--header", "file=GPL=3", "--header", "e=", "--correlation-id",
                                 "c1", "--reply-to", "r", "--content-type", "text/plain",
                                 stdin=b"a\x00\xff")
        self.assertEqual(stdout.decode(), f"1 message published to queue '{self.queue}' and confirmed\n")
        _, properties, body = self.get()
        self.assertEqual(body, b"a\x00\xff")
        self.assertEqual(properties.headers, {"file": "GPL=3", "e": ""})
        self.assertEqual((properties.correlation_id, properties.reply_to, properties.content_type,
                          properties.delivery_mode), ("c1", "r", "text/plain", 2))

    def test_publishes_a_file_larger_than_a_frame(self):
        content = os.urandom(1_000_000)
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self.publish(file.name)
        self.assertEqual(self.consume(), content)

    def test_publishes_each_line_in_order(self):
        lines = [b"%d" % i for i in range(5000)]
        stdout, _ = self.publish("--lines", "-o", "json", stdin=b"\n".join(lines) + b"\n")
        self.assertEqual(json.loads(stdout),
                         {"published": 5000, "confirmed": 5000, "returned": 0, "refused": 0})
        got = [json.loads(line)["payload"].encode() for line in self.consume("-o", "json").splitlines()]
        self.assertEqual(got, lines)

    def test_the_last_line_may_lack_its_line_feed_and_a_line_may_be_empty(self):
        self.publish("--lines", stdin=b"a\n\nb")
        self.assertEqual([self.get()[2] for _ in range(3)], [b"a", b"", b"b"])
        self.assertIsNone(self.get()[2])

    def test_no_lines_are_no_messages(self):
        stdout, _ = self.publish("--lines")
        self.assertIn(b"0 messages published", stdout)

    def test_count_and_rate(self):
        self.publish("--count", "20", "--rate", "1000", stdin=b"x")
        self.assertEqual(self.consume(), b"x" * 20)

    def test_publishes_through_an_exchange(self):
        self.channel.queue_bind(self.queue, "amq.topic", "a.#")
        self.sluice("publish", "--exchange", "amq.topic", "--key", "a.b", stdin=b"x")
        method, _, _ = self.get()
        self.assertEqual((method.exchange, method.routing_key), ("amq.topic", "a.b"))

    def test_a_message_that_no_queue_takes_fails(self):
        stdout, stderr = self.sluice("publish", "--queue", "no-such-queue", "--count", "3", status=1)
        self.assertEqual(stdout, b"")
        self.assertIn("returned 3 of 3 messages", stderr)
        self.assertIn("sluice queue declare", stderr)

    def test_a_missing_exchange_and_a_missing_queue_fail_with_the_brokers_words(self):
        _, stderr = self.sluice("publish", "--exchange", "no-such-exchange", status=1)
        self.assertIn("NOT_FOUND", stderr)
        _, stderr = self.sluice("consume", "--queue", "no-such-queue", status=1)
        self.assertIn("NOT_FOUND", stderr)

    def test_a_wrong_password_fails(self):
        url = self.url.replace("guest:guest", "guest:wrong")
        _, stderr = self.sluice("--amqp", url, "consume", "--queue", "q", status=1)
        self.assertIn("ACCESS_REFUSED", stderr)

    def test_consumes_until_the_queue_is_empty(self):
        self.assertEqual(self.consume(), b"")
        for body in (b"one", b"\x00\xff", b""):
            self.channel.basic_publish("", self.queue, body)
        self.assertEqual(self.consume(), b"one\x00\xff")
        self.assertIsNone(self.get()[2])

    def test_consumes_no_more_than_the_count_and_disturbs_no_others(self):
        for more in ((), ("--no-ack",), ("--follow",), ("--follow", "--no-ack")):
            with self.subTest(more=more):
                self.channel.queue_purge(self.queue)
                self.publish("--lines", stdin=b"\n".join(b"%d" % i for i in range(8)))
                self.assertEqual(self.consume("--count", "5", *more), b"01234")
                left = [self.get() for _ in range(3)]
                self.assertEqual([body for _, _, body in left], [b"5", b"6", b"7"])
                self.assertEqual([method.redelivered for method, _, _ in left], [False] * 3)

    def test_json_shows_the_whole_message(self):
        properties = pika.BasicProperties(
            correlation_id="c", headers={"n": 5, "deep": {"list": [True, None, "é"]}}, priority=3)
        self.channel.basic_publish("", self.queue, "é".encode(), properties)
        self.channel.basic_publish("", self.queue, b"\xff")
        text, binary = [json.loads(line) for line in self.consume("-o", "json").splitlines()]
        self.assertEqual(text, {
            "exchange": "", "routing_key": self.queue, "redelivered": False,
            "properties": {"headers": {"n": 5, "deep": {"list": [True, None, "é"]}}, "priority": 3,
                           "correlation_id": "c"},
            "payload": "é", "payload_bytes": 2, "payload_encoding": "string"})
        self.assertEqual(binary["payload_encoding"], "base64")
        self.assertEqual(base64.b64decode(binary["payload"]), b"\xff")

    def test_follows_and_ends_when_the_queue_is_deleted(self):
        with subprocess.Popen(self.command("consume", "--queue", self.queue, "--follow", "-o", "json"),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
            for body in (b"first", b"second"):
                self.channel.basic_publish("", self.queue, body)
                self.assertEqual(json.loads(follower.stdout.readline())["payload"].encode(), body)
            self.channel.queue_delete(self.queue)
            _, stderr = follower.communicate(timeout=30)
            self.assertEqual(follower.returncode, 1)
            self.assertIn(b"was deleted", stderr)

    def test_a_follower_that_is_killed_loses_nothing(self):
        with subprocess.Popen(self.command("consume", "--queue", self.queue, "--follow", "-o", "json"),
                              stdout=subprocess.PIPE) as follower:
            self.channel.basic_publish("", self.queue, b"taken")
            self.assertEqual(json.loads(follower.stdout.readline())["payload"], "taken")
            follower.send_signal(signal.SIGSTOP)  # what comes now reaches its socket only
            self.publish("--lines", stdin=b"a\nb\nc")
            follower.kill()
        seen = [json.loads(line)["payload"] for line in
                self.consume("--follow", "--count", "3", "-o", "json").splitlines()]
        # "taken" may come back: its ack may not have left the follower.
        expected = ["taken", "a", "b"] if seen[0] == "taken" else ["a", "b", "c"]
        self.assertEqual(seen, expected)

    def test_lines_from_a_slow_pipe_are_published_as_they_come(self):
        with subprocess.Popen(self.command("publish", "--queue", self.queue, "--lines"),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as publisher:
            for line in (b"first", b"second"):
                publisher.stdin.write(line + b"\n")
                publisher.stdin.flush()
                self.assertEqual(self.consume("--follow", "--count", "1"), line)
            publisher.stdin.close()
            self.assertEqual(publisher.wait(timeout=30), 0)
            self.assertIn(b"2 messages published", publisher.stdout.read())


if __name__ == "__main__":
    unittest.main()
