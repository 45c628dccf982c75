#pragma once

#include "broker/amqp/error.h"
#include "broker/amqp/table.h"

namespace sluice::broker {

// Whether a queue may be declared with these arguments. What would change its behaviour and is not
// built is refused rather than ignored; arguments that are not known are kept and have no effect,
// as in RabbitMQ.
amqp::Outcome<> check_queue_arguments(const amqp::Table& arguments);

}  // namespace sluice::broker
