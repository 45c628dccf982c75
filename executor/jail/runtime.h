#pragma once

// What the C and C++ libraries put off until it is needed, done while files can still be opened.
namespace sluice::executor::jail {

// Starts a thread and waits for its end. To be called with one thread only, before the filter.
void prepare_runtime();

}  // namespace sluice::executor::jail
