"""What attacks on the broker found, each mended: named for what went wrong."""

import json
import os
import pathlib
import signal
import struct
import time
import urllib.parse

import pika

import harness
from harness import Sluiced, await_until, wire
from harness.admin import Admin, AdminError
from harness.functions import BUSYBOX, PERSISTENT, FunctionTestCase

# flags, then delivery_mode: the properties of a persistent message.
DELIVERY_MODE = 1 << 12


def persistent(queue, body=b"x"):
    return (wire.basic_publish(1, "", queue) + wire.header_frame(1, len(body), DELIVERY_MODE, b"\2")
            + wire.frame(wire.FRAME_BODY, 1, body))


class Stalls(FunctionTestCase):
    own_broker = True

    def make_broker(self):
        # Without an executor nothing else wakes the loop for seconds.
        broker = Sluiced(["--executor", "/no/such/program"])
        broker.start()
        return broker

    def test_confirms_do_not_wait_for_something_else_to_happen(self):
        """Work that the end of a turn makes has to get a turn of its own."""
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel(1)
            for queue in ("one", "two"):
                raw.declare_queue(1, queue, bits=2)
            raw.send(wire.method_frame(1, wire.CONFIRM_SELECT, b"\0"))
            raw.expect(wire.CONFIRM_SELECT_OK)
            # no-ack: what is published is consumed before it is written.
            raw.send(wire.method_frame(1, wire.BASIC_CONSUME, b"\0\0" + wire.short_string("one")
                                       + wire.short_string("c") + b"\2" + wire.table()))
            raw.expect(wire.BASIC_CONSUME_OK)
            declare = wire.queue_declare(1, "one", bits=2)
            for last in range(3, 31, 3):
                raw.send(persistent("one"), declare, persistent("one"), declare, persistent("two"))
                confirmed = 0
                while confirmed < last:
                    received = raw.read_frame(timeout_s=2.0)
                    if received.method == wire.BASIC_ACK:
                        confirmed = struct.unpack(">Q", received.arguments[:8])[0]


class CrashLoops(FunctionTestCase):
    own_broker = True

    def test_headers_that_we_add_to_a_full_table_are_read_again(self):
        function = self.deploy(BUSYBOX, args=["cat"])
        channel = self.channel()
        channel.confirm_delivery()
        channel.queue_declare("poison", durable=True)
        channel.queue_declare("source", durable=True, arguments={
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "poison"})
        _, output, subscription = self.subscribe(function, "poison")
        channel.basic_publish("", "source", b"m", pika.BasicProperties(
            delivery_mode=2, headers={f"h{number}": True for number in range(4090)}))
        method, _, _ = self.get(channel, "source", 10)
        channel.basic_reject(method.delivery_tag, requeue=False)
        self.await_counter(subscription, lambda s: s["succeeded"] == 1, "the call")
        self.assertEqual(self.admin.queue(output)["messages"], 1)

    def test_calls_that_can_not_be_made_do_not_nest(self):
        self.broker.stop()
        self.broker._arguments = ["--executor", "/no/such/program"]
        self.broker.start()
        self.admin.deploy_bytes("bad", b"not an ELF")
        queue, _, subscription = self.subscribe(
            "bad", result=None, max_attempts=20000, backoff_min_ms=0, backoff_max_ms=0)
        channel = self.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"m", PERSISTENT)
        self.broker.stop()
        self.broker._arguments = []
        self.broker.start()
        channel = self.channel()
        self.dead_letters(channel, queue, 1, timeout_s=60)
        self.assertTrue(self.broker.running())

    def test_failures_may_not_return_to_their_own_queue(self):
        function = self.deploy("echo")
        channel = self.channel()
        queue = self.durable_queue(channel)
        with self.assertRaises(AdminError) as caught:
            self.admin.subscribe("s", queue, function,
                                 on_failure={"exchange": "", "routing_key": queue})
        self.assertEqual(caught.exception.status, 422)


class Administration(FunctionTestCase):
    def declare(self, arguments):
        return self.admin.request("PUT", f"queues/%2F/{self.name()}",
                                  f'{{"arguments":{arguments}}}'.encode())[0]

    def test_arguments_keep_the_limits_of_amqp(self):
        many = json.dumps({f"a{number}": 1 for number in range(256)})
        self.assertEqual(self.declare(many), 201)
        for arguments in ('{"a":' + "[" * 40 + "]" * 40 + "}",
                          '{"a":' + "[" * 100000 + "]" * 100000 + "}",
                          json.dumps({f"a{number}": 1 for number in range(257)}),
                          json.dumps({"n" * 256: 1})):
            with self.subTest(arguments=arguments[:30]), self.assertRaises(AdminError) as caught:
                self.declare(arguments)
            self.assertEqual(caught.exception.status, 400)

    def test_names_that_are_no_utf8_are_refused(self):
        for name in ("\udcff", "a/b", "", "-x", "x" * 256):
            path = urllib.parse.quote(name.encode("utf-8", "surrogateescape"), safe="")
            with self.subTest(name=name), self.assertRaises(AdminError):
                self.admin.request("PUT", f"functions/{path}", b"{}")
        self.admin.get("functions")

    def test_strangers_do_not_hold_up_the_administration(self):
        held = [wire.socket.create_connection((self.broker.admin_host, self.broker.admin_port))
                for _ in range(32)]
        for connection in held:
            connection.sendall(b"GET /api/overview HTTP/1.1\r\nHost:")
        start = time.monotonic()
        self.admin.get("overview")
        self.assertLess(time.monotonic() - start, 3.0)
        for connection in held:
            connection.close()

    def test_a_subscription_leaves_exclusive_queues_alone(self):
        function = self.deploy("echo")
        channel = self.channel()
        name = self.durable_queue(channel)
        self.subscribe(function, name)
        channel.queue_delete(name)
        declared = channel.queue_declare(name, exclusive=True)
        self.assertEqual(declared.method.consumer_count, 0)

    def test_an_older_version_is_unloaded(self):
        function = self.deploy("echo")
        self.admin.deploy(function, BUSYBOX, args=["cat"])
        states = [version["state"] for version in self.admin.get(f"functions/{function}/versions")]
        self.assertEqual(states, ["unloaded", "ready"])


class Isolation(FunctionTestCase):
    own_broker = True

    def test_the_executor_holds_nobody_elses_sockets(self):
        executor = self.admin.get("overview")["executor"]["pid"]
        held = []
        for _ in range(3):
            connection = wire.socket.create_connection(
                (self.broker.admin_host, self.broker.admin_port))
            connection.sendall(b"GET /api/overview HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertTrue(connection.recv(100))
            held.append(connection)
        os.kill(executor, signal.SIGKILL)
        again = await_until(
            lambda: (found := self.admin.get("overview")["executor"])["state"] == "running"
            and found["pid"] != executor and found, 30, "the executor to be back")
        sockets = [link for fd in pathlib.Path(f"/proc/{again['pid']}/fd").iterdir()
                   if "socket:" in (link := os.readlink(fd))]
        self.assertEqual(len(sockets), 1, sockets)
        for connection in held:
            connection.close()

    def test_many_consumers_of_one_queue_cost_no_more_than_they_are(self):
        channel = self.channel()
        queue = self.durable_queue(channel)
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel(1)
            raw.send(b"".join(
                wire.method_frame(1, wire.BASIC_CONSUME, b"\0\0" + wire.short_string(queue)
                                  + wire.short_string(f"c{number}") + b"\x08" + wire.table())
                for number in range(30000)))
            await_until(lambda: self.admin.queue(queue)["consumers"] == 30000, 60, "the consumers")
        start = time.monotonic()
        await_until(lambda: self.admin.queue(queue)["consumers"] == 0, 60, "them to go")
        self.assertLess(time.monotonic() - start, 2.0)


class RecoverAsync(harness.BrokerTestCase):
    def test_it_has_no_answer(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel(1)
            raw.send(wire.method_frame(1, (60, 100), b"\1"), wire.method_frame(1, (20, 20), b"\1"))
            self.assertEqual(raw.read_frame().method, wire.CHANNEL_FLOW_OK)


if __name__ == "__main__":
    harness.main()
