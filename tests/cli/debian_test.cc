#include "tools/cli/debian.h"

#include <gtest/gtest.h>

namespace sluice::cli {
namespace {

TEST(PackageNames, AreDebiansAndNoOptions) {
  for (const char* name : {"jq", "python3", "lua5.4", "libstdc++6", "g++", "0ad"}) {
    EXPECT_TRUE(is_package_name(name)) << name;
  }
  for (const char* name : {"", "a", "-y", "--help", "Python3", "a b", "a/b", "a,b", "jq=1.6",
                           "../x", "a;b", "+a", "libc6:amd64"}) {
    EXPECT_FALSE(is_package_name(name)) << name;
  }
}

TEST(Dependencies, KeepAlternativesAndVersions) {
  const auto groups = parse_dependencies(
      "libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0, python3:any, libfoo [amd64] (<< 2~)");
  ASSERT_EQ(groups.size(), 4u);
  ASSERT_EQ(groups[0].size(), 1u);
  EXPECT_EQ(groups[0][0].name, "libc6");
  EXPECT_EQ(groups[0][0].relation, ">=");
  EXPECT_EQ(groups[0][0].version, "2.36");
  ASSERT_EQ(groups[1].size(), 2u);
  EXPECT_EQ(groups[1][1].name, "debconf-2.0");
  EXPECT_EQ(groups[1][1].relation, "");
  EXPECT_EQ(groups[2][0].name, "python3");
  EXPECT_EQ(groups[3][0].name, "libfoo");
  EXPECT_EQ(groups[3][0].relation, "<<");
}

TEST(Dependencies, PassOverWhatIsMalformed) {
  EXPECT_TRUE(parse_dependencies("").empty());
  EXPECT_TRUE(parse_dependencies(", ,|,").empty());
  const auto groups = parse_dependencies("--option, jq (>= , lua5.4)(");
  for (const auto& group : groups) {
    for (const auto& dependency : group) EXPECT_TRUE(is_package_name(dependency.name));
  }
}

TEST(Paragraphs, JoinContinuationLines) {
  const auto paragraphs = parse_paragraphs(
      "\nPackage: a\nDepends: b,\n c\nDescription: x: y\n\n\nPackage: d\nno field\n");
  ASSERT_EQ(paragraphs.size(), 2u);
  EXPECT_EQ(paragraphs[0].at("Package"), "a");
  EXPECT_EQ(paragraphs[0].at("Depends"), "b, c");
  EXPECT_EQ(paragraphs[0].at("Description"), "x: y");
  EXPECT_EQ(paragraphs[1].at("Package"), "d");
}

TEST(DebianAlternatives, AreReadFromScripts) {
  const auto found = parse_alternatives(
      "case \"$1\" in\n  configure)\n    update-alternatives \\\n"
      "      --install /usr/bin/lua lua-interpreter /usr/bin/lua5.4 20 \\\n"
      "      --slave /usr/share/man/man1/lua.1.gz lua-manual \\\n"
      "        /usr/share/man/man1/lua5.4.1.gz\n"
      "    update-alternatives --install \"/usr/bin/luac\" lua-compiler '/usr/bin/luac5.4' 30\n"
      "  ;;\nesac\n");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].link, "/usr/bin/lua");
  EXPECT_EQ(found[0].name, "lua-interpreter");
  EXPECT_EQ(found[0].path, "/usr/bin/lua5.4");
  EXPECT_EQ(found[0].priority, 20);
  ASSERT_EQ(found[0].slaves.size(), 1u);
  EXPECT_EQ(found[0].slaves[0].path, "/usr/share/man/man1/lua5.4.1.gz");
  EXPECT_EQ(found[1].path, "/usr/bin/luac5.4");
  EXPECT_EQ(found[1].priority, 30);
}

TEST(DebianAlternatives, WithVariablesOrCutOffArePassedOver) {
  EXPECT_TRUE(parse_alternatives("update-alternatives --install /usr/bin/$x n /y 1").empty());
  EXPECT_TRUE(parse_alternatives("update-alternatives --install /usr/bin/x n").empty());
  EXPECT_TRUE(parse_alternatives("other --install /usr/bin/x n /y 1").empty());
  EXPECT_TRUE(parse_alternatives("update-alternatives --slave /a b /c").empty());
  EXPECT_TRUE(parse_alternatives("\\").empty());
}

TEST(Needless, PackagesAreThoseThatInstall) {
  EXPECT_NE(why_needless_package("debconf"), "");
  EXPECT_NE(why_needless_package("dpkg"), "");
  for (const char* name : {"libc6", "perl-base", "media-types", "libssl3", "python3-minimal"}) {
    EXPECT_EQ(why_needless_package(name), "") << name;
  }
}

TEST(Needless, PathsAreThoseThatNoProgramReads) {
  for (const char* path :
       {"/usr/share/doc", "/usr/share/doc/jq/README", "./usr/share/man/man1/jq.1.gz",
        "usr/share/locale/de/LC_MESSAGES/x.mo", "/usr/lib/locale/de_DE.utf8/LC_CTYPE",
        "/usr/lib/python3/dist-packages/x/__pycache__/y.cpython-311.pyc",
        "/usr/lib/x86_64-linux-gnu/perl/5.36.0/CORE/perl.h",
        "/usr/share/perl/5.36.0/pod/perldiag.pod", "/usr/lib/python3.11/test/test_json.py",
        "/usr/lib/python3.11/unittest/test/x.py"}) {
    EXPECT_TRUE(is_needless_path(path)) << path;
  }
  for (const char* path :
       {"/usr/bin/jq", "/usr/share/documents", "/usr/lib/locale/C.utf8/LC_CTYPE",
        "/usr/lib/python3.11/unittest/mock.py", "/usr/lib/python3/dist-packages/numpy/tests/x.py",
        "/usr/lib/python3.11/testing.py", "/usr/share/perl5/JSON.pm", "/usr/share/zoneinfo/UTC"}) {
    EXPECT_FALSE(is_needless_path(path)) << path;
  }
}

}  // namespace
}  // namespace sluice::cli
