#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>

#include <gtest/gtest.h>

#include "tests/sdk/frame_builder.h"

extern "C" {
#include "sdk/c/call.h"
}

// Answers that the C library builds, against a model, and at their limits.
namespace sluice::sdk_test {
namespace {

class AnswerTest : public testing::Test {
 protected:
  AnswerTest() { begin(3); }
  ~AnswerTest() override {
    free(call_.out.data);
    free(call_.arranged.data);
  }

  // Starts a call of so many records.
  void begin(uint32_t records) {
    frame_ = invocation(std::vector<std::string>(records, record("b")));
    call_.in.data = reinterpret_cast<uint8_t*>(frame_.data());
    call_.frame_bytes = frame_.size();
    call_.index = call_.first_index;
    call_.index_capacity = kRecordsFirst;
    ASSERT_STREQ(sluice_parse_(&call_), nullptr);
    if (call_.out.data == nullptr) {
      ASSERT_TRUE(sluice_grow_(&call_.out, kBufferBytes, 0));
    }
    sluice_clear_answer_(&call_);
  }

  struct Items {
    std::multimap<int, std::string> by_tag;
    bool drops_state = false;
    size_t count(int tag) const { return by_tag.count(tag); }
    std::string only(int tag) const {
      EXPECT_EQ(by_tag.count(tag), 1u) << tag;
      return by_tag.count(tag) == 1 ? by_tag.find(tag)->second : "";
    }
  };

  Items finish() {
    size_t size = 0;
    const uint8_t* const frame = sluice_finish_answer_(&call_, &size);
    EXPECT_EQ(load_u32(frame) + 4u, size);
    EXPECT_EQ(load_u16(frame + 4), 1);
    Items items;
    items.drops_state = load_u16(frame + 6) == 1;
    const uint8_t* at = frame + kAnswerHeaderBytes;
    struct item item;
    int last = 0;
    while (sluice_next_item_(&at, frame + size, &item) > 0) {
      EXPECT_LE(last, item.tag);
      last = item.tag;
      items.by_tag.emplace(item.tag,
                           std::string(reinterpret_cast<const char*>(item.content), item.size));
    }
    EXPECT_EQ(at, frame + size);
    return items;
  }

  sluice_call call_{};
  std::string frame_;
};

TEST_F(AnswerTest, WithoutAnythingIsEmpty) { EXPECT_TRUE(finish().by_tag.empty()); }

TEST_F(AnswerTest, UndoTakesBackAllButLogs) {
  sluice_set_state(&call_, "old", 3);
  sluice_result(&call_, 0, "kept", 4);
  const sluice_mark mark = sluice_mark_here(&call_);
  const sluice_output output{.routing_key = sluice_text("q")};
  EXPECT_EQ(sluice_result(&call_, 1, "gone", 4), 0);
  EXPECT_EQ(sluice_result(&call_, SLUICE_WHOLE, "gone", 4), 0);
  EXPECT_EQ(sluice_fail_record(&call_, 2, "gone"), 0);
  EXPECT_EQ(sluice_publish(&call_, &output), 0);
  EXPECT_EQ(sluice_set_state(&call_, "new", 3), 0);
  EXPECT_EQ(sluice_set_state(&call_, "newer", 5), 0);
  EXPECT_EQ(sluice_result(&call_, 77, "no such record", 4), -1);
  sluice_log(&call_, SLUICE_INFO, "stays");
  sluice_undo(&call_, mark);
  // All of it can be said again.
  EXPECT_EQ(sluice_result(&call_, 1, "anew", 4), 0);
  EXPECT_EQ(sluice_result(&call_, SLUICE_WHOLE, "all", 3), 0);
  const Items items = finish();
  EXPECT_EQ(items.only(kTagNewState), "old");
  EXPECT_EQ(items.count(kTagResult), 3u);
  EXPECT_EQ(items.count(kTagFailed) + items.count(kTagOutput) + items.count(kTagFailure), 0u);
  EXPECT_EQ(items.only(kTagLog), "\1stays");
}

TEST_F(AnswerTest, UndoneDropLeavesTheState) {
  sluice_set_state(&call_, "old", 3);
  const sluice_mark mark = sluice_mark_here(&call_);
  sluice_drop_state(&call_);
  sluice_undo(&call_, mark);
  const Items items = finish();
  EXPECT_EQ(items.only(kTagNewState), "old");
  EXPECT_FALSE(items.drops_state);
}

TEST_F(AnswerTest, AMarkOfNothingIsLeftAlone) {
  sluice_result(&call_, 0, "r", 1);
  sluice_undo(&call_, sluice_mark{});
  sluice_undo(&call_, sluice_mark{.used_ = SIZE_MAX});
  EXPECT_EQ(finish().count(kTagResult), 1u);
}

TEST_F(AnswerTest, MisuseBecomesTheReasonOfAFailure) {
  sluice_log(&call_, SLUICE_INFO, "before");
  sluice_result(&call_, 0, "r", 1);
  EXPECT_EQ(sluice_result(&call_, 0, "r", 1), -1);
  EXPECT_EQ(sluice_fail_record(&call_, 3, "x"), -1);
  const Items items = finish();
  EXPECT_EQ(items.only(kTagFailure), "a second result was given where there is one already");
  EXPECT_EQ(items.only(kTagLog), "\1before");
  EXPECT_EQ(items.count(kTagResult), 0u);
}

TEST_F(AnswerTest, ItsOwnReasonComesBeforeMisuse) {
  sluice_result(&call_, 9, "r", 1);
  sluice_fail(&call_, "mine %d", 1);
  sluice_fail(&call_, "second");
  EXPECT_EQ(finish().only(kTagFailure), "mine 1");
}

TEST_F(AnswerTest, FormattedTextIsCut) {
  sluice_log(&call_, SLUICE_INFO, "%s", std::string(kFormattedBytesMax - 1, 'a').c_str());
  EXPECT_EQ(finish().only(kTagLog).size(), size_t{kFormattedBytesMax});
  begin(1);
  sluice_log(&call_, SLUICE_INFO, "%s", std::string(kFormattedBytesMax, 'a').c_str());
  EXPECT_EQ(finish().only(kTagLog).size(), size_t{kFormattedBytesMax});
}

TEST_F(AnswerTest, HoldsAsManyItemsAsTheProtocolAllows) {
  const sluice_output output{};
  for (int more : {-1, 0, 1}) {
    begin(1);
    for (int i = 0; i < kAnswerItemsMax + more; i++) sluice_publish(&call_, &output);
    const Items items = finish();
    if (more <= 0) {
      EXPECT_EQ(items.count(kTagOutput), static_cast<size_t>(kAnswerItemsMax + more));
    } else {
      EXPECT_EQ(items.only(kTagFailure), "the answer has too many items");
    }
  }
}

TEST_F(AnswerTest, DropsLogLinesBeyondItsLimit) {
  for (int more : {-1, 0, 1}) {
    begin(1);
    for (int i = 0; i < kLogLinesMax + more; i++) sluice_log_bytes(&call_, SLUICE_INFO, "", 0);
    const Items items = finish();
    EXPECT_EQ(items.count(kTagLog), static_cast<size_t>(kLogLinesMax + more));
    EXPECT_EQ(items.count(kTagFailure), 0u);
    const std::string last = std::prev(items.by_tag.end())->second;
    EXPECT_EQ(last, more == 1 ? "\2"
                                "1 more log lines were dropped"
                              : "\1");
  }
}

TEST_F(AnswerTest, DropsLogBytesBeyondItsLimit) {
  const std::string line(kLogBytesMax - 1, 'l');
  sluice_log_bytes(&call_, SLUICE_INFO, line.data(), line.size());
  sluice_log_bytes(&call_, SLUICE_INFO, "l", 1);
  EXPECT_EQ(finish().count(kTagLog), 2u);
  begin(1);
  sluice_log_bytes(&call_, SLUICE_INFO, line.data(), line.size());
  sluice_log_bytes(&call_, SLUICE_INFO, "ll", 2);
  const Items items = finish();
  EXPECT_EQ(std::prev(items.by_tag.end())->second,
            "\2"
            "1 more log lines were dropped");
}

TEST_F(AnswerTest, ALevelThatThereIsNotIsAnError) {
  sluice_log_bytes(&call_, static_cast<sluice_level>(200), "x", 1);
  EXPECT_EQ(finish().only(kTagLog), "\3x");
}

TEST_F(AnswerTest, AnOutputWithAKindThatThereIsNotIsRefused) {
  const sluice_header header{.name = sluice_text("n"), .kind = 8};
  const sluice_output output{.headers = &header, .header_count = 1};
  EXPECT_EQ(sluice_publish(&call_, &output), -1);
  EXPECT_STREQ(sluice_error(), "a header has a kind that there is not");
}

// A random series of what a handler can say, with marks and undos, beside a model that keeps it as
// plain values.
TEST_F(AnswerTest, IsWhatAModelSays) {
  const char* const given = getenv("SLUICE_SEED");
  const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "SLUICE_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  struct Model {
    std::optional<std::string> state;
    bool drop = false;
    std::map<uint32_t, std::string> results, failed;
    size_t outputs = 0;
  };
  for (int round = 0; round < 2000; round++) {
    begin(3);
    Model model;
    size_t logs = 0;
    std::vector<std::pair<sluice_mark, Model>> marks;
    for (uint64_t steps = random() % 30; steps > 0; steps--) {
      const std::string text(random() % 40, static_cast<char>('a' + random() % 26));
      const auto i = static_cast<uint32_t>(random() % 3);
      const sluice_output output{.body = {text.data(), text.size()}};
      switch (random() % 8) {
        case 0:
          if (model.results.contains(i)) break;
          sluice_result(&call_, i, text.data(), text.size());
          model.results[i] = text;
          break;
        case 1:
          sluice_fail_record_bytes(&call_, i, text.data(), text.size());
          model.failed.emplace(i, text);
          break;
        case 2:
          sluice_set_state(&call_, text.data(), text.size());
          model.state = text;
          model.drop = false;
          break;
        case 3:
          sluice_drop_state(&call_);
          model.state.reset();
          model.drop = true;
          break;
        case 4:
          sluice_publish(&call_, &output);
          model.outputs++;
          break;
        case 5:
          sluice_log_bytes(&call_, SLUICE_INFO, text.data(), text.size());
          logs++;
          break;
        case 6:
          marks.emplace_back(sluice_mark_here(&call_), model);
          break;
        default:
          if (marks.empty()) break;
          sluice_undo(&call_, marks.back().first);
          model = marks.back().second;
          marks.pop_back();
      }
    }
    const Items items = finish();
    ASSERT_EQ(items.count(kTagLog), logs);
    ASSERT_EQ(items.count(kTagOutput), model.outputs);
    ASSERT_EQ(items.count(kTagResult), model.results.size());
    ASSERT_EQ(items.count(kTagFailed), model.failed.size());
    ASSERT_EQ(items.count(kTagFailure), 0u);
    ASSERT_EQ(items.drops_state, model.drop);
    ASSERT_EQ(items.count(kTagNewState), model.state ? 1u : 0u);
    if (model.state) {
      ASSERT_EQ(items.only(kTagNewState), *model.state);
    }
    for (const auto& [tag, content] : items.by_tag) {
      if (tag != kTagResult && tag != kTagFailed) continue;
      const uint32_t record = load_u32(reinterpret_cast<const uint8_t*>(content.data()));
      const auto& expected = tag == kTagResult ? model.results : model.failed;
      ASSERT_EQ(content.substr(4), expected.at(record));
    }
  }
}

}  // namespace
}  // namespace sluice::sdk_test
