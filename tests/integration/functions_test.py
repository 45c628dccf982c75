"""Functions and subscriptions: a message runs a program and its result comes back."""

import hashlib
import pathlib
import struct
import subprocess

import pika

import harness
from harness.admin import AdminError
from harness.functions import BUSYBOX, PERSISTENT, FunctionTestCase, guest

HERE = pathlib.Path(__file__).resolve().parent


def sha256sum(data):
    """What `sha256sum` prints for data on its stdin."""
    return f"{hashlib.sha256(data).hexdigest()}  -\n".encode()


class Deploying(FunctionTestCase):
    def test_show_tells_what_was_deployed(self):
        data = guest("echo").read_bytes()
        name = self.name("f")
        self.admin.deploy(name, guest("echo"), args=["a", "b"], env=["K=V"],
                          memory_bytes=32 << 20, timeout_ms=1500)
        function = self.await_function(name)
        self.assertEqual(function["name"], name)
        self.assertEqual(function["version"], 1)
        self.assertEqual(function["image_sha256"], hashlib.sha256(data).hexdigest())
        self.assertEqual(function["image_bytes"], len(data))
        self.assertEqual((function["args"], function["env"]), (["a", "b"], ["K=V"]))
        self.assertEqual((function["memory_bytes"], function["timeout_ms"]), (32 << 20, 1500))
        self.assertIn(name, [f["name"] for f in self.admin.get("functions")])

    def test_each_deploy_is_a_new_version(self):
        name = self.deploy("echo")
        self.admin.deploy(name, BUSYBOX, args=["sha256sum"])
        self.await_function(name)
        self.assertEqual([f["version"] for f in self.admin.get(f"functions/{name}/versions")], [1, 2])
        self.assertEqual(self.admin.invoke(name, b"x")["output"], sha256sum(b"x"))

    def test_delete(self):
        name = self.deploy("echo")
        self.assertEqual(self.admin.delete(f"functions/{name}"), 204)
        with self.assertRaises(AdminError) as caught:
            self.admin.get(f"functions/{name}")
        self.assertEqual(caught.exception.status, 404)

    def test_delete_is_refused_while_a_subscription_uses_it(self):
        name = self.deploy("echo")
        _, _, subscription = self.subscribe(name)
        with self.assertRaises(AdminError) as caught:
            self.admin.delete(f"functions/{name}")
        self.assertEqual(caught.exception.status, 409)
        self.assertIn(subscription, caught.exception.reason)
        self.admin.delete(f"subscriptions/{subscription}")
        self.admin.delete(f"functions/{name}")

    def refusal(self, data):
        with self.assertRaises(AdminError) as caught:
            self.admin.deploy_bytes(self.name("f"), data)
        self.assertEqual(caught.exception.status, 422, caught.exception)
        return caught.exception.reason

    def test_images_that_can_not_run_are_refused_with_the_reason(self):
        good = bytearray(guest("echo").read_bytes())

        def changed(offset, data):
            image = bytearray(good)
            image[offset:offset + len(data)] = data
            return bytes(image)
        cases = {
            "no ELF": b"#!/bin/sh\necho hello\n",
            "empty": b"",
            "32-bit": changed(4, b"\x01"),
            "big-endian": changed(5, b"\x02"),
            "another machine": changed(18, struct.pack("<H", 183)),
            "a relocatable file": changed(16, struct.pack("<H", 1)),
            "header only": bytes(good[:64]),
            "half a header": bytes(good[:20]),
            "truncated": bytes(good[:len(good) // 2]),
            "program headers outside": changed(32, struct.pack("<Q", 1 << 62)),
            "dynamic": pathlib.Path("/bin/ls").read_bytes(),
        }
        for case, data in cases.items():
            with self.subTest(case=case):
                reason = self.refusal(data)
                self.assertGreater(len(reason), 10, "a sentence that its owner can act on")
        self.assertRegex(self.refusal(cases["dynamic"]).lower(), "dynamic|interpreter|static")
        self.assertRegex(self.refusal(cases["32-bit"]), "32|64")

    def test_bad_names_and_configurations_are_refused(self):
        for status, config in ((400, {"memory_bytes": "much"}), (422, {"timeout_ms": 0}),
                               (422, {"memory_bytes": 1})):
            with self.subTest(config=config), self.assertRaises(AdminError) as caught:
                self.admin.deploy(self.name("f"), guest("echo"), **config)
            self.assertIn(caught.exception.status, (400, 422), status)

    def test_a_wrong_password_is_refused(self):
        with self.assertRaises(AdminError) as caught:
            harness.admin.Admin(self.broker.admin_url, password="wrong").get("functions")
        self.assertEqual(caught.exception.status, 401)


class Invoking(FunctionTestCase):
    def test_busybox_without_any_sdk(self):
        name = self.deploy(BUSYBOX, args=["sha256sum"])
        for data in (b"", b"hello", bytes(range(256)) * 5000):
            result = self.admin.invoke(name, data)
            self.assertEqual((result["outcome"], result["output"]), ("ok", sha256sum(data)))

    def test_echo_of_all_sizes(self):
        name = self.deploy("echo")
        for size in (0, 1, 4095, 4096, 4097, 65536, 1 << 20, 8 << 20):
            data = hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1)
            self.assertEqual(self.admin.invoke(name, data[:size])["output"], data[:size], size)

    def test_arguments_and_environment(self):
        name = self.deploy(BUSYBOX, args=["sh", "-c", "echo $0 $1 $GREETING", "zero", "one"],
                           env=["GREETING=hello"])
        result = self.admin.invoke(name)
        self.assertEqual(result["output"], b"zero one hello\n", result)

    def test_stderr_is_the_log(self):
        name = self.deploy(BUSYBOX, args=["sh", "-c", "read x; echo got $x; echo complaint >&2"])
        result = self.admin.invoke(name, b"data\n")
        self.assertEqual((result["output"], result["log"]), (b"got data\n", b"complaint\n"), result)
        entry = self.admin.logs(name)[-1]
        self.assertEqual((entry["log"], entry["source"], entry["outcome"]),
                         ("complaint\n", "invoke", "ok"))

    def outcome(self, name, image, data=b"", message=None, **config):
        function = self.deploy(image, **config)
        result = self.admin.invoke(function, data)
        self.assertEqual(result["outcome"], name, result)
        self.assertGreater(len(result["message"]), 5, "a sentence for people")
        if message:
            self.assertRegex(result["message"], message)
        # The failure has been logged, and the same function is called again in a clean sandbox.
        self.assertEqual(self.admin.logs(function)[-1]["outcome"], name)
        self.assertEqual(self.admin.invoke(function, data)["outcome"], name)
        return result

    def test_a_function_that_loops_times_out(self):
        self.outcome("timeout", "loop", timeout_ms=300)

    def test_a_null_pointer(self):
        self.outcome("exception", "crash_null")

    def test_an_invalid_instruction(self):
        self.outcome("exception", "crash_ud2")

    def test_a_division_by_zero(self):
        self.outcome("exception", "crash_div")

    def test_a_function_that_fills_memory(self):
        self.outcome("memory_limit", "memory_hog", memory_bytes=32 << 20, timeout_ms=20000)

    def test_a_function_that_floods_stdout(self):
        self.outcome("output_limit", "stdout_flood", timeout_ms=20000)

    def test_a_function_that_calls_what_is_not_allowed(self):
        self.outcome("forbidden_syscall", "forbidden_call")

    def test_an_exit_status(self):
        result = self.outcome("exit_status", "exit_status", b"7")
        self.assertEqual(result["exit_status"], 7)

    def test_a_failed_call_leaves_others_alone(self):
        good, bad = self.deploy("echo"), self.deploy("crash_null")
        for number in range(20):
            self.assertEqual(self.admin.invoke(bad)["outcome"], "exception")
            data = str(number).encode()
            self.assertEqual(self.admin.invoke(good, data)["output"], data)

    def test_an_unknown_function(self):
        with self.assertRaises(AdminError) as caught:
            self.admin.invoke(self.name("f"))
        self.assertEqual(caught.exception.status, 404)


class Subscriptions(FunctionTestCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()
        self.ch.confirm_delivery()

    def test_results_go_to_an_exchange_and_key(self):
        function = self.deploy(BUSYBOX, args=["sha256sum"])
        exchange, output = self.name("x"), self.durable_queue(self.ch)
        self.ch.exchange_declare(exchange, "topic", durable=True)
        self.ch.queue_bind(output, exchange, "results.*")
        queue, _, _ = self.subscribe(function, result={"exchange": exchange, "routing_key": "results.sha"})
        inputs = [f"input {number}".encode() * 100 for number in range(100)]
        for data in inputs:
            self.ch.basic_publish("", queue, data, PERSISTENT)
        results = [body for _, _, body in self.collect(self.ch, output, len(inputs))]
        self.assertEqual(sorted(results), sorted(map(sha256sum, inputs)))
        self.assert_ready(self.ch, queue, 0)

    def test_large_messages(self):
        """In and out; they are more together than may be in RAM at a time."""
        function = self.deploy(BUSYBOX, args=["sha256sum"], timeout_ms=60000,
                               memory_bytes=256 << 20)
        queue, output, _ = self.subscribe(function)
        inputs = [bytes([number]) * ((50 << 20) + number) for number in range(8)]
        for data in inputs:
            self.ch.basic_publish("", queue, data, PERSISTENT)
        results = [body for _, _, body in self.collect(self.ch, output, len(inputs), 120)]
        self.assertEqual(sorted(results), sorted(map(sha256sum, inputs)))
        queue, output, _ = self.subscribe(self.deploy("echo"))
        data = bytes(range(256)) * 10_000
        self.ch.basic_publish("", queue, data, PERSISTENT)
        self.assertTrue(self.get(self.ch, output, 30)[2] == data)

    def test_results_carry_the_correlation_id(self):
        queue, output, _ = self.subscribe(self.deploy("echo"))
        self.ch.basic_publish("", queue, b"m", pika.BasicProperties(
            delivery_mode=2, correlation_id="c-9"))
        _, properties, body = self.get(self.ch, output, 30)
        self.assertEqual((properties.correlation_id, body), ("c-9", b"m"))

    def test_rpc_by_reply_to(self):
        queue, _, _ = self.subscribe(self.deploy(BUSYBOX, args=["sha256sum"]), result=None)
        replies = self.exclusive_queue(self.ch)
        expected = {}
        for number in range(50):
            data = f"request {number}".encode()
            expected[str(number)] = sha256sum(data)
            self.ch.basic_publish("", queue, data, pika.BasicProperties(
                reply_to=replies, correlation_id=str(number)))
        answers = {properties.correlation_id: body
                   for _, properties, body in self.collect(self.ch, replies, 50)}
        self.assertEqual(answers, expected)

    def test_rpc_by_amqplib(self):
        queue, _, _ = self.subscribe(self.deploy(BUSYBOX, args=["sha256sum"]), result=None)
        done = subprocess.run(
            ["node", str(HERE / "node" / "flows.js"),
             f"amqp://{self.broker.host}:{self.broker.port}", "rpc", queue, "from node"],
            capture_output=True, timeout=60, check=False)
        self.assertEqual((done.stdout, done.returncode), (sha256sum(b"from node"), 0), done.stderr)

    def test_reply_to_wins_over_the_result_destination(self):
        queue, output, _ = self.subscribe(self.deploy("echo"))
        replies = self.exclusive_queue(self.ch)
        self.ch.basic_publish("", queue, b"m", pika.BasicProperties(reply_to=replies))
        self.assertEqual(self.get(self.ch, replies, 30)[2], b"m")
        self.assertEqual(self.ready(self.ch, output), 0)

    def test_a_reply_queue_that_is_gone_costs_nothing(self):
        queue, _, subscription = self.subscribe(self.deploy("echo"))
        self.ch.basic_publish("", queue, b"m", pika.BasicProperties(reply_to=self.name()))
        self.await_counter(subscription, lambda s: s["succeeded"] == 1, "the call to succeed")
        self.assert_ready(self.ch, queue, 0)

    def test_messages_that_were_there_before_the_subscription(self):
        queue = self.durable_queue(self.ch)
        for number in range(30):
            self.ch.basic_publish("", queue, str(number).encode(), PERSISTENT)
        _, output, _ = self.subscribe(self.deploy("echo"), queue=queue)
        results = {int(body) for _, _, body in self.collect(self.ch, output, 30)}
        self.assertEqual(results, set(range(30)))

    def test_concurrency_one_keeps_the_order(self):
        queue, output, _ = self.subscribe(self.deploy("echo"), concurrency=1)
        for number in range(100):
            self.ch.basic_publish("", queue, str(number).encode(), PERSISTENT)
        results = [int(body) for _, _, body in self.collect(self.ch, output, 100)]
        self.assertEqual(results, list(range(100)))

    def test_a_new_version_takes_over_while_messages_flow(self):
        function = self.deploy(BUSYBOX, args=["sh", "-c", "read x; echo one $x"])
        queue, output, _ = self.subscribe(function)
        for number in range(50):
            self.ch.basic_publish("", queue, b"%d\n" % number, PERSISTENT)
        self.admin.deploy(function, BUSYBOX, args=["sh", "-c", "read x; echo two $x"])
        self.await_function(function)
        for number in range(50, 100):
            self.ch.basic_publish("", queue, b"%d\n" % number, PERSISTENT)
        results = [body.split() for _, _, body in self.collect(self.ch, output, 100)]
        self.assertEqual(sorted(int(n) for _, n in results), list(range(100)))
        late = {version for version, number in results if int(number) >= 50}
        self.assertEqual(late, {b"two"})

    def test_pause_and_resume(self):
        queue, output, subscription = self.subscribe(self.deploy("echo"))
        self.admin.post(f"subscriptions/{subscription}/pause")
        self.await_counter(subscription, lambda s: s["state"] == "paused", "the pause")
        for number in range(10):
            self.ch.basic_publish("", queue, str(number).encode(), PERSISTENT)
        self.assertEqual(self.ready(self.ch, queue), 10)
        self.admin.post(f"subscriptions/{subscription}/resume")
        self.collect(self.ch, output, 10)

    def test_deleting_a_subscription_leaves_the_messages(self):
        queue, output, subscription = self.subscribe(self.deploy("echo"))
        self.admin.delete(f"subscriptions/{subscription}")
        self.ch.basic_publish("", queue, b"m", PERSISTENT)
        self.assertEqual(self.ready(self.ch, queue), 1)
        self.assertEqual(self.ready(self.ch, output), 0)

    def test_deleting_a_subscription_returns_its_messages_in_flight(self):
        queue, _, subscription = self.subscribe(self.deploy("loop", timeout_ms=60000))
        for number in range(3):
            self.ch.basic_publish("", queue, str(number).encode(), PERSISTENT)
        self.await_counter(subscription, lambda s: s["in_flight"] == 3, "three calls in flight")
        self.admin.delete(f"subscriptions/{subscription}")
        self.assert_ready(self.ch, queue, 3)
        bodies = [self.get(self.ch, queue, auto_ack=True)[2] for _ in range(3)]
        self.assertEqual(bodies, [b"0", b"1", b"2"])

    def test_a_queue_that_does_not_exist_is_refused(self):
        with self.assertRaises(AdminError) as caught:
            self.admin.subscribe(self.name("s"), self.name(), self.deploy("echo"))
        self.assertIn(caught.exception.status, (404, 422))

    def test_a_slow_function_does_not_hold_up_another(self):
        slow_queue, _, _ = self.subscribe(self.deploy("loop", timeout_ms=20000), concurrency=1)
        queue, output, _ = self.subscribe(self.deploy("echo"))
        self.ch.basic_publish("", slow_queue, b"m", PERSISTENT)
        for number in range(20):
            self.ch.basic_publish("", queue, str(number).encode(), PERSISTENT)
        self.collect(self.ch, output, 20, timeout_s=10)


if __name__ == "__main__":
    harness.main()
