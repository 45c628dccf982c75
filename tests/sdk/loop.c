// A loop of its own in C, for handlers_test.py: it makes each mistake that one can make, and ends
// with the number of the line where the library did not do what its header says.
#include <sluice.h>
#include <stdio.h>
#include <string.h>

#define EXPECT(what)                                     \
  do {                                                   \
    if (!(what)) {                                       \
      fprintf(stderr, "line %d: %s\n", __LINE__, #what); \
      return 1;                                          \
    }                                                    \
  } while (0)

int main(void) {
  EXPECT(strcmp(sluice_error(), "") == 0);
  EXPECT(sluice_reserve(1 << 20, 1 << 20) == 0);
  EXPECT(sluice_reserve(0, 0) == 0);
  EXPECT(sluice_reserve((size_t)1 << 62, 0) == -1);
  EXPECT(strstr(sluice_error(), "memory") != NULL);
  sluice_call* call = NULL;
  EXPECT(sluice_next(&call) == 1);
  const sluice_record none = sluice_record_at(call, 1);
  sluice_header header;
  size_t position = 0;
  EXPECT(none.body.data == NULL && none.attempt == 0);
  EXPECT(!sluice_next_header(&none, &position, &header));
  EXPECT(!sluice_find_header(&none, "", &header));
  position = SIZE_MAX;
  const sluice_record record = sluice_record_at(call, 0);
  EXPECT(!sluice_next_header(&record, &position, &header));
  EXPECT(sluice_remaining_ms(call) == 0);
  EXPECT(sluice_result(call, SLUICE_WHOLE, NULL, 0) == 0);
  EXPECT(sluice_answer(call) == 0);
  EXPECT(sluice_next(&call) == 1);
  sluice_call* other = NULL;
  EXPECT(sluice_next(&other) == -1);
  EXPECT(strstr(sluice_error(), "not been answered") != NULL);
  EXPECT(sluice_answer(call) == -1);
  EXPECT(sluice_next(&call) == -1);
  return 0;
}
