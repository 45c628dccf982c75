#include "tools/cli/admin.h"

#include <charconv>
#include <chrono>
#include <random>
#include <utility>

#include <fmt/format.h>
#include <sys/socket.h>

// A broker that answers before it has read all, a refusal say, must not end the program by SIGPIPE.
#define CPPHTTPLIB_SEND_FLAGS MSG_NOSIGNAL
#include <httplib.h>

#include "tools/cli/limits.h"
#include "tools/cli/reachable.h"

namespace sluice::cli {
namespace {

Code code_of_status(int status) {
  switch (status) {
    case 400:
    case 401:
    case 405:
    case 422:
      return Code::kInvalid;
    case 404:
      return Code::kNotFound;
    case 409:
      return Code::kExists;
    case 503:
      return Code::kUnavailable;
    default:
      return Code::kInternal;
  }
}

// A multipart form (RFC 7578) as the pieces that it is sent in, so that a large part is not copied.
class Form {
 public:
  explicit Form(const std::vector<Admin::Part>& parts) : boundary_(make_boundary()) {
    for (const Admin::Part& part : parts) {
      heads_.push_back(fmt::format(
          "{}--{}\r\nContent-Disposition: form-data; name=\"{}\"{}\r\nContent-Type: {}\r\n\r\n",
          heads_.empty() ? "" : "\r\n", boundary_, part.name,
          part.is_json ? "" : fmt::format("; filename=\"{}\"", part.name),
          part.is_json ? "application/json" : "application/octet-stream"));
    }
    tail_ = fmt::format("\r\n--{}--\r\n", boundary_);
    for (size_t i = 0; i < parts.size(); ++i) {
      pieces_.emplace_back(heads_[i]);
      pieces_.emplace_back(parts[i].content);
    }
    pieces_.emplace_back(tail_);
    for (const std::string_view piece : pieces_) size_ += piece.size();
  }
  Form(const Form&) = delete;
  Form& operator=(const Form&) = delete;

  size_t size() const { return size_; }
  std::string content_type() const { return "multipart/form-data; boundary=" + boundary_; }

  // What lies at `offset`, at most kUploadPieceBytes of it.
  std::string_view at(size_t offset) const {
    for (const std::string_view piece : pieces_) {
      if (offset < piece.size()) return piece.substr(offset, kUploadPieceBytes);
      offset -= piece.size();
    }
    return "";
  }

 private:
  // Random, so that no content can have it.
  static std::string make_boundary() {
    std::random_device random;
    return fmt::format("sluice-{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
  }

  const std::string boundary_;
  std::vector<std::string> heads_;
  std::string tail_;
  std::vector<std::string_view> pieces_;
  size_t size_ = 0;
};

}  // namespace

// JSON is UTF-8; a name from the command line may be anything.
Expected<std::string> json_text(const Json& body) {
  try {
    return body.dump();
  } catch (const Json::type_error&) {
    return fail(Code::kInvalid, "names and values must be UTF-8 text");
  }
}

struct Admin::Impl {
  Url url;
  httplib::Client client;

  explicit Impl(Url broker) : url(std::move(broker)), client(url.host, url.port) {
    client.set_basic_auth(url.user, url.password);
    client.set_url_encode(false);  // api_path() has done it
    client.set_keep_alive(true);
    client.set_tcp_nodelay(true);
    client.set_connection_timeout(std::chrono::milliseconds(kConnectTimeoutMs));
    client.set_read_timeout(std::chrono::milliseconds(kAnswerTimeoutMs));
    client.set_write_timeout(std::chrono::milliseconds(kAnswerTimeoutMs));
  }

  Expected<Answer> answer(const httplib::Result& result) {
    if (!result) return fail(Code::kUnavailable, unreached(result.error()));
    const httplib::Response& response = *result;
    Json body = response.body.empty() ? Json() : Json::parse(response.body, nullptr, false);
    if (response.status >= 400) {
      return fail(code_of_status(response.status), refused(response.status, body));
    }
    if (body.is_discarded()) {
      return fail(Code::kInternal,
                  fmt::format("what answers at http://{} does not speak JSON; is this a broker's "
                              "admin address?",
                              url.endpoint()));
    }
    return Answer{response.status, std::move(body)};
  }

  static httplib::ContentProvider provider(const Form& form, const Sent& sent) {
    return [&form, &sent](size_t offset, size_t, httplib::DataSink& sink) {
      const std::string_view piece = form.at(offset);
      sent(offset + piece.size(), form.size());
      return sink.write(piece.data(), piece.size());
    };
  }

  std::string unreached(httplib::Error error) const {
    switch (error) {
      case httplib::Error::Read:
        return fmt::format("the broker at http://{} did not finish its answer; did it stop?",
                           url.endpoint());
      case httplib::Error::Write:
        return fmt::format("the broker at http://{} stopped taking the request", url.endpoint());
      default:
        return cannot_reach(url, "http");
    }
  }

  std::string refused(int status, const Json& body) const {
    if (status == 401) {
      return fmt::format(
          "the broker refused user '{}'; check the name and password in --admin or "
          "SLUICE_ADMIN",
          url.user);
    }
    if (body.is_object()) {
      const auto reason = body.find("reason");
      if (reason != body.end() && reason->is_string()) return reason->get<std::string>();
    }
    if (status == 413) {
      return "the broker takes no request as large as that; make the image or the root file system "
             "smaller";
    }
    return fmt::format("the broker answered with HTTP status {} and no reason", status);
  }
};

std::string api_path(std::initializer_list<std::string_view> parts) {
  std::string path = "/api";
  for (const std::string_view part : parts) path += "/" + percent_encode(part);
  return path;
}

Json arguments_json(const std::vector<std::pair<std::string, std::string>>& arguments) {
  Json object = Json::object();
  for (const auto& [key, value] : arguments) {
    int64_t number = 0;
    const char* end = value.data() + value.size();
    const auto parsed = std::from_chars(value.data(), end, number);
    if (value == "true" || value == "false") {
      object[key] = value == "true";
    } else if (parsed.ec == std::errc() && parsed.ptr == end) {
      object[key] = number;
    } else {
      object[key] = value;
    }
  }
  return object;
}

Expected<Admin> Admin::open(const std::string& url) {
  auto parsed = parse_url(url, "http", 15672);
  if (!parsed) return fail(Code::kInvalid, "--admin: " + parsed.error().message);
  return Admin(std::make_unique<Impl>(std::move(*parsed)));
}

Admin::Admin(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Admin::Admin(Admin&&) noexcept = default;
Admin& Admin::operator=(Admin&&) noexcept = default;
Admin::~Admin() = default;

Expected<Admin::Answer> Admin::get(const std::string& path) {
  return impl_->answer(impl_->client.Get(path));
}

Expected<Admin::Answer> Admin::put(const std::string& path, const Json& body) {
  const auto text = json_text(body);
  if (!text) return std::unexpected(text.error());
  return impl_->answer(impl_->client.Put(path, *text, "application/json"));
}

Expected<Admin::Answer> Admin::post(const std::string& path, const Json& body) {
  const auto text = json_text(body);
  if (!text) return std::unexpected(text.error());
  return impl_->answer(impl_->client.Post(path, *text, "application/json"));
}

Expected<Admin::Answer> Admin::post_bytes(const std::string& path, const std::string& body) {
  return impl_->answer(impl_->client.Post(path, body, "application/octet-stream"));
}

Expected<Admin::Answer> Admin::del(const std::string& path) {
  return impl_->answer(impl_->client.Delete(path));
}

Expected<Admin::Answer> Admin::put_form(const std::string& path, const std::vector<Part>& parts,
                                        const Sent& sent) {
  const Form form(parts);
  return impl_->answer(impl_->client.Put(path, httplib::Headers{}, form.size(),
                                         impl_->provider(form, sent), form.content_type()));
}

Expected<Admin::Answer> Admin::post_form(const std::string& path, const std::vector<Part>& parts,
                                         const Sent& sent) {
  const Form form(parts);
  return impl_->answer(impl_->client.Post(path, httplib::Headers{}, form.size(),
                                          impl_->provider(form, sent), form.content_type()));
}

}  // namespace sluice::cli
