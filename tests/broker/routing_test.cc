#include <random>
#include <set>

#include <gtest/gtest.h>

#include "broker/routing/exchange.h"
#include "broker/routing/topic_trie.h"

namespace sluice::broker {
namespace {

Queue* fake_queue(size_t number) { return reinterpret_cast<Queue*>(number * 16); }

std::multiset<Queue*> matched(TopicTrie& trie, std::string_view key) {
  std::multiset<Queue*> queues;
  trie.match(key, [&](Queue* queue) { queues.insert(queue); });
  return queues;
}

struct TopicCase {
  const char* pattern;
  const char* key;
  bool match;
};

TEST(TopicTrie, FollowsTheSpecification) {
  for (const TopicCase& c : std::vector<TopicCase>{
           {"a.b", "a.b", true},   {"a.b", "a", false},        {"a.b", "a.b.c", false},
           {"a.*", "a.b", true},   {"a.*", "a", false},        {"a.*", "a.b.c", false},
           {"*", "a", true},       {"*", "", false},           {"*", "a.b", false},
           {"#", "", true},        {"#", "a", true},           {"#", "a.b.c", true},
           {"a.#", "a", true},     {"a.#", "a.b.c", true},     {"a.#", "b", false},
           {"#.z", "z", true},     {"#.z", "a.b.z", true},     {"#.z", "z.a", false},
           {"a.#.z", "a.z", true}, {"a.#.z", "a.b.c.z", true}, {"a.#.z", "a.b", false},
           {"*.#", "", false},     {"*.#", "a.b", true},       {"#.#", "", true},
           {"#.*", "a", true},     {"#.*", "", false},         {"a.*.c", "a..c", true},
           {"", "", true},         {"", "a", false},           {"a.", "a.", true},
           {"*.*", "a.", true},    {"#.a.#.a.#", "a", false},  {"#.a.#.a.#", "b.a.c.a", true},
           {"*", "#", true},       {"a", "*", false},
       }) {
    TopicTrie trie;
    trie.add(c.pattern, fake_queue(1));
    EXPECT_EQ(matched(trie, c.key).size(), c.match ? 1u : 0u) << c.pattern << " ~ " << c.key;
    trie.remove(c.pattern, fake_queue(1));
    EXPECT_TRUE(matched(trie, c.key).empty());
  }
}

// Dozens of "#" in a row would take a backtracking matcher longer than the universe has.
TEST(TopicTrie, HostilePatternsCostLittle) {
  TopicTrie trie;
  std::string pattern = "#";
  for (int i = 0; i < 60; ++i) pattern += ".#.a";
  trie.add(pattern, fake_queue(1));
  std::string key = "a";
  while (key.size() < 250) key += ".a";
  EXPECT_EQ(matched(trie, key).size(), 1u);
  EXPECT_TRUE(matched(trie, key + ".b").empty());
}

bool reference_match(const std::vector<std::string>& pattern, size_t p,
                     const std::vector<std::string>& key, size_t k) {
  if (p == pattern.size()) return k == key.size();
  if (pattern[p] == "#") {
    for (size_t skip = k; skip <= key.size(); ++skip) {
      if (reference_match(pattern, p + 1, key, skip)) return true;
    }
    return false;
  }
  if (k == key.size()) return false;
  return (pattern[p] == "*" || pattern[p] == key[k]) && reference_match(pattern, p + 1, key, k + 1);
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) text += (i == 0 ? "" : ".") + words[i];
  return text;
}

TEST(TopicTrie, AgreesWithAReferenceOnRandomPatterns) {
  unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string> words = {"a", "b", "*", "#"};
  for (int round = 0; round < 200; ++round) {
    TopicTrie trie;
    std::vector<std::vector<std::string>> patterns(8);
    for (size_t i = 0; i < patterns.size(); ++i) {
      for (size_t n = 1 + random() % 4; n > 0; --n) patterns[i].push_back(words[random() % 4]);
      trie.add(joined(patterns[i]), fake_queue(i + 1));
    }
    std::vector<std::string> key;
    for (size_t n = random() % 5; n > 0; --n) key.push_back(words[random() % 2]);
    std::multiset<Queue*> wanted;
    for (size_t i = 0; i < patterns.size(); ++i) {
      if (reference_match(patterns[i], 0, key, 0)) wanted.insert(fake_queue(i + 1));
    }
    EXPECT_EQ(matched(trie, joined(key)), wanted) << joined(key);
  }
}

size_t routed(Exchange& exchange, std::string_view key, const amqp::Table* headers = nullptr) {
  size_t count = 0;
  exchange.route({key, [&] { return headers; }}, [&](Queue*) { ++count; });
  return count;
}

TEST(Exchange, HeadersMatchAllAnyAndPresence) {
  Exchange exchange({.name = "h", .type = "headers"});
  auto arguments = [](const char* mode) {
    amqp::Table table;
    table.set("x-match", std::string(mode));
    table.set("colour", std::string("red"));
    table.set("size", int32_t{3});
    table.set("there", amqp::Field());
    return table;
  };
  amqp::Table headers;
  headers.set("colour", std::string("red"));
  headers.set("size", int64_t{3});
  for (auto [mode, without, with] : {std::tuple{"all", 0u, 1u}, {"any", 1u, 1u}}) {
    Binding binding{fake_queue(1), "", arguments(mode)};
    ASSERT_TRUE(exchange.bind(binding));
    amqp::Table complete = headers;
    complete.set("there", std::string("anything"));
    EXPECT_EQ(routed(exchange, "", &headers), without) << mode;
    EXPECT_EQ(routed(exchange, "", &complete), with) << mode;
    EXPECT_EQ(routed(exchange, "", nullptr), 0u) << mode;
    ASSERT_TRUE(exchange.unbind(binding));
  }
}

TEST(Exchange, BindingsAreUniqueAndLeaveWithTheirQueue) {
  for (const char* type : {"direct", "fanout", "topic", "headers"}) {
    Exchange exchange({.name = "e", .type = type});
    EXPECT_TRUE(exchange.bind({fake_queue(1), "k", {}}));
    EXPECT_FALSE(exchange.bind({fake_queue(1), "k", {}}));
    EXPECT_TRUE(exchange.bind({fake_queue(1), "l", {}}));
    EXPECT_TRUE(exchange.bind({fake_queue(2), "k", {}}));
    EXPECT_FALSE(exchange.unbind({fake_queue(2), "l", {}}));
    EXPECT_EQ(exchange.unbind_all(fake_queue(1)).size(), 2u);
    EXPECT_EQ(routed(exchange, "k"), 1u) << type;
    EXPECT_TRUE(exchange.unbind({fake_queue(2), "k", {}}));
    EXPECT_EQ(routed(exchange, "k"), 0u) << type;
  }
}

}  // namespace
}  // namespace sluice::broker
