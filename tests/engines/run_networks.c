// Runs networks that Python wrote from its memory (test_neon.py), on a processor that has no Python: in an emulator.
//
// run_networks              prints the names of the kernels that the processor has
// run_networks NAME FILE... with those of one set: the answers and features of each file's pictures to FILE.out
#include "native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const char *fusiform_native_kernels(int index);
int fusiform_native_run(const struct fusiform_network *, const uint8_t *, int64_t, float *, int64_t, float *, int64_t,
                        int64_t);

// A part of Python's memory, and where it lies here: at the end of a page, and nothing may be read behind it.
struct region {
    uint64_t first, size;
    char *here, *pages;
    size_t length;
};
static struct region *regions;
static int64_t count;

static void need(int fine, const char *what) {
    if (!fine) fprintf(stderr, "%s\n", what), exit(1);
}

static void read_all(void *to, size_t bytes, FILE *file) { need(fread(to, 1, bytes, file) == bytes, "cut short"); }

static void place(struct region *r) {
    const size_t page = 65536;
    r->length = (r->size + page - 1) / page * page + page;
    r->pages = mmap(NULL, r->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(r->pages != MAP_FAILED && !mprotect(r->pages + r->length - page, page, PROT_NONE), "no memory");
    r->here = r->pages + r->length - page - r->size;
}

static void move(void *pointer) {
    uint64_t at;
    memcpy(&at, pointer, sizeof at);
    if (!at) return;
    for (int64_t k = 0; k < count; k++)
        if (at >= regions[k].first && at < regions[k].first + regions[k].size) {
            char *moved = regions[k].here + (at - regions[k].first);
            memcpy(pointer, &moved, sizeof moved);
            return;
        }
    need(0, "a pointer to nowhere");
}

static void run(int kernels, const char *name) {
    FILE *file = fopen(name, "rb");
    int64_t sizes[5];  // parts of memory, pictures, and of all: bytes of pixels, answers, features
    need(file != NULL, name);
    read_all(sizes, sizeof sizes, file);
    count = sizes[0];
    regions = calloc((size_t)count, sizeof *regions);
    for (int64_t k = 0; k < count; k++) {
        read_all(&regions[k], 16, file);
        place(&regions[k]);
        read_all(regions[k].here, regions[k].size, file);
    }
    uint8_t *pixels = malloc((size_t)sizes[2]);
    read_all(pixels, (size_t)sizes[2], file);
    fclose(file);
    struct fusiform_network *n = (struct fusiform_network *)regions[0].here;
    for (char *pointer = (char *)n; pointer < (char *)&n->layers; pointer += sizeof(void *)) move(pointer);
    n->kernels = kernels;
    for (int i = 0; i < n->layers; i++) {
        struct fusiform_layer *l = (struct fusiform_layer *)&n->layer[i];
        move(&l->weights), move(&l->biases), move(&l->scales), move(&l->map);
    }
    float *answers = malloc(4 * (size_t)(sizes[3] + sizes[4])), *features = answers + sizes[3];
    need(!fusiform_native_run(n, pixels, sizes[2], answers, sizes[3], features, sizes[4], sizes[1]), "refused");
    char to[4096];
    snprintf(to, sizeof to, "%s.out", name);
    file = fopen(to, "wb");
    need(file && fwrite(answers, 4, (size_t)(sizes[3] + sizes[4]), file) == (size_t)(sizes[3] + sizes[4]), to);
    fclose(file);
    for (int64_t k = 0; k < count; k++) munmap(regions[k].pages, regions[k].length);
    free(regions), free(pixels), free(answers);
}

int main(int arguments, char **argument) {
    const char *name;
    int kernels = 0;
    for (; (name = fusiform_native_kernels(kernels)); kernels++) {
        if (arguments < 2 && *name) puts(name);
        if (arguments > 1 && !strcmp(name, argument[1])) break;
    }
    need(arguments < 2 || name, "this processor lacks them");
    for (int k = 2; k < arguments; k++) run(kernels, argument[k]);
    return 0;
}
