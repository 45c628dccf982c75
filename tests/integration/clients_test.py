"""Clients that others wrote, unmodified: amqplib (npm), librabbitmq and amqp-tools."""

import os
import pathlib
import subprocess

import harness

HERE = pathlib.Path(__file__).resolve().parent


class ClientCase(harness.BrokerTestCase):
    def url(self):
        return f"amqp://guest:guest@{self.broker.host}:{self.broker.port}/%2F"

    def run_client(self, *command, data=b"", timeout_s=60):
        """Runs a client to its end, which has to be a success, and returns its stdout."""
        done = subprocess.run(command, input=data, capture_output=True, timeout=timeout_s, check=False)
        self.assertEqual(done.returncode, 0,
                         f"{' '.join(map(str, command))}:\n{done.stderr.decode()}{done.stdout.decode()}")
        return done.stdout


class Amqplib(ClientCase):
    def flow(self, name, *arguments):
        node_modules = HERE / "node" / "node_modules"
        self.assertTrue(node_modules.is_dir(),
                        f"amqplib is missing; `npm ci` in {HERE / 'node'} brings it")
        return self.run_client("node", str(HERE / "node" / "flows.js"), self.url(), name, *arguments)

    def test_publish_and_consume(self):
        self.flow("publish_and_consume")

    def test_exchanges(self):
        self.flow("exchanges")

    def test_acknowledge_and_reject(self):
        self.flow("acknowledge_and_reject")

    def test_prefetch(self):
        self.flow("prefetch")

    def test_mandatory(self):
        self.flow("mandatory")

    def test_channel_errors(self):
        self.flow("channel_errors")

    def test_deleted_queue_cancels_consumer(self):
        self.flow("deleted_queue_cancels_consumer")

    def test_many_messages(self):
        self.flow("many_messages")


class Librabbitmq(ClientCase):
    def test_all_flows(self):
        binary = os.environ.get("LIBRABBITMQ_CLIENT", str(
            harness.build_dir() / "tests" / "integration" / "librabbitmq_client"))
        output = self.run_client(binary, self.broker.host, str(self.broker.port)).decode()
        self.assertEqual(output.splitlines(),
                         ["publish and consume", "topic and get", "confirms", "channel error"])


class AmqpTools(ClientCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()

    def tool(self, name, *arguments, data=b""):
        return self.run_client(f"amqp-{name}", f"--url={self.url()}", *arguments, data=data)

    def test_declare_publish_get_delete(self):
        queue = self.name()
        declared = self.tool("declare-queue", "--queue", queue, "--durable")
        self.assertEqual(declared.decode().strip(), queue)
        self.ch.queue_declare(queue, durable=True)
        self.tool("publish", "--routing-key", queue, "--persistent", "--body", "hello")
        self.assert_ready(self.ch, queue, 1)
        self.assertEqual(self.tool("get", "--queue", queue), b"hello")
        self.assertEqual(self.tool("delete-queue", "--queue", queue).decode().strip(), "0")

    def test_get_from_an_empty_queue_ends_with_status_2(self):
        queue = self.durable_queue(self.ch)
        done = subprocess.run(["amqp-get", f"--url={self.url()}", "--queue", queue],
                              capture_output=True, timeout=30, check=False)
        self.assertEqual((done.returncode, done.stdout), (2, b""))
        self.ch.queue_delete(queue)

    def test_publish_from_stdin_line_by_line_and_consume(self):
        queue = self.durable_queue(self.ch)
        lines = [f"line {number}\n".encode() for number in range(50)]
        self.tool("publish", "--routing-key", queue, "--line-buffered", data=b"".join(lines))
        self.assert_ready(self.ch, queue, 50)
        consumed = self.tool("consume", "--queue", queue, "--count", "50", "cat")
        self.assertEqual(consumed.replace(b"\n", b""), b"".join(lines).replace(b"\n", b""))
        self.assert_ready(self.ch, queue, 0)
        self.ch.queue_delete(queue)

    def test_consume_binds_its_own_queue_to_an_exchange(self):
        exchange = self.name("x")
        self.ch.exchange_declare(exchange, "direct")
        self.addCleanup(self.ch.exchange_delete, exchange)
        consumer = subprocess.Popen(
            ["amqp-consume", f"--url={self.url()}", "--exchange", exchange, "--routing-key", "k",
             "--count", "1", "cat"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(consumer.kill)
        returned = []
        self.ch.add_on_return_callback(lambda *_: returned.append(1))

        def consumed():
            # Unroutable until the consumer has bound its queue.
            if consumer.poll() is None:
                self.ch.basic_publish(exchange, "k", b"for the consumer", mandatory=True)
                self.ch.connection.process_data_events(0.01)
            return consumer.poll() is not None
        harness.await_until(consumed, what="amqp-consume to end")
        output, errors = consumer.communicate()
        self.assertEqual((consumer.returncode, output), (0, b"for the consumer"), errors)


if __name__ == "__main__":
    harness.main()
