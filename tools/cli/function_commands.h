#pragma once

#include <CLI/CLI.hpp>

#include "tools/cli/admin.h"
#include "tools/cli/context.h"

// The larger ones of the commands under `sluice function`, each in a file of its own.
namespace sluice::cli {

void add_deploy_command(CLI::App& group, Context& context);
void add_invoke_command(CLI::App& group, Context& context);

// One function for people: what it is, its limits, what its sandboxes do, a line a figure.
void print_function(const Json& function);

}  // namespace sluice::cli
