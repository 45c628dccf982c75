"""Calls that fail: retried with back-off, then dead-lettered with the reason in the headers."""

import pika

import harness
from harness.functions import BUSYBOX, PERSISTENT, FunctionTestCase


class Failures(FunctionTestCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()
        self.ch.confirm_delivery()

    def dead_letter_of(self, image, body=b"poison", config=None, **settings):
        """Publishes one message to a function that fails it; returns what is dead-lettered."""
        settings = {"max_attempts": 2, "backoff_min_ms": 20, "backoff_max_ms": 50, **settings}
        function = self.deploy(image, **(config or {}))
        queue, output, subscription = self.subscribe(function, **settings)
        self.ch.basic_publish("", queue, body, pika.BasicProperties(
            delivery_mode=2, message_id="m-1", headers={"mine": "kept"}))
        method, properties, received = self.dead_letters(self.ch, queue, 1, timeout_s=60)[0]
        self.assertEqual(received, body)
        self.assertEqual(properties.message_id, "m-1")
        self.assertEqual(properties.delivery_mode, 2)
        self.assertEqual(properties.headers["mine"], "kept")
        self.assertEqual(properties.headers["x-sluice-function"], function)
        self.assertEqual(properties.headers["x-sluice-attempts"], settings["max_attempts"])
        self.assertGreater(len(properties.headers["x-sluice-error"]), 5)
        self.assert_ready(self.ch, queue, 0)
        self.assertEqual(self.ready(self.ch, output), 0, "a failed call has no result")
        counters = self.admin.subscription(subscription)
        self.assertEqual(counters["dead_lettered"], 1)
        self.assertEqual(counters["failed"], settings["max_attempts"])
        self.assertEqual(counters["retried"], settings["max_attempts"] - 1)
        return queue, properties.headers

    def test_the_headers_tell_the_whole_story(self):
        queue, headers = self.dead_letter_of(
            BUSYBOX, config={"args": ["sh", "-c", "read x; echo no good >&2; exit 3"]},
            max_attempts=3)
        self.assertEqual(headers["x-sluice-outcome"], "exit_status")
        self.assertIn("3", headers["x-sluice-error"])
        self.assertEqual(_text(headers["x-sluice-log"]), "no good\n")
        death = headers["x-death"][0]
        self.assertEqual((death["queue"], death["reason"], death["count"]), (queue, "rejected", 1))
        self.assertEqual((death["exchange"], death["routing-keys"]), ("", [queue]))
        self.assertIn("time", death)
        self.assertEqual(headers["x-first-death-queue"], queue)
        self.assertEqual(headers["x-first-death-reason"], "rejected")
        self.assertEqual(headers["x-first-death-exchange"], "")

    def test_a_message_too_large_for_a_function(self):
        limit = 64 << 20
        _, headers = self.dead_letter_of(BUSYBOX, body=bytes(limit + 1), config={"args": ["true"]})
        self.assertEqual(headers["x-sluice-outcome"], "input_limit")
        self.assertIn(str(limit), headers["x-sluice-error"])

    def test_each_way_to_fail_is_named(self):
        for outcome, image, config in (
                ("timeout", "loop", {"timeout_ms": 200}), ("exception", "crash_null", {}),
                ("exception", "crash_ud2", {}), ("exception", "crash_div", {}),
                ("memory_limit", "memory_hog", {"memory_bytes": 32 << 20, "timeout_ms": 20000}),
                ("output_limit", "stdout_flood", {"timeout_ms": 20000}),
                ("forbidden_syscall", "forbidden_call", {})):
            with self.subTest(image=image):
                _, headers = self.dead_letter_of(image, config=config)
                self.assertEqual(headers["x-sluice-outcome"], outcome)

    def test_only_the_last_bytes_of_a_long_log_are_kept(self):
        _, headers = self.dead_letter_of(BUSYBOX, config={"args": [
            "sh", "-c", "read x; i=0; while [ $i -lt 5000 ]; do echo line $i >&2; "
            "i=$((i+1)); done; exit 1"], "timeout_ms": 30000}, max_attempts=1)
        log = _text(headers["x-sluice-log"])
        self.assertTrue(log.rstrip().endswith("line 4999"), log[-200:])
        self.assertLessEqual(len(log), 65536)

    def test_to_an_exchange_of_ones_own(self):
        exchange, failed = self.name("x"), self.durable_queue(self.ch)
        self.ch.exchange_declare(exchange, "direct", durable=True)
        self.ch.queue_bind(failed, exchange, "failed")
        queue, _, _ = self.subscribe(
            self.deploy("crash_null"), max_attempts=1,
            on_failure={"exchange": exchange, "routing_key": "failed"})
        self.ch.basic_publish("", queue, b"m", PERSISTENT)
        method, properties, _ = self.get(self.ch, failed, 30)
        self.assertEqual((method.exchange, method.routing_key), (exchange, "failed"))
        self.assertEqual(properties.headers["x-sluice-outcome"], "exception")

    def test_retries_back_off(self):
        function = self.deploy("exit_status")
        queue, _, subscription = self.subscribe(
            function, max_attempts=4, backoff_min_ms=200, backoff_max_ms=2000)
        self.ch.basic_publish("", queue, b"1", PERSISTENT)
        self.dead_letters(self.ch, queue, 1, timeout_s=60)
        times = [entry["time_ms"] for entry in self.admin.logs(function)
                 if entry["source"] == f"subscription {subscription}"]
        self.assertEqual(len(times), 4)
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        # 200, 400 and 800 ms, a jitter of up to a half allowed for.
        for gap, least in zip(gaps, (95, 190, 380)):
            self.assertGreaterEqual(gap, least, gaps)
        attempts = [entry["attempt"] for entry in self.admin.logs(function)]
        self.assertEqual(attempts, [1, 2, 3, 4])

    def test_a_poison_message_does_not_hold_up_the_others(self):
        function = self.deploy("exit_status")
        queue, output, _ = self.subscribe(
            function, concurrency=1, max_attempts=3, backoff_min_ms=2000, backoff_max_ms=2000)
        self.ch.basic_publish("", queue, b"9", PERSISTENT)
        for _ in range(10):
            self.ch.basic_publish("", queue, b"0", PERSISTENT)
        self.collect(self.ch, output, 10, timeout_s=2.0)
        self.dead_letters(self.ch, queue, 1, timeout_s=30)

    def test_none_is_lost_among_successes_and_failures(self):
        function = self.deploy("exit_status")
        queue, output, subscription = self.subscribe(
            function, concurrency=8, max_attempts=2, backoff_min_ms=10, backoff_max_ms=20)
        for number in range(300):
            self.ch.basic_publish("", queue, b"1" if number % 3 == 0 else b"0",
                                  pika.BasicProperties(delivery_mode=2, correlation_id=str(number)))
        results = {int(p.correlation_id) for _, p, _ in self.collect(self.ch, output, 200)}
        failures = {int(p.correlation_id)
                    for _, p, _ in self.dead_letters(self.ch, queue, 100, timeout_s=60)}
        self.assertEqual(failures, set(range(0, 300, 3)))
        self.assertEqual(results, set(range(300)) - failures)
        counters = self.await_counter(
            subscription, lambda s: s["in_flight"] == 0 and s["waiting_retry"] == 0 and s,
            "nothing to be in flight")
        self.assertEqual((counters["calls"], counters["succeeded"], counters["failed"]),
                         (400, 200, 200))

    def test_a_bad_function_leaves_the_broker_serving(self):
        queue, _, _ = self.subscribe(self.deploy("loop", timeout_ms=300), concurrency=4,
                                     max_attempts=1)
        for _ in range(8):
            self.ch.basic_publish("", queue, b"m", PERSISTENT)
        self.assert_serving()
        self.dead_letters(self.ch, queue, 8, timeout_s=60)


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    harness.main()
