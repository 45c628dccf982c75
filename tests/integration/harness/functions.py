"""The TestCase of tests about functions: guest programs, deploying, subscribing, collecting."""

import os
import pathlib
import unittest

import pika

from .admin import Admin
from .broker import Sluiced, build_dir, testing_rabbitmq
from .case import BrokerTestCase
from .wait import await_until

BUSYBOX = "/bin/busybox"
# Functions that tests deploy by what they do: a program and its arguments.
PROGRAMS = {
    "exit_status": (BUSYBOX, ["sh", "-c", "read x; exit $x"]),
    "loop": ("misbehave", ["loop"]),
    "crash_null": ("misbehave", ["null"]),
    "crash_ud2": ("misbehave", ["ud2"]),
    "crash_div": ("misbehave", ["divide"]),
    "memory_hog": ("misbehave", ["hog"]),
    "stdout_flood": ("misbehave", ["flood-stdout"]),
    "forbidden_call": ("misbehave", ["ptrace"]),
}
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def guest(name):
    """The path of a test guest that the build makes, e.g. `echo`."""
    if os.sep in name:
        return pathlib.Path(name)
    folder = pathlib.Path(os.environ.get("GUESTS", str(build_dir() / "tests" / "guests")))
    path = folder / name
    if not path.exists():
        raise AssertionError(f"guest program {path} is missing: build it")
    return path


def executor_arguments():
    """For a sluiced whose calls are plain processes (fake_executor.cc), so that tests of the broker's
    side need no sandbox; TEST_EXECUTOR=real runs them in sandboxes."""
    if os.environ.get("TEST_EXECUTOR") == "real":
        return []
    program = build_dir() / "tests" / "integration" / "fake_executor"
    if not program.exists():
        raise AssertionError(f"{program} is missing: build it")
    return ["--executor", str(program)]


class FunctionTestCase(BrokerTestCase):
    """Has `self.admin`. Tests of a class with `own_broker` may kill it."""

    @classmethod
    def setUpClass(cls):
        if testing_rabbitmq():
            raise unittest.SkipTest("functions are Sluice's own")

    def make_broker(self):
        broker = Sluiced()
        broker.start()
        return broker

    @property
    def admin(self):
        return Admin(self.broker.admin_url)

    def deploy(self, image, **config):
        """Deploys under a new name and waits until it can be called; returns the name."""
        name = self.name("f")
        program, args = PROGRAMS.get(image, (image, config.pop("args", [])))
        self.admin.deploy(name, guest(program), args=args, **config)
        self.await_function(name)
        return name

    def await_function(self, name, states=("ready",), timeout_s=30):
        def settled():
            function = self.admin.get(f"functions/{name}")
            if function["state"] in ("loading", "unloaded") and function["state"] not in states:
                return None
            self.assertIn(function["state"], states, function.get("state_reason"))
            return function
        return await_until(settled, timeout_s, f"function {name} to be loaded")

    def subscribe(self, function, queue=None, result="queue", **settings):
        """Subscribes a function to a new durable queue, its results going to another one, to a
        destination {exchange, routing_key}, or nowhere (None).

        Returns (queue, result queue or None, subscription).
        """
        channel = self.channel()
        queue = queue or self.durable_queue(channel)
        output = None
        if result == "queue":
            output = self.durable_queue(channel)
            result = {"exchange": "", "routing_key": output}
        subscription = self.name("s")
        self.admin.subscribe(subscription, queue, function, result=result, **settings)
        channel.connection.close()
        return queue, output, subscription

    def dead_letters(self, channel, queue, count, timeout_s=30):
        """Takes `count` messages of a queue's default dead-letter queue."""
        return [self.get(channel, f"{queue}.dead-letter", timeout_s, auto_ack=True)
                for _ in range(count)]

    def collect(self, channel, queue, count, timeout_s=60):
        """Takes `count` messages: [(method, properties, body)]."""
        return [self.get(channel, queue, timeout_s, auto_ack=True) for _ in range(count)]

    def await_counter(self, subscription, condition, what, timeout_s=30):
        return await_until(lambda: condition(self.admin.subscription(subscription)), timeout_s,
                           lambda: f"{what}; now {self.admin.subscription(subscription)}")
