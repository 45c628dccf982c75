"""sluiced's own options: flags, environment, configuration file, and how it refuses to start."""

import os
import pathlib
import subprocess
import tempfile
import unittest

import harness
from harness import Sluiced, testing_rabbitmq


@unittest.skipIf(testing_rabbitmq(), "sluiced's own")
class CommandLine(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_sluiced(self, *arguments, **environment):
        return subprocess.run([os.path.abspath(Sluiced.binary()), *arguments], cwd=self.folder,
                              env={**os.environ, **environment}, capture_output=True, text=True,
                              timeout=30, check=False)

    def config(self, text):
        path = self.folder / "sluiced.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def test_version(self):
        done = self.run_sluiced("--version")
        self.assertRegex(done.stdout, r"^sluiced \d+\.\d+\.\d+\n$")
        self.assertEqual(done.returncode, 0)

    def test_check_config(self):
        path = self.config('data-dir = "d"\nlisten = "127.0.0.1:0"\nlog-level = "warn"\n')
        self.assertEqual(self.run_sluiced("--config", path, "--check-config").returncode, 0)
        self.assertFalse((self.folder / "d").exists(), "checking makes nothing")

    def test_mistakes_are_named_and_end_with_status_2(self):
        for text, word in (('listen = "nowhere"\n', "HOST:PORT"), ('no-such-entry = 1\n', "no-such-entry"),
                           ('log-level = "loud"\n', "loud"), ('sync = "often"\n', "often"),
                           ("sync-interval-ms = 0\n", "sync-interval-ms"),
                           ('sandbox = "none"\n', "sandbox"), ('sandbox-memory = "much"\n', "sandbox-memory")):
            with self.subTest(text=text):
                done = self.run_sluiced("--config", self.config(text), "--check-config")
                self.assertEqual(done.returncode, 2)
                self.assertIn(word, done.stderr + done.stdout)
        self.assertEqual(self.run_sluiced("--no-such-flag").returncode, 2)
        self.assertEqual(self.run_sluiced("--listen", "127.0.0.1:65536").returncode, 2)
        self.assertEqual(self.run_sluiced("--config", "missing.toml").returncode, 2)

    def test_flags_win_over_the_environment_over_the_file(self):
        path = self.config('data-dir = "from-file"\n')
        for arguments, environment, folder in (
                ((), {}, "from-file"), ((), {"SLUICE_DATA_DIR": "from-env"}, "from-env"),
                (("--data-dir", "from-flag"), {"SLUICE_DATA_DIR": "from-env"}, "from-flag")):
            with self.subTest(folder=folder):
                # A port that is not ours ends the start after the data folder was opened.
                done = self.run_sluiced("--config", path, "--listen", "192.0.2.1:5672",
                                        "--admin", "127.0.0.1:0", *arguments, **environment)
                self.assertEqual(done.returncode, 1)
                self.assertIn("192.0.2.1:5672", done.stderr)
                self.assertTrue((self.folder / folder).is_dir())

    def test_the_sync_mode_is_shown(self):
        for mode, interval in (("always", None), ("interval", 250), ("none", None)):
            with self.subTest(mode=mode):
                broker = Sluiced(["--sync", mode, "--sync-interval-ms", "250"])
                self.addCleanup(broker.discard)
                broker.start()
                storage = harness.admin.Admin(broker.admin_url).get("overview")["storage"]
                self.assertEqual(storage["sync"], mode)
                self.assertEqual(storage.get("sync_interval_ms"), interval)
                url = broker.admin_url.replace("//", "//guest:guest@")
                status = subprocess.run(
                    [harness.build_dir() / "tools/cli/sluice", "status", "--admin", url],
                    capture_output=True, text=True, check=True)
                self.assertIn(f"sync {mode}", status.stdout)

    def test_the_sandbox_is_a_flag_an_entry_and_a_variable(self):
        path = self.config('sandbox = "process"\nsandbox-memory = "1GiB"\n')
        for arguments, environment in (
                (("--config", path), {}), (("--sandbox", "kvm", "--sandbox-memory", "2GiB"), {}),
                ((), {"SLUICE_SANDBOX": "process", "SLUICE_SANDBOX_MEMORY": "64MiB"})):
            done = self.run_sluiced("--check-config", *arguments, **environment)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        done = self.run_sluiced("--check-config", SLUICE_SANDBOX="docker")
        self.assertEqual(done.returncode, 2)

    def test_a_port_in_use_is_said_so(self):
        broker = Sluiced()
        self.addCleanup(broker.discard)
        broker.start()
        for flag, port in (("--listen", broker.port), ("--admin", broker.admin_port)):
            address = {"--listen": "127.0.0.1:0", "--admin": "127.0.0.1:0", flag: f"127.0.0.1:{port}"}
            done = self.run_sluiced("--data-dir", "d", *(word for pair in address.items()
                                                        for word in pair))
            self.assertEqual(done.returncode, 1, flag)
            self.assertIn(str(port), done.stderr)


if __name__ == "__main__":
    harness.main()
