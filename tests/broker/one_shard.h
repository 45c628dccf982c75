#pragma once

#include "broker/routing/virtual_host.h"

namespace sluice::broker {

// The virtual host of a broker with one shard, on a test's own journal.
class OneShard {
 public:
  OneShard(storage::Store& store, Journal& journal, ResidentSet& resident, Bodies& bodies)
      : courier_(mailroom_, mailroom_.add([] {})),
        host(names_, store, journal, resident, bodies, courier_) {}

 private:
  Mailroom mailroom_;
  Courier courier_;
  Names names_{"/"};

 public:
  VirtualHost host;
};

}  // namespace sluice::broker
