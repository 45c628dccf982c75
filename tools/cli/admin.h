#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tools/cli/parse.h"

namespace sluice::cli {

// Keeps the order in which the broker wrote the fields.
using Json = nlohmann::ordered_json;

// The only virtual host so far.
inline constexpr std::string_view kVhost = "/";

// "/api/" and the parts, each percent-encoded.
std::string api_path(std::initializer_list<std::string_view> parts);

// --arg K=V pairs as an `arguments` object. true and false become booleans, whole numbers numbers:
// what brokers expect of x-max-length and its like.
Json arguments_json(const std::vector<std::pair<std::string, std::string>>& arguments);

// `value` as the text of a form's part; kInvalid where a name in it is not UTF-8.
Expected<std::string> json_text(const Json& value);

// A client of broker/admin/API.md, over HTTP. One request at a time, on the caller's thread; the
// connection is kept for the next one. Answers with a status of 400 or more are Errors that carry
// the broker's reason.
class Admin {
 public:
  struct Answer {
    int status;
    Json body;  // null where there was none
  };

  // `url` as in --admin. Connects with the first request.
  static Expected<Admin> open(const std::string& url);
  Admin(Admin&&) noexcept;
  Admin& operator=(Admin&&) noexcept;
  ~Admin();

  Expected<Answer> get(const std::string& path);
  Expected<Answer> put(const std::string& path, const Json& body);
  Expected<Answer> post(const std::string& path, const Json& body);
  // A body that is not JSON.
  Expected<Answer> post_bytes(const std::string& path, const std::string& body);
  Expected<Answer> del(const std::string& path);
  // A multipart form. `sent` is told on the way how many bytes of how many have gone.
  struct Part {
    std::string name;
    std::string content;
    bool is_json = false;
  };
  using Sent = std::function<void(uint64_t bytes, uint64_t of)>;
  Expected<Answer> put_form(const std::string& path, const std::vector<Part>& parts,
                            const Sent& sent);
  Expected<Answer> post_form(const std::string& path, const std::vector<Part>& parts,
                             const Sent& sent);

 private:
  struct Impl;
  explicit Admin(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::cli
