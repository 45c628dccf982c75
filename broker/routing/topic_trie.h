#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::broker {

class Queue;

// Topic patterns (AMQP 0-9-1 section 3.1.3.3): words between dots, "*" for one word, "#" for none
// or more. Matching follows all patterns at once, each node at most once a word, so the cost is
// bounded by words times nodes whatever the patterns are. "a..b" has an empty word; the empty key
// has none.
class TopicTrie {
 public:
  TopicTrie();
  ~TopicTrie();

  void add(std::string_view pattern, Queue* queue);
  // Takes one such entry out, if there is one.
  void remove(std::string_view pattern, Queue* queue);
  // A queue is reported once for each of its patterns that matches.
  void match(std::string_view routing_key, const std::function<void(Queue*)>& sink) const;

 private:
  struct Node;
  class ActiveNodes;
  static bool remove_below(Node& node, const std::vector<std::string_view>& words, size_t at,
                           Queue* queue);

  std::unique_ptr<Node> root_;
};

}  // namespace sluice::broker
