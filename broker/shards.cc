#include "broker/shards.h"

#include <pthread.h>

#include "base/check.h"

namespace sluice::broker {

Shards::Shards(unsigned count, uv_loop_t* main_loop, storage::Store& store,
               const std::string& node_name, size_t message_bytes_max,
               const Journal::Failed& failed) {
  CHECK(count >= 1 && count <= kShardsMax);
  // All of them are known to the mailroom before one of them can write.
  for (unsigned number = 0; number < count; ++number) {
    auto member = std::make_unique<Member>();
    member->loop = number == 0 ? main_loop : &member->own_loop;
    if (number > 0) CHECK(uv_loop_init(member->loop) == 0);
    member->wakeup =
        std::make_unique<net::Wakeup>(member->loop, [this, number] { mailroom_.work(number); });
    mailroom_.add([wakeup = member->wakeup.get()] { wakeup->send(); });
    members_.push_back(std::move(member));
  }
  for (unsigned number = 0; number < count; ++number) {
    Member& member = *members_[number];
    member.shard = std::make_unique<Shard>(member.loop, store, names_, mailroom_, number,
                                           *member.wakeup, node_name, message_bytes_max, failed);
  }
}

void Shards::post_all(const std::function<void(Shard&)>& work) {
  for (unsigned number = 0; number < count(); ++number) {
    post(number, [work, &shard = (*this)[number]] { work(shard); });
  }
}

void Shards::start() {
  for (unsigned number = 1; number < count(); ++number) {
    Member& member = *members_[number];
    member.thread = std::thread([&member] { uv_run(member.loop, UV_RUN_DEFAULT); });
    pthread_setname_np(member.thread.native_handle(), ("shard-" + std::to_string(number)).c_str());
  }
}

Expected<> Shards::listen(const std::string& host, uint16_t port) {
  auto listener = net::Listener::tcp(first().loop(), host, port, [this](int fd) {
    unsigned number = next_connection_++ % count();
    Server& server = (*this)[number].server();
    if (number == 0) {
      server.adopt(fd);
    } else {
      post(number, [&server, fd] { server.adopt(fd); });
    }
  });
  if (!listener) return std::unexpected(listener.error());
  listener_ = std::move(*listener);
  return {};
}

void Shards::stop(std::function<void()> done) {
  listener_.reset();
  auto missing = std::make_shared<unsigned>(count());
  auto ended = [this, missing, done = std::move(done)] {
    if (--*missing > 0) return;
    // What the last connections left to others to do is under way to them: before this.
    first().virtual_host().when_all_durable(done);
  };
  post_all([this, ended](Shard& shard) {
    shard.server().stop([this, ended, &shard] {
      shard.virtual_host().when_all_durable([this, ended] { post(0, ended); });
    });
  });
}

void Shards::join() {
  for (unsigned number = 1; number < count(); ++number) {
    Member& member = *members_[number];
    post(number, [&member] { uv_stop(member.loop); });
    member.thread.join();
  }
}

size_t Shards::unwritten_bytes() const {
  size_t bytes = 0;
  for (const auto& member : members_) bytes += member->shard->journal().unwritten_bytes();
  return bytes;
}

}  // namespace sluice::broker
