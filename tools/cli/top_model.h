#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/cli/admin.h"

// What `sluice top` shows, apart from how it is fetched and drawn. Pure functions.
namespace sluice::cli {

// The broker's answers at one time.
struct TopSample {
  int64_t time_us = 0;  // of any steady clock
  Json overview;
  Json queues;
  Json functions;
  Json subscriptions;
};

// One object with the figures of now, and of the time between the two samples: rates a second,
// means a call. What can not be told (no calls, a broker that does not say, an object that was not
// there before) is null. Lists begin with what does most.
Json top_figures(const TopSample& before, const TopSample& now);

// The figures as lines of a screen, none longer than `columns`; at most `rows` of them, 0 for as
// many as there are. Nothing in them steers a terminal.
std::vector<std::string> top_lines(const Json& figures, size_t rows, size_t columns);

}  // namespace sluice::cli
