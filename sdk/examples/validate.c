// Checks the orders of a batch: a line "ORDER AMOUNT CURRENCY" each, such as "A-1007 12.50 EUR". A
// good one becomes a line of JSON, its result; a bad one fails alone and is dead-lettered in the
// end, with the reason. Shows records, results, failed records and a header, in C.
#include <sluice.h>
#include <stdio.h>
#include <string.h>

struct order {
  char number[32];
  char currency[4];
  unsigned long units;
  unsigned cents;
};

// NULL, or what is wrong with the line.
static const char* parse(sluice_bytes line, struct order* order) {
  char text[128];
  if (line.size >= sizeof text) return "it is longer than 127 bytes";
  memcpy(text, line.data, line.size);
  text[line.size] = '\0';
  int end = 0;
  const int fields = sscanf(text, "%31[A-Z0-9-] %9lu.%2u %3[A-Z] %n", order->number, &order->units,
                            &order->cents, order->currency, &end);
  if (fields < 1) return "it has no order number";
  if (fields < 3) return "its amount is not like 12.50";
  if (fields < 4 || strlen(order->currency) != 3) return "its currency is not three letters";
  if ((size_t)end != line.size) return "something follows the currency";
  return NULL;
}

static int handle(sluice_call* call, void* context) {
  (void)context;
  for (uint32_t i = 0; i < sluice_record_count(call); i++) {
    const sluice_record record = sluice_record_at(call, i);
    struct order order;
    const char* const problem = parse(record.body, &order);
    if (problem != NULL) {
      sluice_fail_record(call, i, "%s", problem);
      sluice_header shop;
      if (sluice_find_header(&record, "shop", &shop) && shop.kind == SLUICE_TEXT) {
        sluice_log(call, SLUICE_WARNING, "a bad order from %.*s, attempt %u", (int)shop.bytes.size,
                   shop.bytes.data, record.attempt);
      }
      continue;
    }
    char json[128];
    const int size =
        snprintf(json, sizeof json, "{\"order\":\"%s\",\"cents\":%lu,\"currency\":\"%s\"}\n",
                 order.number, order.units * 100 + order.cents, order.currency);
    sluice_result(call, i, json, (size_t)size);
  }
  return 0;
}

int main(void) { return sluice_run(handle, NULL); }
