#pragma once

#include <cstdint>
#include <string>

#include <flatbuffers/flatbuffers.h>

#include "executor/contract/backend.h"
#include "executor/pool/stats.h"
#include "schemas/executor_generated.h"

// Between the tables of schemas/executor.fbs and the executor's own types.
namespace sluice::executor {

Limits limits_of(const schema::Limits& limits);
// Borrows from `load`.
Program program_of(const schema::Load& load);

flatbuffers::DetachedBuffer hello_frame(const std::string& backend, const std::string& unavailable,
                                        uint32_t workers);
// `image` is null where it failed; `message` is a warning otherwise.
flatbuffers::DetachedBuffer loaded_frame(uint64_t function, const Image* image, Outcome outcome,
                                         const std::string& message, uint64_t load_us);
flatbuffers::DetachedBuffer result_frame(uint64_t call, const CallResult& result);
flatbuffers::DetachedBuffer stats_frame(const PoolStats& stats);

}  // namespace sluice::executor
