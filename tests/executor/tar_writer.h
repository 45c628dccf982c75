#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

namespace sluice::vmm {

// Writes ustar archives, by POSIX, for tests.
class TarWriter {
 public:
  TarWriter& directory(const std::string& path) { return add(path, '5', "", 0755, {}); }
  TarWriter& file(const std::string& path, const std::string& text, unsigned mode = 0644) {
    return add(path, '0', "", mode, text);
  }
  TarWriter& symlink(const std::string& path, const std::string& to) {
    return add(path, '2', to, 0777, {});
  }
  TarWriter& hard_link(const std::string& path, const std::string& to) {
    return add(path, '1', to, 0644, {});
  }
  // The bytes of a file of this machine.
  TarWriter& copy(const std::string& path, const std::string& from) {
    std::ifstream in(from, std::ios::binary);
    return file(path, {std::istreambuf_iterator<char>(in), {}}, 0755);
  }
  TarWriter& add(const std::string& path, char type, const std::string& link, unsigned mode,
                 const std::string& data) {
    char h[512] = {};
    std::strncpy(h, path.c_str(), 100);
    std::snprintf(h + 100, 8, "%07o", mode);
    std::snprintf(h + 124, 12, "%011lo", static_cast<unsigned long>(data.size()));
    std::memset(h + 148, ' ', 8);
    h[156] = type;
    std::strncpy(h + 157, link.c_str(), 100);
    std::memcpy(h + 257, "ustar\00000", 8);
    unsigned sum = 0;
    for (char c : h) sum += static_cast<uint8_t>(c);
    std::snprintf(h + 148, 8, "%06o", sum);
    bytes_.insert(bytes_.end(), h, h + sizeof h);
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    bytes_.resize((bytes_.size() + 511) / 512 * 512);
    return *this;
  }
  std::vector<uint8_t> finish() const {
    std::vector<uint8_t> all = bytes_;
    all.resize(all.size() + 1024);
    return all;
  }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace sluice::vmm
