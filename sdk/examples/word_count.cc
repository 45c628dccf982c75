// Counts the words of a message: a plain program, no SDK. It reads stdin and prints "WORDS n" and
// the ten most frequent words, each with its count. Words are runs of letters, in lower case.
#include <algorithm>
#include <cctype>
#include <iostream>
#include <iterator>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

int main() {
  std::unordered_map<std::string, long> counts;
  long total = 0;
  std::string word;
  auto finish_word = [&] {
    if (word.empty()) return;
    counts[word]++;
    total++;
    word.clear();
  };
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  for (unsigned char c : text) {
    if (std::isalpha(c)) {
      word.push_back(static_cast<char>(std::tolower(c)));
    } else {
      finish_word();
    }
  }
  finish_word();

  std::vector<std::pair<std::string, long>> order(counts.begin(), counts.end());
  auto more_frequent = [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  };
  size_t shown = std::min<size_t>(10, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<long>(shown), order.end(),
                    more_frequent);
  std::cout << "WORDS " << total << '\n';
  for (size_t i = 0; i < shown; i++) {
    std::cout << order[i].second << ' ' << order[i].first << '\n';
  }
  return std::cout.flush() ? 0 : 1;
}
