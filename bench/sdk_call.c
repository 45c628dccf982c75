// A function of the SDK that does as good as nothing: it writes to argv[1] pages and succeeds.
#include <sluice.h>
#include <stdlib.h>

static volatile unsigned char pages[1024][4096];

static int handle(sluice_call* call, void* context) {
  (void)call;
  const int count = *(const int*)context;
  for (int i = 0; i < count; i++) pages[i][0]++;
  return 0;
}

int main(int argc, char** argv) {
  int count = argc > 1 ? atoi(argv[1]) : 0;
  if (count < 0 || count > 1024) return 2;
  return sluice_run(handle, &count);
}
