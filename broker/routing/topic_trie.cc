#include "broker/routing/topic_trie.h"

#include <algorithm>

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
  bool hash = false;          // reached by "#": stays active for any word
  uint64_t activated_at = 0;  // the step in which it was last made active
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

void TopicTrie::activate(Node* node, std::vector<Node*>& active) {
  if (node->activated_at == step_) return;
  node->activated_at = step_;
  active.push_back(node);
  // "#" may stand for no word at all.
  if (auto hash = node->children.find("#"); hash != node->children.end()) {
    activate(hash->second.get(), active);
  }
}

void TopicTrie::match(std::string_view routing_key, const std::function<void(Queue*)>& sink) {
  std::vector<Node*> active, next;
  ++step_;
  activate(root_.get(), active);
  for (std::string_view word : words_of(routing_key)) {
    ++step_;
    next.clear();
    for (Node* node : active) {
      if (node->hash) activate(node, next);
      // Words that are spelt like the wildcards are just words in a key.
      if (auto child = node->children.find(word);
          child != node->children.end() && word != "#" && word != "*") {
        activate(child->second.get(), next);
      }
      if (auto star = node->children.find("*"); star != node->children.end()) {
        activate(star->second.get(), next);
      }
    }
    active.swap(next);
  }
  for (Node* node : active) {
    for (Queue* queue : node->queues) sink(queue);
  }
}

}  // namespace sluice::broker
