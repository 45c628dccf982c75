"""Several shards: what one of them does while others work."""

import os
import random
import threading

import pika

import harness

SHARDS = 4
PERSISTENT = pika.BasicProperties(delivery_mode=2)


class Names(harness.BrokerTestCase):
    own_broker = True

    def make_broker(self):
        broker = harness.Sluiced(["--shards", str(SHARDS)])
        broker.start()
        return broker

    def test_names_change_under_load(self):
        """Messages flow, each publisher's in order, while queues and bindings come and go."""
        seed = int(os.environ.get("SLUICE_SEED", str(random.SystemRandom().randrange(1 << 32))))
        print(f"SLUICE_SEED={seed} ", end="", flush=True)
        rng = random.Random(seed)
        queues, count = 8, 3000
        channel = self.channel()
        channel.exchange_declare("load", "topic", durable=True)
        for number in range(queues):
            channel.queue_declare(f"load-{number}", durable=True)
            channel.queue_bind(f"load-{number}", "load", f"{number}.#")
        done = threading.Event()
        failures = []

        def guarded(work, *arguments):
            def run():
                try:
                    work(*arguments)
                except Exception as error:  # pylint: disable=broad-except
                    failures.append(error)
                    done.set()
            thread = threading.Thread(target=run)
            thread.start()
            return thread

        def publish(name):
            publisher = self.channel()
            publisher.confirm_delivery()
            for number in range(count // 3):
                publisher.basic_publish("load", f"{number % queues}.{name}",
                                        f"{name} {number}".encode(), PERSISTENT, mandatory=True)

        found = {number: [] for number in range(queues)}

        def consume(numbers):
            consumer = self.channel()
            consumer.basic_qos(prefetch_count=20)
            for number in numbers:
                def got(_channel, method, _properties, body, number=number):
                    found[number].append(body.decode())
                    consumer.basic_ack(method.delivery_tag)
                consumer.basic_consume(f"load-{number}", got)
            while not done.is_set():
                consumer.connection.process_data_events(time_limit=0.05)
            consumer.connection.close()

        def churn(name, random_numbers):
            churner = self.channel()
            while not done.is_set():
                queue = churner.queue_declare("", exclusive=True).method.queue
                churner.queue_bind(queue, "load", f"{random_numbers.randrange(queues)}.#")
                tag = churner.basic_consume(queue, lambda *_: None, auto_ack=True)
                if random_numbers.random() < 0.5:
                    churner.basic_cancel(tag)
                churner.queue_declare(f"load-{random_numbers.randrange(queues)}", passive=True)
                churner.exchange_declare(f"churn-{name}", "fanout")
                churner.exchange_delete(f"churn-{name}")
                churner.queue_delete(queue)
            churner.connection.close()

        threads = [guarded(consume, [n for n in range(queues) if n % 2 == half])
                   for half in range(2)]
        threads += [guarded(churn, name, random.Random(rng.getrandbits(32))) for name in range(2)]
        publishers = [guarded(publish, f"p{number}") for number in range(3)]
        for thread in publishers:
            thread.join(timeout=120)
        try:
            harness.await_until(
                lambda: failures or sum(map(len, found.values())) == count // 3 * 3, 60,
                lambda: f"all messages; {sum(map(len, found.values()))} of {count} came")
        finally:
            done.set()
            for thread in threads:
                thread.join(timeout=30)
        self.assertEqual(failures, [])
        for number, bodies in found.items():
            for publisher in ("p0", "p1", "p2"):
                of_publisher = [int(body.split()[1]) for body in bodies
                                if body.startswith(publisher)]
                self.assertEqual(of_publisher, list(range(number, count // 3, queues)))


if __name__ == "__main__":
    harness.main()
