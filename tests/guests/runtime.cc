// What C++ programs lean on: constructors before main, exceptions, containers, streams, locales,
// floating point. Prints what it computed from its input.
#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Initialised {
  std::map<std::string, int> table;
  Initialised() {
    for (int i = 0; i < 1000; i++) table["key" + std::to_string(i)] = i;
  }
} initialised;

int depth(int n) {
  if (n == 0) throw std::runtime_error("from the bottom");
  std::string held(100, 'x');
  return depth(n - 1) + static_cast<int>(held.size());
}

}  // namespace

int main(int argc, char**) {
  std::vector<double> numbers;
  std::string line;
  while (std::getline(std::cin, line)) numbers.push_back(std::stod(line));
  std::sort(numbers.begin(), numbers.end());
  double sum = 0;
  for (double n : numbers) sum += std::sqrt(n);
  std::cout << std::fixed << std::setprecision(6) << numbers.size() << ' ' << sum << '\n';
  try {
    depth(50);
  } catch (const std::exception& e) {
    std::cout << "caught " << e.what() << '\n';
  }
  std::random_device device;
  std::mt19937 generator(device());
  std::vector<int> shuffled(1000);
  for (int i = 0; i < 1000; i++) shuffled[static_cast<size_t>(i)] = i;
  std::shuffle(shuffled.begin(), shuffled.end(), generator);
  std::sort(shuffled.begin(), shuffled.end());
  std::cout << initialised.table.at("key999") + shuffled[500] << std::endl;
  if (argc > 1) throw std::logic_error("nobody catches this");
  std::clog << "fine";
  return 0;
}
