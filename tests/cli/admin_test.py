#!/usr/bin/python3
"""Drives the built `sluice` against an admin server of our own: what it asks of broker/admin/API.md,
what it prints, how it ends.   admin_test.py SLUICE [unittest's arguments]"""

import base64
import email
import fcntl
import http.server
import io
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
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

    def handle_error(self, request, client_address):
        """A client that ends in the middle is none."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

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


def form_parts(headers, body):
    """A multipart form's parts by name."""
    form = email.message_from_bytes(
        b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    return {part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in form.get_payload()}


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
                     ["function", "deploy", "f"], ["function", "deploy", "f", "--rootfs", "/tmp"],
                     ["function", "deploy", "f", "--rootfs", "/does/not/exist", "--image", "/x"],
                     ["function", "deploy", "f", "--from-packages", "python3,--x"],
                     ["function", "deploy", "f", "--image", "/bin/sh", "--cpu-time", "500"],
                     ["function", "deploy", "f", "--image", "/bin/sh", "--threads", "0"],
                     ["function", "deploy", "f", "--image", "/bin/sh", "--tmpfs", "-1"],
                     ["function", "invoke", "f", "--routing-key", "k" * 256],
                     ["subscription", "create", "s", "--queue", "q", "--function", "f",
                      "--batch-size", "0"],
                     ["subscription", "create", "s", "--queue", "q", "--function", "f",
                      "--batch-window", "50"],
                     ["top", "--interval", "99ms"], ["rootfs", "make", "--rootfs", "/tmp"], ["rootfs"],
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
    def deployed(self, *arguments, answer=None):
        """The parts of the form that was sent, and what was printed."""
        self.on("PUT", "/api/functions/hash", 201, answer or {"name": "hash", "version": 3,
                                                             "state": "ready"})
        output = self.sluice("function", "deploy", "hash", *arguments)
        _, _, headers, body = self.admin.requests[-1]
        return form_parts(headers, body), output

    def deploy(self, *arguments, answer=None):
        with tempfile.NamedTemporaryFile(prefix="image") as image:
            image.write(b"\x7fELF\x00\r\n--binary" * 1000)
            image.flush()
            parts, output = self.deployed("--image", image.name, *arguments, answer=answer)
        self.assertEqual(set(parts), {"config", "image"})
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

    def test_deploy_with_every_limit(self):
        config, _ = self.deploy("--cpu-time", "500ms", "--output-limit", "1MiB", "--log-limit", "1KiB",
                                "--open-files", "8", "--threads", "2", "--tmpfs", "16MiB",
                                "--concurrency", "4")
        self.assertEqual(config, {"args": [], "env": [], "cpu_ms": 500, "output_bytes": 1048576,
                                  "log_bytes": 1024, "open_files": 8, "threads": 2,
                                  "tmpfs_bytes": 16777216, "concurrency": 4})

    def tree(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.makedirs(folder.name + "/root/bin")
        for name, content, mode in (("root/bin/tool", b"\x7fELF", 0o755), ("root/bin/script", b"#!x", 0o755),
                                    ("root/data", b"d", 0o644), ("main.py", b"print()", 0o644)):
            with open(f"{folder.name}/{name}", "wb") as file:
                file.write(content)
            os.chmod(f"{folder.name}/{name}", mode)
        os.symlink("bin/tool", folder.name + "/root/link")
        return folder.name

    @staticmethod
    def members(archive):
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            return {member.name for member in tar}

    def test_deploy_with_a_root_file_system(self):
        tree = self.tree()
        parts, (stdout, _) = self.deployed("--rootfs", tree + "/root", "--image", "bin/tool", "--arg",
                                           "x", "--file", tree + "/main.py")
        self.assertEqual(set(parts), {"config", "rootfs"})
        self.assertEqual(json.loads(parts["config"]), {
            "image_name": "tool", "args": ["x"], "env": [], "image_path": "/bin/tool"})
        self.assertEqual(self.members(parts["rootfs"]), {
            "app", "app/main.py", "bin", "bin/script", "bin/tool", "data", "link"})
        self.assertIn(b"deployed (/bin/tool x in ", stdout)

    def test_deploy_a_program_with_files_beside_it(self):
        tree = self.tree()
        parts, _ = self.deployed("--image", tree + "/root/bin/tool", "--file", tree + "/main.py:/etc/m")
        self.assertEqual(json.loads(parts["config"])["image_path"], "/app/tool")
        self.assertEqual(self.members(parts["rootfs"]), {"app", "app/tool", "etc", "etc/m"})
        _, stderr = self.sluice("function", "deploy", "f", "--image", tree + "/root/bin/tool", "--file",
                                tree + "/main.py:/app/tool", status=1)
        self.assertIn("is the place of the program", stderr)

    def test_deploy_from_packages_knows_the_program_and_its_file(self):
        tree = self.tree()
        parts, (stdout, _) = self.deployed("--from-packages", "jq", "--file", tree + "/main.py")
        config = json.loads(parts["config"])
        self.assertEqual((config["image_path"], config["args"]), ("/usr/bin/jq", ["/app/main.py"]))
        self.assertIn(b"/usr/bin/jq /app/main.py in ", stdout)
        self.assertIn("usr/bin/jq", self.members(parts["rootfs"]))
        parts, _ = self.deployed("--from-packages", "jq", "--file", tree + "/main.py", "--arg", ".")
        self.assertEqual(json.loads(parts["config"])["args"], ["."])

    def test_deploy_says_what_is_wrong_with_the_image_and_sends_nothing(self):
        tree = self.tree()
        for image, words in (("/none", "has no '/none'"), ("data", "no program"), ("bin", "no program"),
                             ("bin/script", "is a script"), ("../x", "has no")):
            _, stderr = self.sluice("function", "deploy", "f", "--rootfs", tree + "/root", "--image",
                                    image, status=1)
            self.assertIn(words, stderr)
        _, stderr = self.sluice("function", "deploy", "f", "--from-packages", "media-types", status=1)
        self.assertIn("which program", stderr)
        self.assertEqual(self.admin.requests, [])

    def test_deploy_that_is_too_large_says_so(self):
        self.on("PUT", "/api/functions/f", 413, b"")
        _, stderr = self.sluice("function", "deploy", "f", "--image", "/bin/sh", status=1)
        self.assertIn("smaller", stderr)

    ANSWER = {"failure": None, "failed": [], "results": [], "state_base64": None, "drop_state": False,
              "outputs": [], "logs": []}

    def answered(self, *arguments, status=0, **answer):
        self.on("POST", "/api/functions/f/invoke", 200, {
            "outcome": "ok", "output_base64": base64.b64encode(b"result").decode(), "log_base64": "",
            "answer": {**self.ANSWER, **answer}})
        return self.sluice("function", "invoke", "f", *arguments, status=status, stdin=b"in")

    def test_invoke_sends_state_and_routing_key(self):
        with tempfile.NamedTemporaryFile() as state:
            state.write(b"\x00state\r\n--")
            state.flush()
            self.answered("--state", state.name, "--routing-key", "a.b")
        _, _, headers, body = self.admin.requests[-1]
        self.assertEqual(form_parts(headers, body), {"input": b"in", "state": b"\x00state\r\n--",
                                                     "routing_key": b"a.b"})

    def test_invoke_shows_what_was_answered_beside_the_result(self):
        stdout, stderr = self.answered(
            logs=[{"level": "warning", "text": "careful\x1b[2J"}],
            state_base64=base64.b64encode(b"n=2").decode(),
            outputs=[{"exchange": "e", "routing_key": "k", "headers": {"h": 1}, "delay_ms": 1500,
                      "payload_base64": base64.b64encode(b"out").decode()},
                     {"exchange": "", "routing_key": "q", "headers": {}, "delay_ms": 0,
                      "payload_base64": base64.b64encode(b"\xff\x00").decode()}])
        self.assertEqual(stdout, b"result")
        self.assertEqual(stderr, "warning: careful\\x1b[2J\n"
                                 "output to e/k, not before 1.5 s (h=1): out\n"
                                 "output to /q: 2 B that are not text\n"
                                 "new state: n=2\n")

    def test_invoke_whose_answer_is_a_failure_ends_with_1(self):
        _, stderr = self.answered(failed=[{"record": 0, "message": "bad line"}], status=1)
        self.assertIn("record 0 failed: bad line\n", stderr)
        _, stderr = self.answered(failure="no database", drop_state=True, status=1)
        self.assertIn("the call failed: no database\nthe state is dropped\n", stderr)

    def test_invoke_writes_the_new_state(self):
        with tempfile.TemporaryDirectory() as folder:
            path = folder + "/state"
            _, stderr = self.answered("--state-out", path,
                                      state_base64=base64.b64encode(b"\x00new").decode())
            self.assertEqual(stderr, "")
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"\x00new")
            self.answered("--state-out", path)  # no new one: the old one stays
            self.assertEqual(os.listdir(folder), ["state"])
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"\x00new")
            self.answered("--state-out", folder + "/no/such", status=1, state_base64="AA==")

    def test_show_groups_what_it_knows(self):
        stats = {"sandboxes": 4, "running": 1, "queued": 2, "target": 5, "calls": 1000, "warm_hits": 990,
                 "cold_starts": 10, "clones": 20, "clone_us": 10000, "resets": 995, "discarded": 5,
                 "dirty_pages": 16000, "exits": 1000, "run_us": 350000, "memory_bytes": 4194304}
        function = {"name": "f", "version": 7, "image_name": "python3", "args": ["/app/x.py"],
                    "env": [], "memory_bytes": 67108864, "timeout_ms": 5000, "cpu_ms": 0,
                    "output_bytes": 16777216, "log_bytes": 65536, "open_files": 64, "threads": 64,
                    "tmpfs_bytes": 16777216, "concurrency": 0, "image_path": "/usr/bin/python3",
                    "rootfs_sha256": "ab" * 32, "rootfs_bytes": 1048576, "image_bytes": 0,
                    "protocol": True, "state": "ready", "state_reason": "", "snapshot": "first-read",
                    "load_us": 45000, "calls": 1000, "failures": 3, "stats": stats}
        self.on("GET", "/api/functions/f", 200, function)
        stdout = self.sluice("function", "show", "f")[0].decode()
        for line in (r"function 'f', version 7", r"  runs +/usr/bin/python3 /app/x\.py",
                     r"  root file system +1 MiB, sha256 (ab){32}", r"  speaks +the function protocol",
                     r"  snapshot +at first-read, loaded in 45\.0 ms", r"  calls +1000, 3 failed",
                     r"limits of a call", r"  memory +64 MiB", r"  CPU time +as the time",
                     r"  at the same time +as many as the executor runs", r"sandboxes",
                     r"  now +4 warm, 1 of them in a call; 5 wanted", r"  calls waiting +2",
                     r"  calls +1000, 99\.0% warm, 10 cold starts",
                     r"  a call +350 us, 1\.0 exits, 16\.0 pages put back",
                     r"  cloned +20, 500 us each"):
            self.assertRegex(stdout, f"(?m)^{line}$")
        self.assertEqual(json.loads(self.sluice("function", "show", "f", "-o", "json")[0]), function)
        self.on("GET", "/api/functions/f", 200, {**function, "stats": None})
        self.assertNotIn(b"pages put back", self.sluice("function", "show", "f")[0])
        for odd in ({}, {"stats": {}}, {"stats": 7, "cpu_ms": "x", "protocol": 3}):
            self.on("GET", "/api/functions/f", 200, odd)
            self.assertIn(b"function", self.sluice("function", "show", "f")[0])

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
        self.on("GET", "/api/functions", 200, [{**function, "rootfs_bytes": 1048576}, [], 1])
        self.assertIn(b" 1.0 MiB ", self.sluice("function", "list")[0])
        self.on("GET", "/api/functions/f/versions", 200, [function])
        self.assertIn(b"wc -w", self.sluice("function", "versions", "f")[0])
        self.on("GET", "/api/functions/f", 200, function)
        stdout, _ = self.sluice("function", "show", "f")
        self.assertRegex(stdout.decode(), r"(?m)^  memory +64 MiB$")
        self.assertRegex(stdout.decode(), r"(?m)^  time +5 s$")
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
            "--result", "/hashes", "--batch-size", "10", "--batch-window", "50ms")
        self.assertIn(b"subscription 's' changed", stdout)
        self.assertEqual(self.asked()[2], {
            "name": "s", "queue": "q", "function": "f", "concurrency": 8, "max_attempts": 3,
            "batch_size": 10, "batch_window_ms": 50, "backoff_min_ms": 100, "backoff_max_ms": 30000,
            "on_failure": {"exchange": "dead", "routing_key": "letters"},
            "result": {"exchange": "", "routing_key": "hashes"}})

    def test_list_pause_resume_and_delete(self):
        self.on("GET", "/api/subscriptions", 200, [
            {"name": "s", "queue": "q", "function": "f", "state": "running", "in_flight": 1,
             "batch_size": 10, "batch_window_ms": 50,
             "result": {"exchange": "", "routing_key": "hashes"}}])
        self.assertRegex(self.sluice("subscription", "list")[0], rb"BATCH +WINDOW .*\n.* 10 +50 ms ")
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

    def test_a_process_sandbox_is_said_loudly(self):
        overview = {**self.OVERVIEW, "executor": {"state": "running", "sandbox": "process",
                                                  "memory_bytes": 1048576,
                                                  "memory_budget_bytes": 1073741824}}
        self.on("GET", "/api/overview", 200, overview)
        stdout, stderr = self.sluice("status")
        self.assertIn(b"NOT KVM", stdout)
        self.assertIn(b"memory 1 MiB of 1 GiB", stdout)
        self.assertIn("warning: functions run as jailed processes", stderr)
        self.on("GET", "/api/overview", 200, {**overview, "executor": {"sandbox": "kvm"}})
        stdout, stderr = self.sluice("status")
        self.assertNotIn(b"NOT KVM", stdout)
        self.assertEqual(stderr, "")


class Top(CommandLineTest):
    def serve(self):
        self.on("GET", "/api/overview", 200, Status.OVERVIEW)
        self.on("GET", "/api/queues", 200, [{"name": "licences", "messages_ready": 3}])
        self.on("GET", "/api/functions", 200, [{"name": "hash", "version": 1, "calls": 1}])
        self.on("GET", "/api/subscriptions", 200, [{"name": "hashing", "calls": 2}])

    def test_prints_one_view_in_a_pipe(self):
        self.serve()
        stdout, _ = self.sluice("top", "--interval", "100ms")
        self.assertNotIn(b"\x1b", stdout)
        for word in (b"licences", b"hash", b"hashing", b"no /dev/kvm", b"10 ready"):
            self.assertIn(word, stdout)
        self.assertEqual([path for _, path, _, _ in self.admin.requests],
                         2 * ["/api/overview", "/api/queues", "/api/functions", "/api/subscriptions"])
        stdout, _ = self.sluice("top", "--once", "--interval", "100ms", "-o", "json")
        self.assertEqual(json.loads(stdout)["functions"][0]["calls_per_s"], 0)

    def test_without_a_broker_it_ends(self):
        _, stderr = self.sluice("top", status=1, environment={"SLUICE_ADMIN": "http://127.0.0.1:1"})
        self.assertIn("cannot reach the broker", stderr)

    def on_a_terminal(self, size=(24, 80)):
        """`top` with a terminal of its own: the process and our end of it."""
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, size)
        before = termios.tcgetattr(theirs)
        environment = {**os.environ, "SLUICE_ADMIN": self.admin.url()}
        process = subprocess.Popen([SLUICE, "top", "--interval", "100ms"], stdin=theirs, stdout=theirs,
                                   stderr=theirs, env=environment, start_new_session=True,
                                   preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.addCleanup(os.close, ours)
        self.addCleanup(os.close, theirs)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process, ours, theirs, before

    def read_until(self, ours, word):
        text = b""
        deadline = time.monotonic() + 20
        while word not in text:
            self.assertLess(time.monotonic(), deadline, text[-2000:])
            self.assertTrue(select.select([ours], [], [], 20)[0], text)
            text += os.read(ours, 65536)
        return text

    def left(self, process, ours, theirs, before, status=0):
        text = self.read_until(ours, b"\x1b[?1049l")
        self.assertEqual(process.wait(timeout=20), status)
        self.assertIn(b"\x1b[?25h", text)
        self.assertEqual(termios.tcgetattr(theirs), before)

    def test_on_a_terminal_it_is_live_and_q_leaves(self):
        self.serve()
        process, ours, theirs, before = self.on_a_terminal()
        self.assertIn(b"\x1b[?1049h", self.read_until(ours, b"licences"))
        self.on("GET", "/api/queues", 200, [{"name": "another"}])
        self.read_until(ours, b"another")
        os.write(ours, b"x")  # no key of its
        self.on("GET", "/api/queues", 500, {"reason": "in trouble"})
        self.read_until(ours, b"in trouble")
        self.serve()
        self.read_until(ours, b"licences")
        os.write(ours, b"q")
        self.left(process, ours, theirs, before)

    def test_ctrl_c_and_a_kill_leave_the_terminal_as_it_was(self):
        self.serve()
        for key, kill, status in ((b"\x03", None, 0), (None, signal.SIGTERM, 128 + signal.SIGTERM)):
            process, ours, theirs, before = self.on_a_terminal()
            self.read_until(ours, b"licences")
            if key:
                os.write(ours, key)
            else:
                process.send_signal(kill)
            self.left(process, ours, theirs, before, status)

    def test_it_follows_the_size_of_the_terminal(self):
        self.serve()
        process, ours, theirs, before = self.on_a_terminal(size=(24, 80))
        self.read_until(ours, b"licences")
        termios.tcsetwinsize(theirs, (3, 12))
        self.read_until(ours, b"broker    Sl\x1b[K")
        os.write(ours, b"q")
        self.left(process, ours, theirs, before)


if __name__ == "__main__":
    unittest.main()
