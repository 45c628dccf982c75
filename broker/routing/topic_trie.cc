#include "broker/routing/topic_trie.h"

#include <algorithm>
#include <unordered_set>

namespace sluice::broker {

namespace {

std::vector<std::string_view> words_of(std::string_view key) {
  std::vector<std::string_view> words;
  if (key.empty()) return words;
  for (;;) {
    size_t dot = key.find('.');
    words.push_back(key.substr(0, dot));
    if (dot == std::string_view::npos) return words;
    key.remove_prefix(dot + 1);
  }
}

}  // namespace

struct TopicTrie::Node {
  std::map<std::string, std::unique_ptr<Node>, std::less<>> children;
  std::vector<Queue*> queues;
  bool hash = false;  // reached by "#": stays active for any word
};

// The nodes that the words so far lead to, each once.
class TopicTrie::ActiveNodes {
 public:
  void add(const Node* node) {
    if (!insert(node)) return;
    nodes_.push_back(node);
    // "#" may stand for no word at all.
    if (auto hash = node->children.find("#"); hash != node->children.end()) {
      add(hash->second.get());
    }
  }
  void clear() {
    nodes_.clear();
    index_.clear();
  }
  auto begin() const { return nodes_.begin(); }
  auto end() const { return nodes_.end(); }

 private:
  // As long as they are few, looking at all is faster than an index.
  static constexpr size_t kFew = 8;

  bool insert(const Node* node) {
    if (nodes_.size() < kFew) return std::ranges::find(nodes_, node) == nodes_.end();
    if (index_.empty()) index_.insert(nodes_.begin(), nodes_.end());
    return index_.insert(node).second;
  }

  std::vector<const Node*> nodes_;
  std::unordered_set<const Node*> index_;
};

TopicTrie::TopicTrie() : root_(std::make_unique<Node>()) {}
TopicTrie::~TopicTrie() = default;

void TopicTrie::add(std::string_view pattern, Queue* queue) {
  Node* node = root_.get();
  for (std::string_view word : words_of(pattern)) {
    auto& child = node->children[std::string(word)];
    if (child == nullptr) {
      child = std::make_unique<Node>();
      child->hash = word == "#";
    }
    node = child.get();
  }
  node->queues.push_back(queue);
}

bool TopicTrie::remove_below(Node& node, const std::vector<std::string_view>& words, size_t at,
                             Queue* queue) {
  if (at == words.size()) {
    auto found = std::ranges::find(node.queues, queue);
    if (found != node.queues.end()) node.queues.erase(found);
  } else if (auto child = node.children.find(words[at]); child != node.children.end()) {
    if (remove_below(*child->second, words, at + 1, queue)) node.children.erase(child);
  }
  return node.queues.empty() && node.children.empty();
}

void TopicTrie::remove(std::string_view pattern, Queue* queue) {
  remove_below(*root_, words_of(pattern), 0, queue);
}

void TopicTrie::match(std::string_view routing_key, const std::function<void(Queue*)>& sink) const {
  ActiveNodes active, next;
  active.add(root_.get());
  for (std::string_view word : words_of(routing_key)) {
    next.clear();
    for (const Node* node : active) {
      if (node->hash) next.add(node);
      // Words that are spelt like the wildcards are just words in a key.
      if (auto child = node->children.find(word);
          child != node->children.end() && word != "#" && word != "*") {
        next.add(child->second.get());
      }
      if (auto star = node->children.find("*"); star != node->children.end()) {
        next.add(star->second.get());
      }
    }
    std::swap(active, next);
  }
  for (const Node* node : active) {
    for (Queue* queue : node->queues) sink(queue);
  }
}

}  // namespace sluice::broker
