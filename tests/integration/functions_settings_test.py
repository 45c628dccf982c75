"""What a function is deployed with: limits, root file systems, statistics; how sluiced is told of
sandboxes. What the executor makes of it is its own tests' affair; here it is one that tells."""

import hashlib
import io
import os
import signal
import tarfile

import harness
from harness.admin import AdminError
from harness.broker import Sluiced
from harness.functions import FunctionTestCase, build_dir, guest
from harness.process import children_of
from harness.wait import await_until

DESCRIBE = ["DESCRIBE=1"]


def tar_of(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class SettingsTestCase(FunctionTestCase):
    own_broker = True
    arguments = ()

    def make_broker(self):
        fake = build_dir() / "tests" / "integration" / "fake_executor"
        broker = Sluiced(["--executor", str(fake), *self.arguments])
        broker.start()
        return broker

    def function(self, name):
        return self.admin.get(f"functions/{name}")

    def refused(self, parts=None, **config):
        with self.assertRaises(AdminError) as caught:
            self.admin.deploy_parts(self.name("f"), parts or {"image": b"elf"},
                                    **{"image_name": "i", **config})
        self.assertEqual(caught.exception.status, 422, caught.exception)
        return caught.exception.reason


class Limits(SettingsTestCase):
    GIVEN = {"memory_bytes": 32 << 20, "timeout_ms": 1500, "cpu_ms": 700, "output_bytes": 1 << 20,
             "log_bytes": 1000, "open_files": 10, "threads": 3, "tmpfs_bytes": 2 << 20,
             "concurrency": 7}

    def test_limits_are_kept_shown_and_passed_on(self):
        name = self.name("f")
        deployed = self.admin.deploy(name, guest("echo"), env=DESCRIBE, **self.GIVEN)
        for limit, value in self.GIVEN.items():
            self.assertEqual(deployed[limit], value, limit)
            self.assertIn(f" {limit}={value} ", deployed["warning"])
        self.assertIn("owner=guest ", deployed["warning"])
        self.broker.kill()
        self.broker.start()
        self.admin.invoke(name, b"x")
        again = self.function(name)
        for limit, value in self.GIVEN.items():
            self.assertEqual(again[limit], value, limit)
        self.assertEqual(again["state_reason"], deployed["warning"])

    def test_defaults(self):
        name = self.name("f")
        deployed = self.admin.deploy(name, guest("echo"))
        self.assertEqual(
            {limit: deployed[limit] for limit in self.GIVEN},
            {"memory_bytes": 64 << 20, "timeout_ms": 5000, "cpu_ms": 0, "output_bytes": 16 << 20,
             "log_bytes": 64 << 10, "open_files": 64, "threads": 64, "tmpfs_bytes": 16 << 20,
             "concurrency": 0})
        self.assertEqual((deployed["image_path"], deployed["rootfs_sha256"],
                          deployed["rootfs_bytes"]), ("", "", 0))

    def test_beyond_the_range_the_limit_is_named(self):
        for limit, value in (("memory_bytes", 1), ("timeout_ms", 900_001), ("cpu_ms", 900_001),
                             ("output_bytes", (128 << 20) + 1), ("log_bytes", (16 << 20) + 1),
                             ("open_files", 2), ("open_files", 4097), ("threads", 0),
                             ("threads", 1025), ("tmpfs_bytes", (4 << 30) + 1),
                             ("concurrency", 1025)):
            self.assertIn(limit, self.refused(**{limit: value}))


class RootFileSystems(SettingsTestCase):
    def test_a_program_inside(self):
        name, tar = self.name("f"), tar_of(**{"usr/bin/python3": b"program" * 1000})
        deployed = self.admin.deploy_parts(name, {"rootfs": tar}, image_path="usr/bin/python3",
                                           env=DESCRIBE)
        self.assertEqual(deployed["rootfs_sha256"], hashlib.sha256(tar).hexdigest())
        self.assertEqual((deployed["rootfs_bytes"], deployed["image_bytes"],
                          deployed["image_sha256"]), (len(tar), 0, ""))
        for said in (f" rootfs={len(tar)} ", " image=0 ", "image_path=usr/bin/python3",
                     "argv0=usr/bin/python3"):
            self.assertIn(said, deployed["warning"])

    def test_beside_an_image_and_over_a_restart(self):
        name, tar = self.name("f"), tar_of(data=b"content")
        image = guest("echo").read_bytes()
        self.admin.deploy_parts(name, {"rootfs": tar, "image": image}, image_name="echo",
                                env=DESCRIBE)
        self.broker.kill()
        self.broker.start()
        self.assertEqual(self.admin.invoke(name, b"hello")["output"], b"hello")
        self.assertIn(f" image={len(image)} rootfs={len(tar)} ",
                      self.function(name)["state_reason"])

    def test_it_is_shared_and_goes_with_the_last_that_uses_it(self):
        tar = tar_of(program=b"x" * 100_000)
        names = [self.name("f") for _ in range(2)]
        for name in names * 2:  # two versions each
            self.admin.deploy_parts(name, {"rootfs": tar}, image_path="program", env=DESCRIBE)
        self.admin.delete(f"functions/{names[0]}")
        self.broker.kill()
        self.broker.start()
        self.admin.invoke(names[1], b"")
        self.assertIn(f" rootfs={len(tar)} ", self.function(names[1])["state_reason"])
        self.admin.delete(f"functions/{names[1]}")
        self.admin.deploy_parts(names[0], {"rootfs": tar}, image_path="program", env=DESCRIBE)
        self.assertIn(f" rootfs={len(tar)} ", self.function(names[0])["state_reason"])

    def test_what_does_not_fit_together_is_refused(self):
        tar = tar_of(program=b"x")
        self.assertIn("image_path", self.refused({"rootfs": tar}))
        self.assertIn("image_path", self.refused({"rootfs": tar, "image": b"x"}, image_path="p"))
        self.assertIn("image_path", self.refused({"image": b"x"}, image_path="p"))
        self.assertIn("empty", self.refused({"rootfs": b""}, image_path="p"))
        with self.assertRaises(AdminError) as caught:
            self.admin.deploy_parts(self.name("f"), {}, image_name="i")
        self.assertEqual(caught.exception.status, 400)

    def test_the_largest_and_one_byte_more(self):
        """And the broker does not keep them: its memory is back to what it was."""
        most = 256 << 20
        tar = bytearray(tar_of(program=b"x"))
        tar.extend(bytes(most - len(tar)))
        name = self.name("f")
        self.admin.deploy_parts(name, {"rootfs": bytes(tar)}, image_path="program", env=DESCRIBE)
        self.assertIn(f" rootfs={most} ", self.function(name)["state_reason"])
        self.assertIn(str(most), self.refused({"rootfs": bytes(tar) + b"x"}, image_path="program"))
        del tar
        await_until(lambda: resident_bytes(self.broker.pid) < most, 30,
                    lambda: f"{resident_bytes(self.broker.pid)} bytes to be given back")
        os.kill(children_of(self.broker.pid)[0], signal.SIGKILL)
        await_until(lambda: self.function(name)["state"] == "unloaded", 30, "the new executor")
        self.admin.invoke(name, b"")
        self.assertIn(f" rootfs={most} ", self.function(name)["state_reason"])
        await_until(lambda: resident_bytes(self.broker.pid) < most, 30,
                    lambda: f"{resident_bytes(self.broker.pid)} bytes to be given back")


class Statistics(SettingsTestCase):
    FIELDS = ["sandboxes", "running", "queued", "target", "calls", "warm_hits", "cold_starts",
              "clones", "clone_us", "resets", "discarded", "dirty_pages", "exits", "run_us",
              "memory_bytes"]

    def test_they_are_shown_with_the_function(self):
        name = self.deploy("echo")
        stats = await_until(lambda: self.function(name)["stats"], 10, "statistics")
        self.assertEqual(list(stats), self.FIELDS)
        self.assertEqual((stats["sandboxes"], stats["target"], stats["memory_bytes"]), (1, 4, 15))
        self.admin.invoke(name, b"x")
        await_until(lambda: self.function(name)["stats"]["calls"] == 1, 10, "the call")
        self.assertEqual(self.admin.get("overview")["executor"]["memory_bytes"], 12345)

    def test_an_unknown_event_is_warned_of_and_passed_over(self):
        self.assertEqual(self.admin.invoke(self.deploy("echo"), b"x")["output"], b"x")
        self.assertRegex(self.broker.output(), "not known, 77")


class Sandboxes(SettingsTestCase):
    arguments = ("--sandbox", "process", "--sandbox-memory", "64MiB")

    def test_the_executor_is_told_and_everybody_is(self):
        name = self.deploy("echo")
        await_until(lambda: self.function(name)["stats"], 10, "statistics")
        executor = self.admin.get("overview")["executor"]
        self.assertEqual((executor["sandbox"], executor["memory_budget_bytes"]),
                         ("process", 64 << 20))
        self.assertIn("--sandbox process", self.broker.output())


class NoSandboxes(SettingsTestCase):
    def test_by_default_it_is_told_nothing(self):
        self.deploy("echo")
        executor = self.admin.get("overview")["executor"]
        self.assertEqual((executor["sandbox"], executor["memory_budget_bytes"]), ("kvm", 0))
        self.assertNotIn("--sandbox", self.broker.output())


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    harness.main()
