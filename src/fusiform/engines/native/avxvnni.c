#include "native.h"
static int usable(void) { return 0; }
const struct kernels fusiform_avxvnni = {.name = "avx-vnni", .usable = usable};
