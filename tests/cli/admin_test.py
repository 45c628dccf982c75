#!/usr/bin/python3
"""Drives the built `sluice` against an admin server of our own: what it asks of broker/admin/API.md,
what it prints, how it ends.   admin_test.py SLUICE [unittest's arguments]"""

import base64
import email
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest

SLUICE = sys.argv.pop(1)


class FakeAdmin(http.server.ThreadingHTTPServer):
    """Answers with what a test has put into `answers`, and keeps what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}  # (method, path) -> (status, object) or a function of the path
        self.requests = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, user="guest:guest"):
        return f"http://{user}@127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, self.headers, body))
        wanted = "Basic " + base64.b64encode(b"guest:guest").decode()
        if self.headers.get("Authorization") != wanted:
            status, value = 401, {"error": "unauthorized", "reason": "no"}
        else:
            missing = (404, {"error": "not_found", "reason": f"no {self.path}"})
            status, value = self.server.answers.get((self.command, self.path), missing)
        text = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


class CommandLineTest(unittest.TestCase):
    def setUp(self):
        self.admin = FakeAdmin()
        self.addCleanup(self.admin.server_close)
        self.addCleanup(self.admin.shutdown)

    def on(self, method, path, status, value=None):
        self.admin.answers[(method, path)] = (status, value)

    def sluice(self, *arguments, status=0, stdin=b"", environment=None):
        """stdout and stderr, as bytes and text."""
        environment = {**os.environ, "SLUICE_ADMIN": self.admin.url(), **(environment or {})}
        done = subprocess.run([SLUICE, *arguments], input=stdin, capture_output=True, timeout=30,
                              env=environment, check=False)
        self.assertEqual(done.returncode, status, done.stderr.decode(errors="replace"))
        return done.stdout, done.stderr.decode(errors="replace")

    def asked(self):
        """The last request: method, path and body as JSON."""
        method, path, _, body = self.admin.requests[-1]
        return method, path, json.loads(body) if body else None


class Usage(CommandLineTest):
    def test_version_and_help_succeed(self):
        self.assertRegex(self.sluice("--version")[0], rb"^sluice \d+\.\d+\.\d+\n$")
        self.assertIn(b"subscription", self.sluice("--help")[0])
        self.assertIn(b"--max-attempts", self.sluice("subscription", "create", "--help")[0])

    def test_mistakes_on_the_command_line_end_with_2_and_ask_nothing(self):
        for line in ([], ["nothing"], ["queue"], ["queue", "declare"], ["queue", "list", "--nope"],
                     ["-o", "xml", "queue", "list"], ["exchange", "declare", "e"],
                     ["exchange", "declare", "e", "--type", "nope"],
                     ["queue", "declare", "q", "--arg", "novalue"],
                     ["function", "deploy", "f", "--image", "/does/not/exist"],
                     ["function", "deploy", "f", "--image", "/bin/sh", "--memory", "64Mib"],
                     ["function", "deploy", "f", "--image", "/bin/sh", "--timeout", "5"],
                     ["subscription", "create", "s", "--queue", "q"],
                     ["subscription", "create", "s", "--queue", "q", "--function", "f", "--result", "q"],
                     ["subscription", "create", "s", "--queue", "q", "--function", "f",
                      "--backoff", "30s..1s"],
                     ["subscription", "create", "s", "--queue", "q", "--function", "f",
                      "--concurrency", "0"],
                     ["publish"], ["publish", "--queue", "q", "--exchange", "e"],
                     ["publish", "--queue", "q", "--lines", "--count", "2"],
                     ["publish", "--queue", "q", "--count", "0"],
                     ["publish", "--queue", "q", "--rate", "0"],
                     ["publish", "--queue", "q" * 256], ["consume"]):
            with self.subTest(line=line):
                stdout, stderr = self.sluice(*line, status=2)
                self.assertEqual(stdout, b"")
                self.assertNotEqual(stderr, "")
        self.assertEqual(self.admin.requests, [])

    def test_global_flags_are_taken_anywhere(self):
        self.on("GET", "/api/queues/%2F", 200, [])
        self.assertEqual(json.loads(self.sluice("-o", "json", "queue", "list")[0]), [])
        self.assertEqual(json.loads(self.sluice("queue", "list", "-o", "json")[0]), [])
        self.sluice("queue", "list", "--admin", self.admin.url(),
                    environment={"SLUICE_ADMIN": "http://127.0.0.1:1"})

    def test_a_name_may_be_that_of_a_command(self):
        for name in ("status", "list", "queue"):
            self.on("PUT", f"/api/queues/%2F/{name}", 201)
            self.sluice("queue", "declare", name)


class Failures(CommandLineTest):
    def test_nobody_listens(self):
        self.admin.server_close()
        _, stderr = self.sluice("status", status=1,
                                environment={"SLUICE_ADMIN": "http://u:secret@127.0.0.1:1"})
        self.assertEqual(stderr, "sluice: cannot reach the broker at http://127.0.0.1:1: "
                                 "connection refused; is sluiced running?\n")

    def test_wrong_password(self):
        _, stderr = self.sluice("status", "--admin", self.admin.url("guest:secret"), status=1)
        self.assertIn("refused user 'guest'", stderr)
        self.assertNotIn("secret", stderr)

    def test_the_brokers_reason_is_what_people_read(self):
        for status in (400, 404, 405, 409, 422, 500, 503):
            self.on("GET", "/api/queues/%2F/q", status, {"error": "e", "reason": "Because of X."})
            _, stderr = self.sluice("queue", "show", "q", status=1)
            self.assertEqual(stderr, "sluice: Because of X.\n")

    def test_answers_that_are_no_brokers(self):
        for value in (b"<html>", b"{", b"\xff\xfe"):
            self.on("GET", "/api/functions", 200, value)
            self.assertIn("does not speak JSON", self.sluice("function", "list", status=1)[1])
        self.on("GET", "/api/functions", 500, b"<html>")
        self.assertIn("HTTP status 500", self.sluice("function", "list", status=1)[1])

    def test_objects_of_another_shape_crash_nothing(self):
        for value in ([], {}, [[]], [1], "text", None, {"listeners": 3}, {"executor": "x"}):
            for path, line in (("/api/overview", ["status"]), ("/api/functions", ["function", "list"]),
                               ("/api/functions/f/logs?after=0&wait_ms=0", ["function", "logs", "f"])):
                self.on("GET", path, 200, value)
                environment = {**os.environ, "SLUICE_ADMIN": self.admin.url()}
                done = subprocess.run([SLUICE, *line], capture_output=True, timeout=30,
                                      env=environment, check=False)
                self.assertIn(done.returncode, (0, 1), (value, line))
                self.assertNotIn(b"defect", done.stderr, (value, line))

    def test_a_name_that_is_not_utf8(self):
        _, stderr = self.sluice("subscription", "create", "s", "--queue", b"\xff", "--function", "f",
                                status=1)
        self.assertIn("UTF-8", stderr)


class Queues(CommandLineTest):
    def test_declare(self):
        self.on("PUT", "/api/queues/%2F/a%2Fb%20%C3%A9", 201)
        stdout, _ = self.sluice("queue", "declare", "a/b é", "--arg", "x-max-length=1000",
                                "--arg", "x-overflow=reject-publish", "--arg",
                                "x-single-active-consumer=true", "--auto-delete")
        self.assertEqual(stdout.decode(), "queue 'a/b é' declared\n")
        self.assertEqual(self.asked()[2], {
            "durable": True, "auto_delete": True,
            "arguments": {"x-max-length": 1000, "x-overflow": "reject-publish",
                          "x-single-active-consumer": True}})

    def test_declare_again(self):
        self.on("PUT", "/api/queues/%2F/q", 204)
        self.assertEqual(self.sluice("queue", "declare", "q", "--transient")[0],
                         b"queue 'q' was there already\n")
        self.assertEqual(self.asked()[2]["durable"], False)
        stdout, _ = self.sluice("queue", "declare", "q", "-o", "json")
        self.assertEqual(json.loads(stdout), {"name": "q", "created": False})

    def test_list_is_a_table_that_aligns_and_harms_no_terminal(self):
        self.on("GET", "/api/queues/%2F", 200, [
            {"name": "licences", "messages_ready": 7, "messages_unacknowledged": 0, "consumers": 1,
             "durable": True, "state": "running", "arguments": {"x-max-length": 5}},
            {"name": "evil\x1b[2J", "messages_ready": 1234567, "messages_unacknowledged": 12,
             "consumers": 0, "durable": False, "state": "running", "arguments": {}}])
        self.assertEqual(self.sluice("queue", "list")[0].decode(),
                         "NAME           READY  UNACKED  CONSUMERS  DURABLE  STATE    ARGUMENTS\n"
                         "licences           7        0          1  yes      running  x-max-length=5\n"
                         "evil\\x1b[2J  1234567       12          0  no       running\n")

    def test_json_is_what_the_broker_said(self):
        queue = {"name": "q", "new_field": {"deep": [1, 2.5, None]}, "text": "é\x1b"}
        self.on("GET", "/api/queues/%2F/q", 200, queue)
        self.assertEqual(json.loads(self.sluice("queue", "show", "q", "-o", "json")[0]), queue)

    def test_purge_delete_and_peek(self):
        self.on("DELETE", "/api/queues/%2F/q/contents", 200, {"purged": 42})
        self.assertIn(b"42 ready messages", self.sluice("queue", "purge", "q")[0])
        self.on("DELETE", "/api/queues/%2F/q?if-empty=true&if-unused=true", 204)
        self.sluice("queue", "delete", "q", "--if-empty", "--if-unused")
        self.on("GET", "/api/queues/%2F/q/messages?count=3", 200, [
            {"exchange": "e", "routing_key": "k", "redelivered": False,
             "properties": {"headers": {"file": "GPL"}}, "payload": "line\nline", "payload_bytes": 9,
             "payload_encoding": "string"}])
        stdout, _ = self.sluice("queue", "peek", "q", "--count", "3")
        self.assertIn(b"file=GPL", stdout)
        self.assertIn(b"line\\x0aline", stdout)


class Exchanges(CommandLineTest):
    def test_declare_bind_and_unbind(self):
        self.on("PUT", "/api/exchanges/%2F/e", 201)
        self.sluice("exchange", "declare", "e", "--type", "topic")
        self.assertEqual(self.asked()[2], {"type": "topic", "durable": True, "auto_delete": False,
                                           "internal": False, "arguments": {}})
        self.on("POST", "/api/bindings/%2F/e/e/q/q", 201)
        self.sluice("bind", "e", "q", "--key", "a.#", "--arg", "x-match=all")
        self.assertEqual(self.asked()[2], {"routing_key": "a.#", "arguments": {"x-match": "all"}})
        self.on("DELETE", "/api/bindings/%2F/e/e/q/q?routing_key=a.%23", 204)
        self.sluice("unbind", "e", "q", "--key", "a.#")
        self.on("DELETE", "/api/exchanges/%2F/e", 204)
        self.sluice("exchange", "delete", "e")


class Functions(CommandLineTest):
    def deploy(self, *arguments, answer=None):
        self.on("PUT", "/api/functions/hash", 201, answer or {"name": "hash", "version": 3,
                                                             "state": "ready"})
        with tempfile.NamedTemporaryFile(prefix="image") as image:
            image.write(b"\x7fELF\x00\r\n--binary" * 1000)
            image.flush()
            output = self.sluice("function", "deploy", "hash", "--image", image.name, *arguments)
        _, _, headers, body = self.admin.requests[-1]
        form = email.message_from_bytes(
            b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                 for part in form.get_payload()}
        self.assertEqual(parts["image"], b"\x7fELF\x00\r\n--binary" * 1000)
        config = json.loads(parts["config"])
        self.assertEqual(config.pop("image_name"), os.path.basename(image.name))
        return config, output

    def test_deploy(self):
        config, (stdout, stderr) = self.deploy(
            "--arg", "sha256sum", "--arg=-b", "--arg", "[a,b]", "--env", "K=V=W", "--env", "E=",
            "--memory", "64MiB", "--timeout", "1.5s")
        self.assertEqual(config, {"args": ["sha256sum", "-b", "[a,b]"], "env": ["K=V=W", "E="],
                                  "memory_bytes": 67108864, "timeout_ms": 1500})
        self.assertIn(b"function 'hash' version 3 deployed", stdout)
        self.assertEqual(stderr, "")

    def test_deploy_leaves_defaults_to_the_broker_and_shows_its_warning(self):
        config, (_, stderr) = self.deploy(
            answer={"version": 1, "state": "ready", "warning": "it ends before it reads stdin"})
        self.assertEqual(config, {"args": [], "env": []})
        self.assertEqual(stderr, "warning: it ends before it reads stdin\n")

    def invoke(self, outcome, *arguments, status, message="", output=b"out\x00\xff", log=b"log\n"):
        self.on("POST", "/api/functions/f/invoke", 200, {
            "outcome": outcome, "exit_status": 0, "message": message, "run_us": 9, "version": 1,
            "output_base64": base64.b64encode(output).decode(),
            "log_base64": base64.b64encode(log).decode()})
        return self.sluice("function", "invoke", "f", *arguments, status=status, stdin=b"in\x00\xff")

    def test_invoke_prints_the_result_as_it_is(self):
        stdout, stderr = self.invoke("ok", status=0)
        self.assertEqual((stdout, stderr), (b"out\x00\xff", "log\n"))
        self.assertEqual(self.admin.requests[-1][3], b"in\x00\xff")

    def test_invoke_that_fails_says_how(self):
        stdout, stderr = self.invoke("timeout", status=1, message="It ran for 5 s.")
        self.assertEqual(stdout, b"out\x00\xff")
        self.assertEqual(stderr, "log\nsluice: the call of 'f' ended with timeout: It ran for 5 s.\n")
        stdout, _ = self.invoke("exception", "-o", "json", "-", status=1)
        self.assertEqual(json.loads(stdout)["outcome"], "exception")

    def test_invoke_reads_a_file(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"from a file")
            file.flush()
            self.invoke("ok", file.name, status=0)
        self.assertEqual(self.admin.requests[-1][3], b"from a file")

    def test_logs(self):
        entry = {"id": 7, "time_ms": 1700000000123, "version": 2, "source": "subscription s",
                 "attempt": 3, "outcome": "exit_status", "message": "status 1", "log": "a\nb\x1b\n"}
        self.on("GET", "/api/functions/f/logs?after=0&wait_ms=0", 200, [entry])
        stdout, _ = self.sluice("function", "logs", "f")
        self.assertIn(b"version 2  subscription s  attempt 3  exit_status: status 1\n"
                      b"    a\n    b\\x1b\n", stdout)
        stdout, _ = self.sluice("function", "logs", "f", "-o", "json")
        self.assertEqual(json.loads(stdout), entry)

    def test_logs_follow_asks_for_what_comes_after(self):
        def entry(number):
            return [{"id": number, "time_ms": 1, "version": 1, "source": "invoke", "attempt": 1,
                     "outcome": "ok", "message": "", "log": f"entry {number}"}]
        self.on("GET", "/api/functions/f/logs?after=0&wait_ms=0", 200, entry(4))
        self.on("GET", "/api/functions/f/logs?after=4&wait_ms=20000", 200, entry(9))
        self.on("GET", "/api/functions/f/logs?after=9&wait_ms=20000", 404, {"reason": "deleted"})
        stdout, stderr = self.sluice("function", "logs", "f", "--follow", status=1)
        self.assertIn(b"entry 4", stdout)
        self.assertIn(b"entry 9", stdout)
        self.assertEqual(stderr, "sluice: deleted\n")

    def test_list_versions_show_and_delete(self):
        function = {"name": "f", "version": 2, "state": "ready", "image_name": "busybox",
                    "args": ["wc", "-w"], "image_bytes": 2048, "memory_bytes": 67108864,
                    "timeout_ms": 5000, "calls": 10, "failures": 1, "created_at_ms": 1700000000123}
        self.on("GET", "/api/functions", 200, [function])
        self.assertIn(b"busybox  wc -w      2 KiB     10         1", self.sluice("function", "list")[0])
        self.on("GET", "/api/functions/f/versions", 200, [function])
        self.assertIn(b"wc -w", self.sluice("function", "versions", "f")[0])
        self.on("GET", "/api/functions/f", 200, function)
        stdout, _ = self.sluice("function", "show", "f")
        self.assertRegex(stdout.decode(), r"(?m)^memory +64 MiB$")
        self.assertRegex(stdout.decode(), r"(?m)^timeout +5 s$")
        self.on("DELETE", "/api/functions/f", 204)
        self.sluice("function", "delete", "f")


class Subscriptions(CommandLineTest):
    def test_create_sends_only_what_was_asked_for(self):
        self.on("PUT", "/api/subscriptions/s", 201)
        self.sluice("subscription", "create", "s", "--queue", "q", "--function", "f")
        self.assertEqual(self.asked()[2], {"name": "s", "queue": "q", "function": "f"})

    def test_create_with_everything(self):
        self.on("PUT", "/api/subscriptions/s", 204)
        stdout, _ = self.sluice(
            "subscription", "create", "s", "--queue", "q", "--function", "f", "--concurrency", "8",
            "--max-attempts", "3", "--backoff", "100ms..30s", "--on-failure", "dead/letters",
            "--result", "/hashes")
        self.assertIn(b"subscription 's' changed", stdout)
        self.assertEqual(self.asked()[2], {
            "name": "s", "queue": "q", "function": "f", "concurrency": 8, "max_attempts": 3,
            "backoff_min_ms": 100, "backoff_max_ms": 30000,
            "on_failure": {"exchange": "dead", "routing_key": "letters"},
            "result": {"exchange": "", "routing_key": "hashes"}})

    def test_list_pause_resume_and_delete(self):
        self.on("GET", "/api/subscriptions", 200, [
            {"name": "s", "queue": "q", "function": "f", "state": "running", "in_flight": 1,
             "result": {"exchange": "", "routing_key": "hashes"}}])
        self.assertIn(b"/hashes", self.sluice("subscription", "list")[0])
        for verb in ("pause", "resume"):
            self.on("POST", f"/api/subscriptions/s/{verb}", 204)
            self.sluice("subscription", verb, "s")
            self.assertEqual(self.asked()[:2], ("POST", f"/api/subscriptions/s/{verb}"))
        self.on("DELETE", "/api/subscriptions/s", 204)
        self.sluice("subscription", "delete", "s")


class Status(CommandLineTest):
    OVERVIEW = {
        "product_name": "Sluice", "product_version": "0.1.0", "uptime_ms": 192000,
        "listeners": [{"protocol": "amqp", "ip_address": "127.0.0.1", "port": 5672}],
        "object_totals": {"connections": 1, "channels": 2, "queues": 3, "consumers": 0},
        "queue_totals": {"messages": 12, "messages_ready": 10, "messages_unacknowledged": 2},
        "message_stats": {"publish": 100}, "functions": 2, "subscriptions": 1,
        "executor": {"state": "unavailable", "backend": "none", "reason": "no /dev/kvm",
                     "workers": 0, "restarts": 0, "calls": 0}}

    def test_says_what_matters(self):
        self.on("GET", "/api/overview", 200, self.OVERVIEW)
        stdout = self.sluice("status")[0].decode()
        for words in ("Sluice 0.1.0, up 3 min 12 s", "amqp 127.0.0.1:5672",
                      "12 in 3 queues: 10 ready, 2 unacknowledged", "no /dev/kvm", "100 published"):
            self.assertIn(words, stdout)
        stdout, _ = self.sluice("status", "-o", "json")
        self.assertEqual(json.loads(stdout), self.OVERVIEW)


if __name__ == "__main__":
    unittest.main()
