/* What the two AMQP clients share: the connection, and confirms. */
#pragma once

#include <amqp.h>

#include "load.h"

enum { kChannel = 1, kFrameSizeMax = 131072 };

/* Logged in as guest, with channel kChannel open. */
amqp_connection_state_t amqp_session_open(void);
/* Waits for close-ok, so everything that was sent before has been read by the broker. */
void amqp_session_close(amqp_connection_state_t connection);
/* Fails unless the last call on the connection was answered. `what` names it. */
void amqp_session_check(amqp_connection_state_t connection, const char* what);
/* A basic.ack to a publisher: one delivery tag, or with `multiple` all up to it. `all_up_to`, which
 * starts at 0, is how many messages have been looked at for the latter. */
void amqp_confirm(struct publisher* publisher, uint64_t* all_up_to, uint64_t tag, int multiple);
/* Sleeps until the socket is readable or the time has come; returns whether it is readable. */
int amqp_session_readable(amqp_connection_state_t connection, int64_t until_ns);
