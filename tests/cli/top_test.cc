#include <algorithm>

#include <gtest/gtest.h>

#include "tools/cli/top_model.h"

namespace sluice::cli {
namespace {

TopSample sample(int64_t time_us, const char* functions, const char* queues = "[]",
                 const char* subscriptions = "[]", const char* overview = "{}") {
  return {time_us, Json::parse(overview), Json::parse(queues), Json::parse(functions),
          Json::parse(subscriptions)};
}

std::string text(const Json& figures, size_t rows = 0, size_t columns = 200) {
  std::string all;
  for (const std::string& line : top_lines(figures, rows, columns)) all += line + "\n";
  return all;
}

TEST(Top, RatesAreDifferencesASecond) {
  const Json figures = top_figures(
      sample(0, R"([{"name":"f","version":1,"calls":100,"failures":1,
                     "stats":{"calls":100,"warm_hits":90,"run_us":1000,"exits":100,"dirty_pages":1600}}])",
             R"([{"name":"q","messages_ready":50}])", R"([{"name":"s","calls":10,"failed":2}])"),
      sample(2'000'000, R"([{"name":"f","version":1,"calls":300,"failures":2,
                     "stats":{"calls":300,"warm_hits":240,"run_us":51000,"exits":300,"dirty_pages":4800,
                              "sandboxes":4,"running":2,"target":5,"memory_bytes":1048576}}])",
             R"([{"name":"q","messages_ready":30}])", R"([{"name":"s","calls":30,"failed":3}])"));
  const Json& function = figures["functions"][0];
  EXPECT_EQ(function["calls_per_s"], 100);
  EXPECT_EQ(function["failures_per_s"], 0.5);
  EXPECT_EQ(function["warm_hit_rate"], 0.75);
  EXPECT_EQ(function["run_us"], 250);
  EXPECT_EQ(function["exits_per_call"], 1);
  EXPECT_EQ(function["pages_per_call"], 16);
  EXPECT_EQ(function["sandboxes"], 4);
  EXPECT_EQ(figures["queues"][0]["ready_per_s"], -10);
  EXPECT_EQ(figures["subscriptions"][0]["calls_per_s"], 10);
  EXPECT_EQ(figures["subscriptions"][0]["failed_per_s"], 0.5);
  EXPECT_EQ(figures["interval_ms"], 2000);
}

TEST(Top, WhatIsNewOrStartedAgainIsNoNonsense) {
  const Json figures = top_figures(
      sample(0, R"([{"name":"old","version":1,"calls":1000},{"name":"f","version":1,"calls":9}])"),
      sample(1'000'000,
             R"([{"name":"old","version":1,"calls":10},{"name":"f","version":2,"calls":7},
                            {"name":"new","version":1,"calls":5}])"));
  EXPECT_EQ(figures["functions"][0]["name"], "old");
  EXPECT_EQ(figures["functions"][0]["calls_per_s"], 10);
  EXPECT_TRUE(figures["functions"][1]["calls_per_s"].is_null());
  EXPECT_TRUE(figures["functions"][2]["calls_per_s"].is_null());
}

TEST(Top, NoTimeAndNoCallsDivideByNothing) {
  const TopSample same =
      sample(5, R"([{"name":"f","version":1,"calls":3,"stats":{"calls":3,"exits":3}}])");
  const Json figures = top_figures(same, same);
  EXPECT_EQ(figures["functions"][0]["calls_per_s"], 0);
  EXPECT_TRUE(figures["functions"][0]["exits_per_call"].is_null());
}

TEST(Top, AnswersOfAnotherShapeAreShownAsNothing) {
  for (const char* odd : {"null", "3", "\"x\"", "[]", "{}", "[1,null,[]]", "{\"a\":{\"b\":1}}",
                          "[{\"name\":7,\"calls\":\"x\",\"stats\":[]}]"}) {
    const TopSample sample{1, Json::parse(odd), Json::parse(odd), Json::parse(odd),
                           Json::parse(odd)};
    EXPECT_NE(text(top_figures(sample, sample)), "") << odd;
  }
  EXPECT_NE(text(Json::parse("[]")), "");
}

TEST(Top, NamesDoNotSteerTheTerminal) {
  const TopSample evil =
      sample(0, R"([{"name":"f\u001b[2J\n","version":1}])", R"([{"name":"q\u009b1m"}])");
  const std::string shown = text(top_figures(evil, evil));
  EXPECT_EQ(shown.find('\033'), std::string::npos);
  EXPECT_EQ(shown.find("\xC2\x9B"), std::string::npos);
  EXPECT_NE(shown.find("f\\x1b[2J\\x0a"), std::string::npos);
}

TEST(Top, FitsTheScreen) {
  Json queues = Json::array();
  Json functions = Json::array();
  for (int i = 0; i < 50; ++i) {
    queues.push_back({{"name", "queue \xC3\xA9" + std::to_string(i)}, {"messages_ready", i}});
    functions.push_back({{"name", "f" + std::to_string(i)}, {"version", 1}, {"calls", i}});
  }
  const TopSample many{0, Json::object(), queues, functions, Json::array()};
  const Json figures = top_figures(many, many);
  for (const size_t rows : {1u, 2u, 8u, 9u, 10u, 11u, 24u, 200u}) {
    for (const size_t columns : {1u, 7u, 80u}) {
      const auto lines = top_lines(figures, rows, columns);
      EXPECT_LE(lines.size(), rows);
      for (const std::string& line : lines) {
        EXPECT_LE(static_cast<size_t>(std::count_if(line.begin(), line.end(),
                                                    [](char c) { return (c & 0xC0) != 0x80; })),
                  columns);
      }
    }
  }
  const std::string shown = text(figures, 24);
  EXPECT_NE(shown.find("more"), std::string::npos);
  // The longest queue comes first, and all lists have their share.
  EXPECT_NE(shown.find("queue \xC3\xA9"
                       "49"),
            std::string::npos);
  EXPECT_NE(shown.find("FUNCTION"), std::string::npos);
}

TEST(Top, MemoryStandsAgainstItsBudget) {
  const TopSample busy = sample(
      0, "[]", "[]", "[]",
      R"json({"executor":{"state":"running","sandbox":"kvm","backend":"kvm (hardware)","calls":3,
              "memory_bytes":268435456,"memory_budget_bytes":1073741824}})json");
  EXPECT_NE(text(top_figures(busy, busy)).find("memory 256 MiB of 1 GiB (25%)"), std::string::npos);
  const TopSample process =
      sample(0, "[]", "[]", "[]", R"({"executor":{"state":"running","sandbox":"process"}})");
  EXPECT_NE(text(top_figures(process, process)).find("JAILED PROCESSES"), std::string::npos);
}

}  // namespace
}  // namespace sluice::cli
