"""Functions in the languages that people write them in, deployed with the command line as a user
would: the examples of the SDK, and interpreters from Debian's packages."""

import json
import pathlib
import subprocess
import tempfile
import unittest

import pika

import harness
from harness.functions import FunctionTestCase

SOURCE = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = SOURCE / "sdk" / "examples"


class LanguageTestCase(FunctionTestCase):
    def sluice(self, *arguments, stdin=b"", expected=0):
        """Runs the command line against this broker; returns what it printed."""
        done = subprocess.run(
            [str(harness.build_dir() / "tools" / "cli" / "sluice"), "--admin",
             self.broker.admin_url.replace("//", "//guest:guest@"), *arguments],
            input=stdin, capture_output=True, timeout=120, check=False)
        self.assertEqual(done.returncode, expected, (arguments, done.stdout, done.stderr))
        return done

    def deploy_by(self, *options):
        name = self.name("f")
        self.sluice("function", "deploy", name, *options)
        self.await_function(name)
        return name

    def invoke(self, name, text):
        return self.sluice("function", "invoke", name, "-", stdin=text.encode()).stdout.decode()

    def example(self, name):
        return self.deploy_by("--image", str(harness.build_dir() / "sdk" / name))


class Examples(LanguageTestCase):
    def test_c_fails_bad_records_of_a_batch_alone(self):
        name = self.example("validate")
        self.assertTrue(self.admin.get(f"functions/{name}")["protocol"])
        queue, results, _ = self.subscribe(name, batch_size=10, batch_window_ms=200, max_attempts=1)
        channel = self.channel()
        for i in range(20):
            body = f"A-{i} {i}.50 EUR" if i % 5 else f"order {i}"
            channel.basic_publish("", queue, body.encode())
        good = [json.loads(body) for _, _, body in self.collect(channel, results, 16)]
        self.assertEqual(sorted(order["cents"] for order in good),
                         [i * 100 + 50 for i in range(20) if i % 5])
        letters = self.dead_letters(channel, queue, 4)
        self.assertEqual(sorted(body for _, _, body in letters),
                         [b"order 0", b"order 10", b"order 15", b"order 5"])

    def test_cc_keeps_state_that_it_is_given(self):
        name = self.example("totals")
        with tempfile.TemporaryDirectory() as folder:
            state = pathlib.Path(folder) / "state"
            state.write_text("1000")
            self.sluice("function", "invoke", name, "-", "--state", str(state), "--state-out",
                        str(state), stdin=b"250")
            self.assertEqual(state.read_text(), "1250")

    def test_go_sends_messages_on(self):
        name = self.example("route")
        done = self.sluice("-o", "json", "function", "invoke", name, "-",
                           stdin=b'{"type":"payment","region":"eu","alarm":true}')
        outputs = json.loads(done.stdout)["answer"]["outputs"]
        self.assertEqual([o["routing_key"] for o in outputs], ["payment.eu", "on-duty"])
        refused = self.sluice("function", "invoke", name, "-", stdin=b"nonsense", expected=1)
        self.assertIn(b"invalid character", refused.stderr)

    def test_python_handles_records(self):
        name = self.deploy_by("--from-packages", "python3", "--file", str(EXAMPLES / "enrich.py"),
                              "--arg=-m", "--arg", "sluice", "--arg", "/app/enrich.py:handle")
        line = '10.0.0.7 - ann [23/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 512'
        result = json.loads(self.invoke(name, line))
        self.assertEqual((result["host"], result["status"], result["bytes"]), ("10.0.0.7", 200, 512))
        refused = self.sluice("function", "invoke", name, "-", stdin=b"nonsense", expected=1)
        self.assertIn(b"web server's log", refused.stderr)
        # Its imports were paid for once: a call is one exit.
        again = json.loads(self.sluice("-o", "json", "function", "invoke", name, "-",
                                       stdin=line.encode()).stdout)
        self.assertLessEqual(again["exits"], 2)


class Packages(LanguageTestCase):
    def test_python3_as_a_plain_program(self):
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write("import sys, json, hashlib, threading\n"
                         "text = sys.stdin.read()\n"
                         "found = []\n"
                         "thread = threading.Thread(target=lambda: found.append(hashlib.sha256(text.encode())"
                         ".hexdigest()))\n"
                         "thread.start(); thread.join()\n"
                         "print(json.dumps({'length': len(text), 'sha256': found[0]}))\n")
            script.flush()
            name = self.deploy_by("--from-packages", "python3", "--file", f"{script.name}:/app/main.py",
                                  "--arg", "/app/main.py")
        for _ in range(2):
            result = json.loads(self.invoke(name, "hello"))
            self.assertEqual(result["length"], 5)
            self.assertTrue(result["sha256"].startswith("2cf24dba5fb0"))

    def test_jq(self):
        name = self.deploy_by("--from-packages", "jq", "--arg=-c", "--arg", "{id, n: (.n * 2)}")
        self.assertEqual(self.invoke(name, '{"id": 1, "n": 21, "x": 0}'), '{"id":1,"n":42}\n')

    def test_perl(self):
        name = self.deploy_by("--from-packages", "perl", "--arg=-MJSON::PP", "--arg=-ne",
                              "--arg", "print uc($_), JSON::PP->new->encode([length])")
        self.assertEqual(self.invoke(name, "hello"), "HELLO[5]")

    def test_lua(self):
        name = self.deploy_by("--from-packages", "lua5.4", "--arg=-e",
                              "--arg", "io.write(io.read('a'):reverse())")
        self.assertEqual(self.invoke(name, "abc"), "cba")

    def test_a_subscription_of_jq(self):
        name = self.deploy_by("--from-packages", "jq", "--arg=-c", "--arg", ".n")
        queue, results, _ = self.subscribe(name)
        channel = self.channel()
        for i in range(50):
            channel.basic_publish("", queue, json.dumps({"n": i}).encode(),
                                  pika.BasicProperties(delivery_mode=2))
        self.assertEqual(sorted(int(body) for _, _, body in self.collect(channel, results, 50)), list(range(50)))

    def test_show_and_top_tell_of_its_sandboxes(self):
        name = self.deploy_by("--from-packages", "lua5.4", "--arg=-e",
                              "--arg", "io.write(io.read('a'):reverse())")
        for _ in range(5):
            self.invoke(name, "abc")

        def counted():
            stats = self.admin.get(f"functions/{name}")["stats"]
            return stats if stats and stats["calls"] >= 5 else None
        stats = harness.await_until(counted, 30, "the function's statistics")
        self.assertGreaterEqual(stats["warm_hits"] + stats["cold_starts"], 5)
        self.assertGreaterEqual(stats["exits"], 5)
        self.assertGreaterEqual(stats["dirty_pages"], 5)
        shown = self.sluice("function", "show", name).stdout.decode()
        self.assertIn("sandboxes", shown.lower())
        self.assertIn(name, self.sluice("top", "--once").stdout.decode())


if __name__ == "__main__":
    unittest.main(verbosity=2)
