// Unmodified programs give the results that they give outside.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "tests/executor/harness.h"

namespace sluice::vmm {
namespace {

std::string busybox_path() {
  const char* path = std::getenv("SLUICE_BUSYBOX");
  return path != nullptr ? path : "/bin/busybox";
}

// What the same busybox prints here for the same input.
std::string on_host(const std::string& arguments, const std::string& input) {
  std::string path = testing::TempDir() + "sluice-input";
  std::ofstream(path, std::ios::binary) << input;
  FILE* pipe = popen((busybox_path() + " " + arguments + " < " + path).c_str(), "r");
  std::string output;
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.append(buffer, got);
  pclose(pipe);
  std::remove(path.c_str());
  return output;
}

std::string some_text(size_t bytes) {
  std::string text;
  for (unsigned i = 0; text.size() < bytes; i++) {
    text += "line " + std::to_string(i * 7919 % 1009) + " of some text\n";
  }
  return text;
}

TEST(Busybox, Sha256OfAnyLengthEqualsTheHosts) {
  Loaded sha(busybox_path(), {"sha256sum"});
  EXPECT_TRUE(sha.snapshot().at_first_read());
  EXPECT_EQ(sha.call("").output,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  -\n");
  for (size_t size : {1, 63, 64, 100'000, 2'000'000}) {
    std::string input = some_text(size);
    CallResult r = sha.call(input);
    EXPECT_EQ(r.output, on_host("sha256sum", input)) << r.ending.message;
  }
}

TEST(Busybox, AppletsWork) {
  std::string input = some_text(20'000);
  struct Applet {
    std::vector<std::string> args;
    const char* on_host;
  };
  for (const Applet& a : std::initializer_list<Applet>{
           {{"cat"}, "cat"},
           {{"wc"}, "wc"},
           {{"sort"}, "sort"},
           {{"tr", "a-z", "A-Z"}, "tr a-z A-Z"},
           {{"sed", "s/line/row/"}, "sed s/line/row/"},
           {{"awk", "{n+=$2} END {print n}"}, "awk '{n+=$2} END {print n}'"},
           {{"grep", "-c", "1"}, "grep -c 1"},
           {{"uniq", "-c"}, "uniq -c"},
           {{"gzip", "-c"}, "gzip -c"},
           {{"tail", "-n", "3"}, "tail -n 3"}}) {
    Loaded applet(busybox_path(), a.args);
    CallResult r = applet.call(input);
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << a.on_host << ": " << r.ending.message;
    EXPECT_EQ(r.output, on_host(a.on_host, input)) << a.on_host << ": " << r.log;
    EXPECT_EQ(applet.call(input).output, r.output) << a.on_host << ", again";
  }
}

TEST(Cpp, RuntimeWorks) {
  Loaded runtime("runtime");
  for (int i = 0; i < 2; i++) {
    CallResult r = runtime.call("16\n4\n2.25\n");
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message << r.log;
    EXPECT_EQ(r.output, "3 7.500000\ncaught from the bottom\n1499\n");
    EXPECT_EQ(r.log, "fine");
  }
  Loaded uncaught("runtime", {"throw"});
  CallResult r = uncaught.call("1\n");
  EXPECT_EQ(r.ending.outcome, Outcome::kSignal);
  EXPECT_NE(r.log.find("nobody catches this"), std::string::npos);
}

TEST(Cpp, WordCountExampleCounts) {
  Loaded count("word_count");
  EXPECT_EQ(count.call("The cat and the dog; the END.").output,
            "WORDS 7\n3 the\n1 and\n1 cat\n1 dog\n1 end\n");
  EXPECT_EQ(count.call("").output, "WORDS 0\n");
}

TEST(System, CallsAnswerAsOnLinux) {
  Loaded system("system");
  for (int i = 0; i < 2; i++) {
    CallResult r = system.call("0123456789");
    EXPECT_EQ(r.ending.outcome, Outcome::kOk) << r.ending.message;
    EXPECT_EQ(r.output, "done\n");
  }
}

}  // namespace
}  // namespace sluice::vmm
