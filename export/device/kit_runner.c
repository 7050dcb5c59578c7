/* Runs a .tflite file with LiteRT's shared library on a device: every run's time, and the output's bytes.
 *
 *   kit_runner LIBRARY MODEL [--threads N] [--warmup N] [--runs N] [--min-seconds S] [--seed N] [--kernels xnnpack|builtin]
 *              [--input FILE --output FILE] [--thermal FILE]
 *
 * Prints one "name value" on each line, times in microseconds; the last line is "done". With --input, the file holds one or more
 * input tensors, and their outputs go to --output; nothing is timed then. The library is opened at run time, so this program needs
 * nothing but the C library. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The parts of LiteRT's C interface that are used here; handles are opaque, statuses are 0 for success. */
typedef int Status;
typedef void *Handle;
enum { CPU = 1, LOCK_READ = 0, LOCK_WRITE = 1, TENSOR_TYPE_BYTES = 512, MOST_RUNS = 1000000 };

#define FUNCTIONS(X)                                                                                     \
    X(CreateEnvironment, Status, (int, const void *, Handle *))                                          \
    X(CreateModelFromFile, Status, (Handle, const char *, Handle *))                                     \
    X(CreateOptions, Status, (Handle *))                                                                 \
    X(SetOptionsHardwareAccelerators, Status, (Handle, int))                                             \
    X(CreateOpaqueOptions, Status, (const char *, void *, void (*)(void *), Handle *))                   \
    X(AddOpaqueOptions, Status, (Handle, Handle))                                                        \
    X(CreateCompiledModel, Status, (Handle, Handle, Handle, Handle *))                                   \
    X(CompiledModelIsFullyAccelerated, Status, (Handle, bool *))                                         \
    X(GetModelSignature, Status, (Handle, size_t, Handle *))                                             \
    X(GetNumSignatureInputs, Status, (Handle, size_t *))                                                 \
    X(GetNumSignatureOutputs, Status, (Handle, size_t *))                                                \
    X(GetSignatureInputTensorByIndex, Status, (Handle, size_t, Handle *))                                \
    X(GetSignatureOutputTensorByIndex, Status, (Handle, size_t, Handle *))                               \
    X(GetRankedTensorType, Status, (Handle, void *))                                                     \
    X(GetCompiledModelInputBufferRequirements, Status, (Handle, size_t, size_t, Handle *))               \
    X(GetCompiledModelOutputBufferRequirements, Status, (Handle, size_t, size_t, Handle *))              \
    X(CreateManagedTensorBufferFromRequirements, Status, (Handle, const void *, Handle, Handle *))       \
    X(GetTensorBufferPackedSize, Status, (Handle, size_t *))                                             \
    X(LockTensorBuffer, Status, (Handle, void **, int))                                                  \
    X(UnlockTensorBuffer, Status, (Handle))                                                              \
    X(RunCompiledModel, Status, (Handle, size_t, size_t, Handle *, size_t, Handle *))

#define DECLARE(name, result, arguments) static result(*name) arguments;
FUNCTIONS(DECLARE)

static void fail(const char *what, const char *detail) {
    fflush(stdout);
    fprintf(stderr, "error: %s%s%s\n", what, detail ? ": " : "", detail ? detail : "");
    exit(1);
}

static void check(Status status, const char *what) {
    char number[16];
    if (status == 0) return;
    snprintf(number, sizeof number, "status %d", status);
    fail(what, number);
}

static void *symbol(void *library, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "LiteRt%s", name);
    void *found = dlsym(library, full);
    if (!found) fail("the library lacks the function", full);
    return found;
}

static void open_library(const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library) fail("the library cannot be opened", dlerror());
#define FIND(name, result, arguments) name = (result(*) arguments)symbol(library, #name);
    FUNCTIONS(FIND)
}

static double now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e6 * (double)time.tv_sec + 1e-3 * (double)time.tv_nsec;
}

static long peak_kb(void) {
    char line[256];
    long found = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld", &found) == 1) break;
    if (file) fclose(file);
    return found;
}

static void print_temperature(const char *zone) {
    long value;
    FILE *file = zone ? fopen(zone, "r") : NULL;
    if (file && fscanf(file, "%ld", &value) == 1) printf("temperature %ld\n", value);
    if (file) fclose(file);
}

static Handle environment, model, compiled, signature, input, output;
static size_t input_bytes, output_bytes;

static Handle buffer(bool for_input) {
    char type[TENSOR_TYPE_BYTES];
    Handle tensor, requirements, made;
    memset(type, 0, sizeof type);
    check(for_input ? GetSignatureInputTensorByIndex(signature, 0, &tensor) : GetSignatureOutputTensorByIndex(signature, 0, &tensor),
          "the model's tensor cannot be found");
    check(GetRankedTensorType(tensor, type), "the model's tensor has no shape");
    check(for_input ? GetCompiledModelInputBufferRequirements(compiled, 0, 0, &requirements)
                    : GetCompiledModelOutputBufferRequirements(compiled, 0, 0, &requirements),
          "the model's buffers are not known");
    check(CreateManagedTensorBufferFromRequirements(environment, type, requirements, &made), "no memory for a tensor");
    return made;
}

static void keep(void *memory) { (void)memory; }

static void load(const char *path, int threads, const char *kernels) {
    static char settings[128];
    Handle options, cpu;
    size_t inputs = 0, outputs = 0;
    check(CreateEnvironment(0, NULL, &environment), "the runtime cannot be set up");
    check(CreateModelFromFile(environment, path, &model), "the model cannot be loaded");
    check(CreateOptions(&options), "no options");
    check(SetOptionsHardwareAccelerators(options, CPU), "the CPU cannot be chosen");
    snprintf(settings, sizeof settings, "kernel_mode = \"%s\"\nnum_threads = %d\n", kernels, threads);
    check(CreateOpaqueOptions("xnnpack", settings, keep, &cpu), "no options for the CPU");
    check(AddOpaqueOptions(options, cpu), "the options for the CPU are refused");
    check(CreateCompiledModel(environment, model, options, &compiled), "the model cannot be prepared");
    check(GetModelSignature(model, 0, &signature), "the model has no signature");
    check(GetNumSignatureInputs(signature, &inputs), "the model's inputs");
    check(GetNumSignatureOutputs(signature, &outputs), "the model's outputs");
    if (inputs != 1 || outputs != 1) fail("a model with one input and one output is needed", NULL);
    input = buffer(true);
    output = buffer(false);
    check(GetTensorBufferPackedSize(input, &input_bytes), "the input's size");
    check(GetTensorBufferPackedSize(output, &output_bytes), "the output's size");
}

static void give(const void *bytes) {
    void *memory;
    check(LockTensorBuffer(input, &memory, LOCK_WRITE), "the input cannot be written");
    memcpy(memory, bytes, input_bytes);
    check(UnlockTensorBuffer(input), "the input cannot be written");
}

static void invoke(void) { check(RunCompiledModel(compiled, 0, 1, &input, 1, &output), "the model failed to run"); }

static void fill_random(unsigned long seed) {
    unsigned char *bytes = malloc(input_bytes);
    uint64_t state = seed * 2654435761u + 88172645463325252u;
    if (!bytes) fail("no memory for the input", NULL);
    for (size_t i = 0; i < input_bytes; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        /* The same byte in all places of a float32 would be a huge number; a small exponent keeps it a pixel. */
        bytes[i] = (unsigned char)(state >> 24);
    }
    give(bytes);
    free(bytes);
}

static void run_inputs(const char *from, const char *to) {
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    unsigned char *bytes = malloc(input_bytes);
    size_t got, count = 0;
    void *memory;
    if (!in) fail("the input file cannot be read", from);
    if (!out || !bytes) fail("the output file cannot be written", to);
    while ((got = fread(bytes, 1, input_bytes, in)) > 0) {
        if (got != input_bytes) fail("the input file is no whole number of tensors", from);
        give(bytes);
        invoke();
        check(LockTensorBuffer(output, &memory, LOCK_READ), "the output cannot be read");
        if (fwrite(memory, 1, output_bytes, out) != output_bytes) fail("the output file cannot be written", to);
        check(UnlockTensorBuffer(output), "the output cannot be read");
        count++;
    }
    if (fclose(out)) fail("the output file cannot be written", to);
    printf("outputs %zu\n", count);
}

static void measure(long runs, double seconds, long warmup, const char *zone) {
    double *times = malloc(sizeof(double) * MOST_RUNS), spent = 0;
    long done = 0;
    if (!times) fail("no memory for the times", NULL);
    for (long i = 0; i < warmup; i++) invoke();
    print_temperature(zone);
    while ((done < runs || spent < 1e6 * seconds) && done < MOST_RUNS) {
        double began = now_us();
        invoke();
        times[done] = now_us() - began;
        spent += times[done++];
    }
    print_temperature(zone);
    printf("us");
    for (long i = 0; i < done; i++) printf(" %.1f", times[i]);
    printf("\n");
}

static const char *option(int count, char **words, const char *name, const char *otherwise) {
    for (int i = 3; i + 1 < count; i += 2)
        if (!strcmp(words[i], name)) return words[i + 1];
    return otherwise;
}

int main(int count, char **words) {
    bool full = false;
    double began = now_us(), loaded, first;
    if (count < 3 || count % 2 == 0) fail("usage: kit_runner LIBRARY MODEL [--NAME VALUE]...", NULL);
    printf("kit_runner 1\n");
    open_library(words[1]);
    began = now_us();
    load(words[2], atoi(option(count, words, "--threads", "1")), option(count, words, "--kernels", "xnnpack"));
    loaded = now_us();
    printf("init_us %.1f\ninput_bytes %zu\noutput_bytes %zu\n", loaded - began, input_bytes, output_bytes);
    check(CompiledModelIsFullyAccelerated(compiled, &full), "the delegate's part is not known");
    printf("fully_delegated %d\n", full);
    if (option(count, words, "--input", NULL)) {
        run_inputs(option(count, words, "--input", NULL), option(count, words, "--output", "output.bin"));
    } else {
        fill_random(strtoul(option(count, words, "--seed", "0"), NULL, 10));
        first = now_us();
        invoke();
        printf("first_us %.1f\n", now_us() - first);
        measure(atol(option(count, words, "--runs", "50")), atof(option(count, words, "--min-seconds", "0")),
                atol(option(count, words, "--warmup", "10")), option(count, words, "--thermal", NULL));
    }
    printf("peak_kb %ld\ndone\n", peak_kb());
    return 0;
}
