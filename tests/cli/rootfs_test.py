#!/usr/bin/python3
"""Root file systems as the built `sluice` makes them: of directories and archives, of Debian's
packages, whose programs then run in them; and hostile ones.   rootfs_test.py SLUICE [unittest's
arguments]"""

import gzip
import hashlib
import io
import lzma
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import unittest

SLUICE = sys.argv.pop(1)


class RootfsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sluice-rootfs-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, path, content=b"", mode=0o644):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "wb") as file:
            file.write(content)
        os.chmod(self.path(path), mode)
        return self.path(path)

    def sluice(self, *arguments, status=0, program=SLUICE):
        done = subprocess.run([program, *arguments], capture_output=True, timeout=120, check=False,
                              stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, status, done.stderr.decode(errors="replace"))
        return done.stdout, done.stderr.decode(errors="replace")

    def make(self, *arguments, name="out.tar"):
        """The archive's bytes, and its members by name."""
        out = self.path(name)
        self.sluice("rootfs", "make", *arguments, "-o", out)
        with open(out, "rb") as file:
            content = file.read()
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            return content, {member.name: member for member in archive}

    def refused(self, *arguments):
        _, stderr = self.sluice("rootfs", "make", *arguments, "-o", self.path("no.tar"), status=1)
        self.assertFalse(os.path.exists(self.path("no.tar")))
        self.assertFalse(os.path.exists(self.path("no.tar.part")))
        return stderr


class Directories(RootfsTest):
    def test_files_links_and_modes_are_kept(self):
        self.write("root/bin/tool", b"elf", 0o755)
        self.write("root/secret", b"s", 0o600)
        os.link(self.path("root/bin/tool"), self.path("root/bin/alias"))
        os.symlink("tool", self.path("root/bin/link"))
        os.symlink("/nowhere/at/all", self.path("root/dangling"))
        os.mkdir(self.path("root/empty"))
        os.chmod(self.path("root/empty"), 0o1777)
        _, members = self.make("--rootfs", self.path("root"))
        self.assertEqual(set(members), {"bin", "bin/alias", "bin/link", "bin/tool", "dangling", "empty",
                                        "secret"})
        self.assertEqual(members["bin/alias"].mode, 0o755)
        self.assertTrue(members["bin/tool"].islnk())
        self.assertEqual(members["bin/tool"].linkname, "bin/alias")
        self.assertEqual(members["bin/link"].linkname, "tool")
        self.assertEqual(members["dangling"].linkname, "/nowhere/at/all")
        self.assertEqual(members["empty"].mode, 0o1777)
        self.assertEqual(members["secret"].mode, 0o600)
        for member in members.values():
            self.assertEqual((member.uid, member.gid, member.mtime, member.uname), (0, 0, 0, ""))

    def test_set_ids_devices_sockets_and_pipes_are_left_out_and_said(self):
        self.write("root/su", b"x", 0o6755)
        os.mkfifo(self.path("root/pipe"))
        os.mknod(self.path("root/null"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(self.path("root/socket"))
            _, members = self.make("--rootfs", self.path("root"))
        self.assertEqual(list(members), ["su"])
        self.assertEqual(members["su"].mode, 0o755)
        _, stderr = self.sluice("rootfs", "make", "--rootfs", self.path("root"), "-o", self.path("x"))
        self.assertIn("left out 1 device, 1 socket, 1 named pipe; took 1 file without its set-id bit",
                      stderr)

    def test_a_tree_that_is_too_large_is_refused(self):
        with open(self.write("root/a"), "wb") as file:
            file.truncate((1 << 30) + 1)
        stderr = self.refused("--rootfs", self.path("root") + "/")
        self.assertIn("has more than 1 GiB with '" + self.path("root/a") + "'", stderr)

    def test_one_tree_gives_the_same_bytes(self):
        for order in ("abc", "cba"):
            for name in order:
                self.write(f"{order}/{name}", name.encode())
                os.utime(self.path(order, name), (len(name), 12345 if order == "abc" else 67890))
        first, _ = self.make("--rootfs", self.path("abc"))
        second, _ = self.make("--rootfs", self.path("cba"))
        self.assertEqual(hashlib.sha256(first).hexdigest(), hashlib.sha256(second).hexdigest())

    def test_names_that_are_long_odd_or_not_utf8(self):
        names = ["n" * 255, "café", "with\nline", "-option", "space name", "d" * 90 + "/" + "e" * 90]
        for name in names:
            self.write(f"root/{name}", name.encode())
        with open(os.path.join(self.path("root").encode(), b"latin\xe9"), "wb"):
            pass
        content, members = self.make("--rootfs", self.path("root"))
        for name in names:
            self.assertIn(name, members)
        self.assertIn("latin\udce9", members)
        again, _ = self.make("--rootfs", self.path("out.tar"), name="again.tar")
        self.assertEqual(again, content)

    def test_later_sources_take_the_place_of_earlier_ones(self):
        self.write("one/f", b"1")
        self.write("two/f", b"22")
        self.write("three", b"333", 0o700)
        _, members = self.make("--rootfs", self.path("one"), "--rootfs", self.path("two"), "--file",
                               self.path("three") + ":/deep/down/", "--file", self.path("three"))
        self.assertEqual(members["f"].size, 2)
        self.assertEqual(members["deep/down/three"].mode, 0o700)
        self.assertEqual(members["app/three"].size, 3)

    def test_files_go_where_they_are_told_and_no_further(self):
        file = self.write("f", b"x")
        for destination in ("/../x", "/a/../../x"):
            self.assertIn("leaves the root", self.refused("--file", f"{file}:{destination}"))
        for text in (f"{file}:relative", f"{file}:", ":/x", ""):
            self.sluice("rootfs", "make", "--file", text, "-o", self.path("no.tar"), status=2)
        self.assertIn("is a directory", self.refused("--file", self.folder))
        self.assertIn("cannot read", self.refused("--file", self.path("missing")))
        os.mkfifo(self.path("pipe"))
        self.assertIn("is not a file", self.refused("--file", self.path("pipe")))


class Archives(RootfsTest):
    def tar(self, *members, name="in.tar", form=tarfile.PAX_FORMAT):
        """members: (name, type, link or content)"""
        with tarfile.open(self.path(name), "w", format=form) as archive:
            for path, kind, rest in members:
                info = tarfile.TarInfo(path)
                info.type, info.mode, info.uid, info.mtime = kind, 0o4755, 1000, 99
                if kind == tarfile.REGTYPE:
                    info.size = len(rest)
                    archive.addfile(info, io.BytesIO(rest))
                else:
                    info.linkname = rest
                    archive.addfile(info)
        return self.path(name)

    SAMPLE = (("./bin/", tarfile.DIRTYPE, ""), ("./bin/tool", tarfile.REGTYPE, b"elf" * 9999),
              ("/absolute", tarfile.REGTYPE, b"a"), ("bin/alias", tarfile.LNKTYPE, "./bin/tool"),
              ("link", tarfile.SYMTYPE, "bin/tool"), ("null", tarfile.CHRTYPE, ""),
              ("p" * 120 + "/" + "q" * 120, tarfile.REGTYPE, b"long"))

    def test_forms_and_compressions_give_the_same_tree(self):
        plain = self.tar(*self.SAMPLE)
        with open(plain, "rb") as file:
            content = file.read()
        self.write("in.tar.gz", gzip.compress(content))
        self.write("in.tar.xz", lzma.compress(content))
        subprocess.run(["zstd", "-q", plain, "-o", self.path("in.tar.zst")], check=True)
        self.tar(*self.SAMPLE, name="gnu.tar", form=tarfile.GNU_FORMAT)
        expected, members = self.make("--rootfs", plain)
        self.assertEqual(set(members), {"bin", "bin/tool", "bin/alias", "absolute", "link", "p" * 120,
                                        "p" * 120 + "/" + "q" * 120})
        self.assertEqual(members["absolute"].mode, 0o755)
        for name in ("in.tar.gz", "in.tar.xz", "in.tar.zst", "gnu.tar", "out.tar"):
            self.assertEqual(self.make("--rootfs", self.path(name), name="2.tar")[0], expected, name)

    def test_entries_that_leave_the_root_are_refused(self):
        out = ("out", tarfile.SYMTYPE, "../..")
        deep = ("a/b", tarfile.SYMTYPE, "../../..")
        for members in ([("../evil", tarfile.REGTYPE, b"x")], [("a/../../evil", tarfile.REGTYPE, b"x")],
                        [out, ("out/evil", tarfile.REGTYPE, b"x")],
                        [deep, ("a/b/evil", tarfile.REGTYPE, b"x")],
                        [("hard", tarfile.LNKTYPE, "../../etc/passwd")],
                        [("..", tarfile.SYMTYPE, "x")], [("../d", tarfile.DIRTYPE, "")]):
            stderr = self.refused("--rootfs", self.tar(*members))
            self.assertIn("leaves the root", stderr, members)

    def test_links_are_not_followed_to_this_machine(self):
        self.write("host/secret", b"secret")
        _, members = self.make("--rootfs", self.tar(
            ("dir", tarfile.SYMTYPE, self.path("host")), ("dir/new", tarfile.REGTYPE, b"x")))
        self.assertFalse(os.path.exists(self.path("host/new")))
        self.assertIn(self.path("host/new").lstrip("/"), members)
        self.assertIn("no file before it", self.refused(
            "--rootfs", self.tar(("hard", tarfile.LNKTYPE, self.path("host/secret")))))

    def test_what_is_no_archive_is_refused(self):
        whole = self.tar(*self.SAMPLE)
        with open(whole, "rb") as file:
            content = file.read()
        for number, bad in enumerate((b"", b"text\n", b"\x7fELF" * 1000, content[:5000],
                                      gzip.compress(content)[:200], os.urandom(4096))):
            path = self.write(f"bad{number}", bad)
            self.assertRegex(self.refused("--rootfs", path), "not a tar archive|empty archive")
        with open(self.path("zip"), "wb") as file:
            file.write(b"PK\x03\x04" + bytes(100))
        self.assertIn("not a tar archive", self.refused("--rootfs", self.path("zip")))

    def test_an_archive_that_claims_more_than_there_may_be(self):
        with gzip.open(self.path("bomb.tar.gz"), "wb", 1) as file:
            info = tarfile.TarInfo("bomb")
            info.size = (1 << 30) + 1
            file.write(info.tobuf())
            for _ in range(4):
                file.write(bytes(1 << 20))
        self.assertIn("more than 1 GiB", self.refused("--rootfs", self.path("bomb.tar.gz")))


class Packages(RootfsTest):
    def run_in(self, root, *command, stdin=b""):
        done = subprocess.run(["/usr/sbin/chroot", root, *command], input=stdin, capture_output=True, timeout=60,
                              env={"PATH": "/usr/bin"}, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return done.stdout

    def unpack(self, *arguments):
        root = self.path("root")
        os.mkdir(root)
        _, members = self.make(*arguments)
        subprocess.run(["tar", "-xf", self.path("out.tar"), "-C", root], check=True)
        # What the sandbox brings itself.
        os.mknod(root + "/dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        return root, members

    def test_python_runs_in_its_tree(self):
        root, members = self.unpack("--from-packages", "python3")
        code = "import json,re,hashlib,ssl,sqlite3,ctypes,decimal; print(json.dumps([1]), 'é')"
        self.assertEqual(self.run_in(root, "/usr/bin/python3", "-c", code).decode(), "[1] é\n")
        self.assertEqual(self.run_in(root, "/usr/bin/python3", "-c",
                                     "import pwd; print(pwd.getpwuid(0).pw_name)"), b"root\n")
        for name in members:
            self.assertFalse(name.startswith(("usr/share/doc", "usr/share/man", "var/lib/dpkg")), name)
            self.assertNotIn("__pycache__", name)
        self.assertNotIn("usr/bin/dpkg", members)
        self.assertNotIn("usr/bin/perl", members)

    def test_jq_perl_and_lua_run_in_one_tree(self):
        root, _ = self.unpack("--from-packages", "jq,perl", "--from-packages", "lua5.4")
        self.assertEqual(self.run_in(root, "/usr/bin/jq", "-c", ".a|map(.+1)", stdin=b'{"a":[1,2]}'),
                         b"[2,3]\n")
        self.assertEqual(self.run_in(root, "/usr/bin/perl", "-MJSON::PP", "-MEncode", "-MPOSIX", "-e",
                                     "print encode_json([1,{a=>2}])"), b'[1,{"a":2}]')
        for name in ("lua5.4", "lua"):  # the second over /etc/alternatives
            self.assertEqual(self.run_in(root, f"/usr/bin/{name}", "-e", "print(6*7)"), b"42\n")

    def test_the_same_packages_give_the_same_bytes(self):
        first, _ = self.make("--from-packages", "jq,lua5.4")
        second, _ = self.make("--from-packages", "lua5.4,jq")
        self.assertEqual(hashlib.sha256(first).digest(), hashlib.sha256(second).digest())

    def test_nothing_is_left_behind(self):
        temporary = self.path("tmp")
        os.mkdir(temporary)
        subprocess.run([SLUICE, "rootfs", "make", "--from-packages", "jq", "-o", self.path("x.tar")],
                       env={**os.environ, "TMPDIR": temporary}, check=True, capture_output=True)
        self.assertEqual(os.listdir(temporary), [])

    def test_mistakes_in_names(self):
        stderr = self.refused("--from-packages", "no-such-package-at-all")
        self.assertIn("there is no package 'no-such-package-at-all'", stderr)
        self.assertIn("apt-get update", stderr)
        for names in ("", ",", "jq,", "--reinstall", "../../etc", "JQ", "jq;id"):
            self.sluice("rootfs", "make", f"--from-packages={names}", "-o", self.path("no.tar"),
                        status=2)

    def test_the_python_wrapper_is_found_beside_the_program(self):
        program = self.path("usr/bin/sluice")
        os.makedirs(os.path.dirname(program))
        shutil.copy(SLUICE, program)
        self.write("usr/share/sluice/python/sluice.py", b"version = 'wrapper'\n")
        out = self.path("w.tar")
        _, stderr = self.sluice("rootfs", "make", "--from-packages", "python3", "-o", out,
                                program=program)
        self.assertEqual(stderr, "")
        with tarfile.open(out) as archive:
            wrapper = archive.extractfile("usr/lib/python3/dist-packages/sluice.py").read()
        self.assertEqual(wrapper, b"version = 'wrapper'\n")
        os.mkdir(self.path("root"))
        subprocess.run(["tar", "-xf", out, "-C", self.path("root")], check=True)
        self.assertEqual(self.run_in(self.path("root"), "/usr/bin/python3", "-c",
                                     "import sluice; print(sluice.version)"), b"wrapper\n")


class FakeDebian(RootfsTest):
    """Packages that are not installed: apt's tools are stand-ins, the package is a real one."""

    def setUp(self):
        super().setUp()
        self.write("build/DEBIAN/control", b"Package: sluice-probe\nVersion: 1.0\nArchitecture: amd64\n"
                   b"Maintainer: nobody <nobody@localhost>\nDepends: jq, virtual-thing, debconf\n"
                   b"Description: a probe\n")
        self.write("build/DEBIAN/postinst", b"#!/bin/sh\nupdate-alternatives --install /usr/bin/probe "
                   b"probe /usr/bin/sluice-probe 5\n", 0o755)
        self.write("build/usr/bin/sluice-probe", b"#!/bin/sh\n", 0o4755)
        self.write("build/usr/share/doc/sluice-probe/README", b"x")
        self.write("provider/DEBIAN/control", b"Package: provider\nVersion: 1\nArchitecture: all\n"
                   b"Maintainer: nobody <nobody@localhost>\nProvides: virtual-thing\n"
                   b"Description: x\n")
        self.write("provider/lib/provided", b"p")
        for name in ("build", "provider"):
            os.chmod(self.path(name), 0o755)
            subprocess.run(["dpkg-deb", "--build", "--root-owner-group", self.path(name),
                            self.path("debs") if os.path.isdir(self.path("debs")) else self.debs()],
                           check=True, capture_output=True)
        self.write("fake/apt-cache", f"""#!/bin/sh
case "$1 $2" in
  "showpkg "*) printf 'Package: %s\\nReverse Provides: \\nprovider 1 (= )\\n' "$2" ;;
  *) shift 2
     for name; do
       for deb in {self.path("debs")}/*.deb; do
         if [ "$(dpkg-deb --field "$deb" Package)" = "$name" ]; then dpkg-deb --field "$deb"; echo; fi
       done
     done
     exit 100 ;;
esac
""".encode(), 0o755)
        self.write("fake/apt-get", f"""#!/bin/sh
[ "$1" = download ] || exit 9
cp {self.path("debs")}/*.deb . || exit 1
echo "W: noise" >&2
""".encode(), 0o755)
        self.environment = {**os.environ, "PATH": self.path("fake") + ":" + os.environ["PATH"]}

    def debs(self):
        os.mkdir(self.path("debs"))
        return self.path("debs")

    def test_is_fetched_and_unpacked(self):
        done = subprocess.run([SLUICE, "rootfs", "make", "--from-packages", "sluice-probe", "-o",
                               self.path("out.tar")], env=self.environment, capture_output=True,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"its program is /usr/bin/sluice-probe", done.stdout)
        with tarfile.open(self.path("out.tar")) as archive:
            members = {member.name: member for member in archive}
        self.assertEqual(members["usr/bin/sluice-probe"].mode, 0o755)
        self.assertEqual(members["usr/bin/probe"].linkname, "/etc/alternatives/probe")
        self.assertIn("usr/bin/jq", members)  # installed
        self.assertIn("usr/lib/provided", members)  # of what provides the virtual one, in merged /usr
        self.assertNotIn("usr/share/doc/sluice-probe/README", members)
        self.assertNotIn("usr/sbin/debconf-communicate", members)

    def test_a_download_that_fails_is_said(self):
        self.write("fake/apt-get", b"#!/bin/sh\necho 'E: no network' >&2; exit 100\n", 0o755)
        done = subprocess.run([SLUICE, "rootfs", "make", "--from-packages", "sluice-probe", "-o",
                               self.path("out.tar")], env=self.environment, capture_output=True,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot fetch packages", done.stderr)
        self.assertIn(b"E: no network", done.stderr)

    def test_an_interrupted_download_leaves_nothing_behind(self):
        os.mkdir(self.path("tmp"))
        os.mkfifo(self.path("started"))
        self.write("fake/apt-get", f"#!/bin/sh\necho half > half.deb\necho started > {self.path('started')}\n"
                   "exec sleep 60\n".encode(), 0o755)
        process = subprocess.Popen(
            [SLUICE, "rootfs", "make", "--from-packages", "sluice-probe", "-o", self.path("out.tar")],
            env={**self.environment, "TMPDIR": self.path("tmp")}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(self.path("started"), "rb") as started:
            self.assertEqual(started.readline(), b"started\n")
        self.assertEqual(len(os.listdir(self.path("tmp"))), 1)
        os.killpg(process.pid, signal.SIGINT)
        self.assertEqual(process.wait(timeout=30), -signal.SIGINT)
        self.assertEqual(os.listdir(self.path("tmp")), [])

    def test_a_machine_without_dpkg(self):
        done = subprocess.run([SLUICE, "rootfs", "make", "--from-packages", "jq", "-o",
                               self.path("out.tar")], env={"PATH": "/nonexistent"}, capture_output=True,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"works on Debian", done.stderr)


if __name__ == "__main__":
    unittest.main()
