#pragma once

#include <amqp.h>

#include "tools/cli/admin.h"

namespace sluice::cli {

// A message in the form of broker/admin/API.md, so that consume and peek print the same object.
Json message_json(std::string_view exchange, std::string_view routing_key, bool redelivered,
                  const amqp_message_t& message);

// A field table (AMQP 0-9-1 section 4.2.5.5). Byte arrays and text that is not UTF-8 become base64.
Json table_json(const amqp_table_t& table);

}  // namespace sluice::cli
